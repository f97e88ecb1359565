"""What shared windows of cells save and cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from histoloom.embeddings.cards import Features
from histoloom.embeddings.tokens import share_windows


def cosine(one: Features, other: Features) -> npt.NDArray[np.float64]:
    """Return the cosine of each row of two embeddings of the same cells."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return np.asarray((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)))


def trade_off(cells: npt.ArrayLike, exact: Features, shared: Mapping[float, Features]) -> list[dict[str, float]]:
    """Return what sharing saves and costs, by stride.

    Parameters
    ----------
    cells
        (n, 2), nuclei, in the unit of the strides.
    exact
        Features of mode exact.
    shared
        Stride -> features of mode shared, same cells.

    Returns
    -------
    list of dict
        stride, forwards_share (windows over cells), cosine_median, cosine_p05.
    """
    rows: list[dict[str, float]] = []
    n = len(np.asarray(cells))
    for stride, features in shared.items():
        near = cosine(exact, features)
        rows.append(
            {
                "stride": float(stride),
                "forwards_share": len(share_windows(cells, stride).centres) / n,
                "cosine_median": float(np.median(near)),
                "cosine_p05": float(np.quantile(near, 0.05)),
            }
        )
    return rows


def cells_from_tokens(tokens: Features, block: npt.NDArray[np.int64]) -> Features:
    """Average each cell's tokens: (n, tokens, dim) and (n, k) -> (n, dim)."""
    picked = np.take_along_axis(tokens, block[:, :, None], axis=1)
    return np.asarray(picked.mean(axis=1, dtype=np.float64), np.float32)
