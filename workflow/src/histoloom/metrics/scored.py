"""What is scored: predictions beside what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from histoloom.metrics.correlation import Floats


@dataclass(frozen=True)
class Scored:
    """Predictions of held-out observations beside what they are compared with.

    Attributes
    ----------
    obs
        fold, cohort, sample, patient, obs_id, badge and, where known, array_row, array_col, pitch_um; one row per
        prediction.
    types
        Cell types, the columns of all matrices.
    prediction
        (n, types) mean over training seeds.
    seeds
        Prediction by training seed; empty where there is only one.
    reference
        (n, types) by what is compared with: "labels", and "truth" where there is planted truth.
    metadata
        Of the predictions.
    """

    obs: pd.DataFrame
    types: list[str]
    prediction: Floats
    seeds: Mapping[int, Floats]
    reference: Mapping[str, Floats]
    metadata: Mapping[str, Any]
