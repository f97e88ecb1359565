"""The target artefact as the stages to its right read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Attributes
    ----------
    obs
        One row per observation: cohort, sample, patient, obs_id, array_row, array_col, x, y (level-0
        px), pitch_um, qc_flag, low_umi and,
        where annotated, region; index ``cohort/sample/obs_id``.
    values
        (n_obs, n_types) float64.
    truth
        Ground truth, aligned with ``values`` (NaN where it lacks a type or an observation), or None.
    types
        Cell types in the order of the columns.
    spatial
        (n_obs, 2) centres (x, y), level-0 px.
    metadata
        As `histoloom.targets.build_target` wrote it.
    """

    obs: pd.DataFrame
    values: np.ndarray
    truth: np.ndarray | None
    types: list[str]
    spatial: np.ndarray
    metadata: Mapping[str, Any]


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a copy whose categorical columns are plain strings again."""
    frame = frame.copy()
    for name in frame.columns:
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            frame[name] = frame[name].astype(str)
    frame.index = frame.index.astype(str)
    return frame


def read_target(path: str | Path) -> Target:
    """Read a target artefact.

    Parameters
    ----------
    path
        ``targets/{experiment}/target.h5ad``.
    """
    import anndata

    data = anndata.read_h5ad(path)
    truth = np.asarray(data.layers["truth"], dtype=np.float64) if "truth" in data.layers else None
    return Target(
        obs=plain(data.obs),
        values=np.asarray(data.X, dtype=np.float64),
        truth=truth,
        types=[str(name) for name in data.var_names],
        spatial=np.asarray(data.obsm["spatial"], dtype=np.float64),
        metadata=read_metadata(path),
    )
