"""Standardising columns: zero mean, unit variance (decomposition paper, section 2.2), on stated observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from histoloom.inputs.base import Inputs

Float32 = npt.NDArray[np.float32]
_CONSTANT = 1e-7


@dataclass(frozen=True)
class Scaler:
    """(D,) float32 ``mean`` and ``scale``."""

    mean: Float32
    scale: Float32

    def __call__(self, features: Float32) -> Float32:
        return (features - self.mean) / self.scale


def moments(values: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation per column, in float64; 1 for a column that does not vary.

    scikit-learn's StandardScaler squares float32 differences, which is too coarse for our tests of equality.
    """
    mean = values.mean(axis=0, dtype=np.float64)
    # In blocks of columns, so that a large matrix is not copied whole to float64.
    starts = range(0, max(values.shape[1], 1), 256)
    scale = np.concatenate([values[:, i : i + 256].astype(np.float64).std(axis=0) for i in starts])
    # A constant column of float32 may show a spread of rounding size.
    scale[scale <= _CONSTANT * np.maximum(np.abs(mean), 1e-30)] = 1.0
    return mean, scale


def fit_scaler_of(inputs: Inputs, active: bool = True, block: int = 8192) -> Scaler:
    """Return what `fit_scaler` would for all features of inputs, of which one block is in memory at a time."""
    width = sum(inputs.feature_widths())
    if not active:
        return fit_scaler(np.empty((0, width), np.float32), active=False)
    mean, square = np.zeros(width), np.zeros(width)
    for rows in inputs.blocks(block):
        mean += inputs.features(rows).sum(axis=0, dtype=np.float64)
    mean /= len(inputs)
    for rows in inputs.blocks(block):
        square += ((inputs.features(rows) - mean) ** 2).sum(axis=0)
    scale = np.sqrt(square / len(inputs))
    scale[scale <= _CONSTANT * np.maximum(np.abs(mean), 1e-30)] = 1.0
    return Scaler(mean.astype(np.float32), scale.astype(np.float32))


def fit_scaler(features: Float32, active: bool = True) -> Scaler:
    """Return a scaler fitted on the given rows, or one that changes nothing."""
    if not active:
        width = features.shape[1]
        return Scaler(np.zeros(width, np.float32), np.ones(width, np.float32))
    mean, scale = moments(features)
    return Scaler(mean.astype(np.float32), scale.astype(np.float32))
