"""Pearson correlation by column and by row; undefined where something is constant."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_RELATIVE_NOISE = 1e-12
"""A column whose range is below this share of its size is constant: means of equal numbers differ by rounding."""


def is_constant(values: Floats, axis: int = 0) -> npt.NDArray[np.bool_]:
    """Say which columns (axis 0) or rows (axis 1) do not vary beyond rounding; NaN are ignored.

    Parameters
    ----------
    values
        (n, m).

    Returns
    -------
    ndarray
        bool; True also where fewer than two values are not NaN.
    """
    if values.shape[axis] == 0:
        return np.ones(values.shape[1 - axis], dtype=bool)
    finite = np.isfinite(values)
    if finite.all():
        low, high = values.min(axis=axis), values.max(axis=axis)
        return ~(high - low > _RELATIVE_NOISE * np.maximum(np.abs(low), np.abs(high)))
    low = np.where(finite, values, np.inf).min(axis=axis)
    high = np.where(finite, values, -np.inf).max(axis=axis)
    size = np.maximum(np.abs(low), np.abs(high))
    enough = finite.sum(axis=axis) >= 2
    with np.errstate(invalid="ignore"):
        return ~enough | ~(high - low > _RELATIVE_NOISE * size)


def column_correlation(x: Floats, y: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Correlate the columns of two matrices pair by pair.

    Parameters
    ----------
    x, y
        (n, m) of the same shape. An observation where either is NaN is left out of its column.

    Returns
    -------
    r
        (m,) Pearson's r; NaN where a column is constant or has fewer than two observations.
    n
        (m,) observations used.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    valid = np.isfinite(x) & np.isfinite(y)
    n = valid.sum(axis=0)
    x, y = np.where(valid, x, np.nan), np.where(valid, y, np.nan)
    undefined = is_constant(x) | is_constant(y)
    count = np.maximum(n, 1)
    dx = np.where(valid, x, 0.0)
    dy = np.where(valid, y, 0.0)
    dx = np.where(valid, dx - dx.sum(axis=0) / count, 0.0)
    dy = np.where(valid, dy - dy.sum(axis=0) / count, 0.0)
    r = np.full(x.shape[1], np.nan)
    # Each column is scaled before squaring: abundances of 1e-170 are legal and their squares are not.
    sx, sy = (np.maximum(np.abs(d).max(axis=0, initial=0.0), np.finfo(float).tiny) for d in (dx, dy))
    dx, dy = dx / sx, dy / sy
    norm = np.sqrt((dx**2).sum(axis=0) * (dy**2).sum(axis=0))
    np.divide((dx * dy).sum(axis=0), norm, out=r, where=~undefined & (norm > 0))
    return np.clip(r, -1.0, 1.0), n


def row_correlation(x: Floats, y: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Correlate the rows of two matrices pair by pair: across types within a spot; see `column_correlation`."""
    return column_correlation(np.asarray(x).T, np.asarray(y).T)


def cross_correlation(x: Floats, y: Floats) -> Floats:
    """Correlate every column of one matrix with every column of another.

    Parameters
    ----------
    x
        (n, a), without NaN.
    y
        (n, b), without NaN.

    Returns
    -------
    ndarray
        (a, b) Pearson's r; NaN in the rows and columns of constant columns.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    standard = []
    for values in (x, y):
        scale = values.std(axis=0) if len(values) else np.full(values.shape[1], np.nan)
        scale = np.where(is_constant(values) | (scale == 0), np.nan, scale)
        centre = values.mean(axis=0) if len(values) else 0.0
        standard.append((values - centre) / scale)
    return np.clip(standard[0].T @ standard[1] / max(len(x), 1), -1.0, 1.0)
