"""The text keys that name a section and an observation across cohorts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

Names = str | pd.Series | pd.Index | npt.NDArray[np.object_]


def obs_keys(*names: Names) -> pd.Index:
    """Join columns of names (or one text for all rows) to one key per row, such as ``cohort/sample/obs_id``."""
    columns = [name if isinstance(name, str) else np.asarray(name).astype(str).astype(object) for name in names]
    joined = columns[0]
    for column in columns[1:]:
        joined = joined + "/" + column
    return pd.Index([joined] if isinstance(joined, str) else joined, dtype=object)


def section_keys(obs: pd.DataFrame) -> pd.Index:
    """Return ``cohort/sample`` of each row."""
    return obs_keys(obs["cohort"], obs["sample"])


def observation_keys(obs: pd.DataFrame) -> pd.Index:
    """Return ``cohort/sample/obs_id`` of each row."""
    return obs_keys(obs["cohort"], obs["sample"], obs["obs_id"])
