"""Statistics that several stages share: Pearson correlation by column, by row and across, means of defined values.

A correlation is undefined (NaN) where one side is constant. A *score* of predictions is stricter, see `score_columns`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_RELATIVE_NOISE = 1e-12
"""A column whose range is below this share of its size is constant: means of equal numbers differ by rounding."""


def is_constant(values: npt.NDArray[np.floating], axis: int = 0) -> npt.NDArray[np.bool_]:
    """Say which columns (axis 0) or rows (axis 1) do not vary beyond rounding, or have fewer than two numbers."""
    finite = np.isfinite(values)
    low = np.where(finite, values, np.inf).min(axis=axis, initial=np.inf)
    high = np.where(finite, values, -np.inf).max(axis=axis, initial=-np.inf)
    size = np.maximum(np.abs(low), np.abs(high))
    with np.errstate(invalid="ignore"):
        return (finite.sum(axis=axis) < 2) | ~(high - low > _RELATIVE_NOISE * size)


def pairwise(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Return both matrices as float64, NaN where either is not finite, and where both are finite."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    valid = np.isfinite(x) & np.isfinite(y)
    return np.where(valid, x, np.nan), np.where(valid, y, np.nan), valid


def centred(values: Floats, valid: npt.NDArray[np.bool_]) -> Floats:
    """Return the columns around the means of their valid values; 0 where a value is not valid."""
    filled = np.where(valid, values, 0.0)
    return np.where(valid, filled - filled.sum(axis=0) / np.maximum(valid.sum(axis=0), 1), 0.0)


def pearson_columns(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Correlate the columns of two (n, m) matrices pair by pair; return r and observations used, (m,).

    An observation where either is NaN is left out of its column. r is NaN where a column is constant or has fewer than
    two.
    """
    x, y, valid = pairwise(x, y)
    undefined = is_constant(x) | is_constant(y)
    dx, dy = centred(x, valid), centred(y, valid)
    # Each column is scaled before squaring: abundances of 1e-170 are legal and their squares are not.
    sx, sy = (np.maximum(np.abs(d).max(axis=0, initial=0.0), np.finfo(float).tiny) for d in (dx, dy))
    dx, dy = dx / sx, dy / sy
    norm = np.sqrt((dx**2).sum(axis=0) * (dy**2).sum(axis=0))
    r = np.full(x.shape[1], np.nan)
    np.divide((dx * dy).sum(axis=0), norm, out=r, where=~undefined & (norm > 0))
    return np.clip(r, -1.0, 1.0), valid.sum(axis=0)


def score_columns(prediction: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return `pearson_columns` as a score: a prediction that is constant where the labels vary scores 0.

    NaN is decided by the labels alone, so that every model is scored on the same columns and none rises by being
    silent on the hard ones. A column whose prediction is NaN somewhere is scored on the rest; NaN everywhere scores 0.
    """
    prediction, labels = np.asarray(prediction, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    r, n = pearson_columns(prediction, labels)
    return np.where(is_constant(labels), np.nan, np.nan_to_num(r, nan=0.0)), n


def amplitude_columns(prediction: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return what a correlation is blind to: the ratio of SDs, prediction by labels, and the slope, (m,) each.

    The slope is that of least squares of the prediction on the labels: 1 where a difference in the labels is predicted
    in full, 0 where not at all. NaN where the labels are constant.
    """
    r, _ = score_columns(prediction, labels)
    prediction, labels, valid = pairwise(prediction, labels)
    spread, wanted = ((centred(values, valid) ** 2).sum(axis=0) for values in (prediction, labels))
    spread = np.where(is_constant(prediction), 0.0, spread)
    ratio = np.full(len(r), np.nan)
    np.divide(np.sqrt(spread), np.sqrt(wanted), out=ratio, where=np.isfinite(r) & (wanted > 0))
    return ratio, r * ratio


def pearson_cross(x: npt.ArrayLike, y: npt.ArrayLike) -> Floats:
    """Correlate every column of (n, a) with every column of (n, b), without NaN: (a, b), NaN for constant columns."""
    standard = [standardise_columns(np.asarray(values, dtype=np.float64)) for values in (x, y)]
    return np.clip(standard[0].T @ standard[1] / max(len(standard[0]), 1), -1.0, 1.0)


def standardise_columns(values: Floats) -> Floats:
    """Return population z-scores of the columns; a constant column is NaN."""
    if not len(values):
        return np.asarray(values, dtype=np.float64)
    scale = values.std(axis=0)
    scale = np.where(is_constant(values) | (scale == 0), np.nan, scale)
    scores: Floats = (values - values.mean(axis=0)) / scale
    return scores


def mean_defined(values: npt.ArrayLike, axis: int | None = 0) -> Floats:
    """Return the mean over an axis of the values that are finite; NaN, without a warning, where none is."""
    values = np.asarray(values, dtype=np.float64)
    defined = np.isfinite(values)
    total, count = np.where(defined, values, 0.0).sum(axis=axis), np.asarray(defined.sum(axis=axis))
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
