"""What is scored: predictions next to what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.stats import Floats


@dataclass(frozen=True)
class Scored:
    """Predictions of held-out observations next to what they are compared with.

    Attributes
    ----------
    obs
        fold, cohort, sample, patient, obs_id, qc_flag and, where known, array_row, array_col, pitch_um; one row per
        prediction.
    types
        Cell types, the columns of all matrices.
    prediction
        (n, types) mean over training seeds.
    seeds
        Prediction by training seed; empty where there is only one.
    reference
        (n, types) by what is compared with: "labels", and "truth" where there is ground truth.
    metadata
        Of the predictions.
    """

    obs: pd.DataFrame
    types: list[str]
    prediction: Floats
    seeds: Mapping[int, Floats]
    reference: Mapping[str, Floats]
    metadata: Mapping[str, Any]


MERGED = " (merged)"
"""Marks what merged types are compared with."""


def merge_types(
    scored: Scored, means: pd.DataFrame, merge: Mapping[str, Sequence[str]], transform: str
) -> tuple[Scored, pd.DataFrame]:
    """Return the same predictions at a coarser level: types are summed, in predictions and labels alike.

    Parameters
    ----------
    scored
        Predictions and references.
    means
        Mean training target per fold (folds, types).
    merge
        New name -> names of the types that it sums. Types that are not named stay.
    transform
        Of the target; a logarithm is undone before the sum and taken again, also of means, which then are not quite
        those of merged labels.

    Returns
    -------
    scored
        References carry `MERGED` behind their names.
    means
        With the new types.

    Raises
    ------
    InputError
        If a name is no type, or named twice.
    """
    where = "experiments.<name>.merge"
    olds = [name for members in merge.values() for name in members]
    for name in olds:
        if name not in scored.types or olds.count(name) > 1:
            what = "is named twice" if name in scored.types else "is no type of the labels"
            raise InputError(where, f"'{name}' {what}.", f"use each once: {', '.join(scored.types)}.")
    groups = {**{name: [name] for name in scored.types if name not in olds}, **{k: list(v) for k, v in merge.items()}}
    if len(groups) != len(scored.types) - len(olds) + len(merge):
        raise InputError(where, "a new name is that of a type that stays.", "give the sum a name of its own.")
    types = sorted(groups)

    def summed(values: Floats) -> Floats:
        plain = np.expm1(values) if transform == "log1p" else values
        found: Floats = np.column_stack(
            [plain[:, [scored.types.index(name) for name in groups[new]]].sum(axis=1) for new in types]
        )
        return np.log1p(np.maximum(found, 0.0)) if transform == "log1p" else found

    made = replace(
        scored,
        types=types,
        prediction=summed(scored.prediction),
        seeds={seed: summed(values) for seed, values in scored.seeds.items()},
        reference={name + MERGED: summed(values) for name, values in scored.reference.items()},
    )
    return made, pd.DataFrame(summed(means.to_numpy(dtype=float)), index=means.index, columns=types)
