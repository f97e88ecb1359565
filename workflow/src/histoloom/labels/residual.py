"""What a deconvolution leaves unexplained: by section as one correlation, by spot as an excess over chance."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Expected = Callable[[np.ndarray], np.ndarray]


def reconstruction(
    counts: csr_matrix, expected: Expected, samples: pd.Series, seed: int
) -> tuple[dict[str, float | None], np.ndarray]:
    """Compare observed counts CSR (n, G) with expected ones, which `expected` gives for row positions.

    Returns, by section, Pearson's r of log1p counts with log1p expected counts over all spots and genes (None if
    undefined), and the excess residual of each spot (n,). A spot's correlation falls with its depth even where the
    model is right. So the same number of spots is drawn from the fitted model (Poisson), and a spot's excess residual
    is r(drawn, expected) - r(observed, expected): about 0 where the model explains all but counting noise, and larger
    where tissue holds what the reference lacks. Each section has its own stream of draws, so that its numbers do not
    depend on the others.
    """
    by_section: dict[str, float | None] = {}
    excess = np.full(len(samples), np.nan)
    for sample in dict.fromkeys(samples):
        rows = np.flatnonzero((samples == sample).to_numpy())
        rng = np.random.default_rng([seed, zlib.crc32(str(sample).encode())])
        mean = np.maximum(np.asarray(expected(rows), dtype=float), 0)
        seen, fitted = np.log1p(counts[rows].toarray().astype(float)), np.log1p(mean)
        drawn = np.log1p(rng.poisson(mean).astype(float))
        excess[rows] = _row_correlation(drawn, fitted) - _row_correlation(seen, fitted)
        whole = _row_correlation(seen.reshape(1, -1), fitted.reshape(1, -1))[0]
        by_section[str(sample)] = round(float(whole), 6) if np.isfinite(whole) else None
    return by_section, excess


def _row_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a = first - first.mean(axis=1, keepdims=True)
    b = second - second.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(scale > 0, (a * b).sum(axis=1) / scale, np.nan))
