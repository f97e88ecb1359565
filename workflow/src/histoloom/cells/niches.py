"""Spatial niches: what surrounds a cell, and which classes are neighbours more often than by chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array
from scipy.spatial import Delaunay, cKDTree

from histoloom.folds.seeds import derive_seed, rng_for

Points = npt.NDArray[np.floating]


def neighbourhood_composition(positions: Points, labels: npt.ArrayLike, k: int = 20) -> pd.DataFrame:
    """Return the share of each label among the k nearest cells, the cell itself left out; (n, n_labels).

    Parameters
    ----------
    positions
        (n, 2), one tissue.
    labels
        (n,) of each cell.

    Raises
    ------
    ValueError
        If there are not more than k cells.
    """
    if len(positions) <= k:
        raise ValueError(f"{len(positions)} cells have no {k} neighbours each")
    code, names = pd.factorize(np.asarray(labels), sort=True)
    _, nearest = cKDTree(positions).query(positions, k=k + 1)
    # With cells at one place the first neighbour need not be the cell itself.
    own = nearest == np.arange(len(positions))[:, None]
    own[~own.any(axis=1), -1] = True
    neighbours = code[nearest[~own].reshape(len(positions), k)]
    shares = np.stack([(neighbours == number).mean(axis=1) for number in range(len(names))], axis=1)
    return pd.DataFrame(shares, columns=names)


def find_niches(composition: pd.DataFrame, n_niches: int = 8, seed: int = 0) -> npt.NDArray[np.intp]:
    """Return the niche of each cell (n,): k-means on the composition of its neighbourhood."""
    from sklearn.cluster import KMeans

    model = KMeans(n_niches, n_init=10, random_state=derive_seed(seed, "niches") % 2**32)
    niches: npt.NDArray[np.intp] = model.fit_predict(composition.to_numpy()).astype(np.intp)
    return niches


def contact_graph(positions: Points, max_distance: float) -> csr_array:
    """Return the (n, n) 0/1 Delaunay neighbours that are at most ``max_distance`` apart."""
    n = len(positions)
    start, ends = Delaunay(positions).vertex_neighbor_vertices
    row = np.repeat(np.arange(n), np.diff(start))
    near = np.linalg.norm(positions[row] - positions[ends], axis=1) <= max_distance
    return csr_array((np.ones(near.sum()), (row[near], ends[near])), shape=(n, n))


def neighbourhood_enrichment(
    graph: csr_array, labels: npt.ArrayLike, blocks: npt.ArrayLike, n_permutations: int = 999, seed: int = 0
) -> pd.DataFrame:
    """Compare the contacts of each pair of labels with labels permuted within blocks.

    Permuting within blocks keeps the large-scale distribution of the labels, so that a pair is not called enriched only
    because both live in one part of the tissue.

    Parameters
    ----------
    graph
        (n, n) 0/1, symmetric.
    labels, blocks
        (n,) of each cell.

    Returns
    -------
    pandas.DataFrame
        first, second, contacts, expected, z, p_more, p_fewer; p = (1 + draws at least as extreme) / (1 + draws).
    """
    code, names = pd.factorize(np.asarray(labels), sort=True)
    block, _ = pd.factorize(np.asarray(blocks))
    edges = graph.tocoo()
    width = len(names)

    def count(of: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        return np.bincount(of[edges.row] * width + of[edges.col], minlength=width**2)

    observed = count(code)
    rng = rng_for(seed, "neighbourhood_enrichment")
    by_block = np.argsort(block, kind="stable")
    drawn = np.empty((n_permutations, width**2))
    for number in range(n_permutations):
        shuffled = np.empty_like(code)
        # Sorted by block and then at random: a permutation within every block in one sort.
        shuffled[by_block] = code[np.lexsort((rng.random(len(code)), block))]
        drawn[number] = count(shuffled)
    spread = drawn.std(axis=0)
    return pd.DataFrame(
        {
            "first": np.repeat(names, width),
            "second": np.tile(names, width),
            "contacts": observed,
            "expected": drawn.mean(axis=0),
            "z": np.divide(observed - drawn.mean(axis=0), spread, out=np.full(width**2, np.nan), where=spread > 0),
            "p_more": (1 + (drawn >= observed).sum(axis=0)) / (1 + n_permutations),
            "p_fewer": (1 + (drawn <= observed).sum(axis=0)) / (1 + n_permutations),
        }
    )
