"""Which labels are enriched in which clusters of cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import false_discovery_control, hypergeom

from histoloom.folds.seeds import rng_for


def enrichment(labels: npt.ArrayLike, clusters: npt.ArrayLike, min_cells: int = 10) -> pd.DataFrame:
    """Return fold enrichment and one-sided Fisher p of every label in every cluster.

    p is 0 at 10^5 cells whatever the effect: read ``fold`` with the interval of `fold_interval`.

    Parameters
    ----------
    labels, clusters
        (n,) of each cell.
    min_cells
        Pairs with fewer cells are left out before the correction (Benjamini and Hochberg).

    Returns
    -------
    pandas.DataFrame
        cluster, label, n (cells of the label in the cluster), n_outside, expected, fold, p, q.
    """
    counts = pd.crosstab(pd.Series(np.asarray(clusters), name="cluster"), pd.Series(np.asarray(labels), name="label"))
    table = counts.reset_index().melt("cluster", var_name="label", value_name="n")
    total = int(counts.to_numpy().sum())
    size, of_label = table["cluster"].map(counts.sum(axis=1)), table["label"].map(counts.sum(axis=0))
    table["n_outside"] = size - table["n"]
    table["expected"] = size * of_label / total
    table["fold"] = table["n"] / table["expected"]
    # The upper tail of the hypergeometric distribution is Fisher's exact test, one-sided, in one vectorised call.
    table["p"] = hypergeom.sf(table["n"] - 1, total, of_label, size)
    table = table[table["n"] >= min_cells].reset_index(drop=True)
    table["q"] = false_discovery_control(table["p"]) if len(table) else []
    return table


def fold_interval(
    labels: npt.ArrayLike, clusters: npt.ArrayLike, blocks: npt.ArrayLike, n_draws: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Return 95 % intervals of fold enrichment by bootstrap over spatial blocks.

    Cells of one place resemble one another, so blocks are drawn, not cells.

    Parameters
    ----------
    labels, clusters, blocks
        (n,) of each cell.

    Returns
    -------
    pandas.DataFrame
        cluster, label, low, high.
    """
    cluster, clusters_seen = pd.factorize(np.asarray(clusters), sort=True)
    label, labels_seen = pd.factorize(np.asarray(labels), sort=True)
    block, blocks_seen = pd.factorize(np.asarray(blocks), sort=True)
    shape = (len(blocks_seen), len(clusters_seen), len(labels_seen))
    counts = np.zeros(shape)
    np.add.at(counts, (block, cluster, label), 1)
    rng = rng_for(seed, "fold_interval")
    draws = []
    for _ in range(n_draws):
        drawn = counts[rng.integers(0, len(counts), len(counts))].sum(0)
        expected = drawn.sum(1, keepdims=True) * drawn.sum(0, keepdims=True) / drawn.sum()
        draws.append(np.divide(drawn, expected, out=np.full_like(drawn, np.nan), where=expected > 0))
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    index = pd.MultiIndex.from_product([clusters_seen, labels_seen], names=["cluster", "label"])
    return pd.DataFrame({"low": low.ravel(), "high": high.ravel()}, index=index).reset_index()
