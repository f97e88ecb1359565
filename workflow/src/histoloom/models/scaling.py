"""Standardising embeddings: zero mean, unit variance (decomposition paper, section 2.2), on stated observations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from histoloom.obs_keys import section_keys


@dataclass(frozen=True)
class Scaler:
    """(D,) float32 ``mean`` and ``scale``."""

    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return scaled float32 features."""
        return (features - self.mean) / self.scale


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation per column, in float64; 1 for a column that does not vary."""
    mean = values.mean(axis=0, dtype=np.float64)
    # In blocks of columns, so that a large matrix is not copied whole to float64.
    scale = np.concatenate(
        [values[:, i : i + 256].astype(np.float64).std(axis=0) for i in range(0, max(values.shape[1], 1), 256)]
    )
    # A constant column of float32 may show a spread of rounding size.
    scale[scale <= 1e-7 * np.maximum(np.abs(mean), 1e-30)] = 1.0
    return mean, scale


def fit_scaler(features: np.ndarray, active: bool) -> Scaler:
    """Return a scaler fitted on the given rows, or one that changes nothing."""
    if not active:
        width = features.shape[1]
        return Scaler(np.zeros(width, np.float32), np.ones(width, np.float32))
    mean, scale = moments(features)
    return Scaler(mean.astype(np.float32), scale.astype(np.float32))


def standardise_groups(features: np.ndarray, obs: pd.DataFrame, standardise: str) -> np.ndarray:
    """Scale within cohorts or sections where the experiment says so; else return the features as they are.

    Both see test inputs (never test labels): predictions made with them are transductive.

    Parameters
    ----------
    features
        (n, D) float32.
    obs
        With cohort and sample.
    standardise
        ``train``, ``none`` (nothing to do here), ``per_cohort`` or ``per_section``.
    """
    if standardise not in {"per_cohort", "per_section"}:
        return features
    by = obs["cohort"] if standardise == "per_cohort" else section_keys(obs)
    out = np.empty_like(features)
    for rows in pd.Series(np.arange(len(obs))).groupby(by.to_numpy(), sort=False).indices.values():
        out[rows] = fit_scaler(features[rows], active=True)(features[rows])
    return out
