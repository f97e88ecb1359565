"""How far clusters agree with labels, in several representations, with intervals by bootstrap over spatial blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import xlogy

from histoloom.folds.seeds import rng_for

MEASURES = ("ari", "nmi", "purity")
Counts = npt.NDArray[np.float64]


def measures_of(counts: Counts) -> npt.NDArray[np.float64]:
    """Return adjusted Rand index, normalised mutual information and purity of (..., clusters, labels) counts; (..., 3).

    As scikit-learn has them, NMI over the arithmetic mean of the entropies; purity is the share of cells whose label is
    the most frequent one of their cluster, which grows with the number of clusters.
    """
    rows, columns = counts.sum(-1), counts.sum(-2)
    n = rows.sum(-1)
    pairs, by_row, by_column = _pairs(counts).sum((-2, -1)), _pairs(rows).sum(-1), _pairs(columns).sum(-1)
    expected = by_row * by_column / np.maximum(_pairs(n), 1)
    spread = (by_row + by_column) / 2 - expected
    # One cluster and one label, or only clusters of one cell: agreement is full, as scikit-learn has it.
    ari = np.divide(pairs - expected, spread, out=np.ones_like(spread), where=spread != 0)
    h_row, h_column = (np.log(n) - xlogy(c, c).sum(-1) / n for c in (rows, columns))
    joint = np.log(n) - xlogy(counts, counts).sum((-2, -1)) / n
    mean = (h_row + h_column) / 2
    nmi = np.divide(h_row + h_column - joint, mean, out=np.ones_like(mean), where=mean > 0)
    return np.stack([ari, nmi, counts.max(-1).sum(-1) / n], axis=-1)


def _pairs(counts: Counts) -> Counts:
    return counts * (counts - 1) / 2


def agreement(
    clusters: Mapping[str, npt.ArrayLike],
    labels: npt.ArrayLike,
    blocks: npt.ArrayLike,
    n_draws: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the agreement of clusters with labels per representation, and of the others minus the first.

    Blocks are drawn, not cells, and all representations share the draws, so that a difference is a paired one.

    Parameters
    ----------
    clusters
        (n,) clusters of the same cells by representation.
    labels, blocks
        (n,) of each cell.

    Returns
    -------
    pandas.DataFrame
        representation, minus ("" or the first representation), measure, value, low, high (95 %), clusters, n.
    """
    label, known = pd.factorize(np.asarray(labels), sort=True)
    block, places = pd.factorize(np.asarray(blocks), sort=True)
    rng = rng_for(seed, "agreement")
    # How often each block is drawn.
    weights = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size=n_draws).astype(float)
    values, draws, sizes = {}, {}, {}
    for name, given in clusters.items():
        code, seen = pd.factorize(np.asarray(given), sort=True)
        counts = np.zeros((len(places), len(seen), len(known)))
        np.add.at(counts, (block, code, label), 1)
        values[name], sizes[name] = measures_of(counts.sum(0)), len(seen)
        draws[name] = measures_of(np.tensordot(weights, counts, axes=1))
    first = next(iter(values))
    pairs = [(name, "") for name in values] + [(name, first) for name in values if name != first]
    rows = []
    for name, minus in pairs:
        value, drawn = values[name], draws[name]
        if minus:
            value, drawn = value - values[minus], drawn - draws[minus]
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        for at, measure in enumerate(MEASURES):
            rows.append((name, minus, measure, value[at], low[at], high[at], sizes[name], len(label)))
    columns = ["representation", "minus", "measure", "value", "low", "high", "clusters", "n"]
    return pd.DataFrame(rows, columns=columns)
