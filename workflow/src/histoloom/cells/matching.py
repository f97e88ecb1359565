"""Match cells to nuclei seen on the H&E, one to one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

Points = npt.NDArray[np.floating]
Matches = tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]


def match_greedy(cells: Points, nuclei: Points) -> Matches:
    """Match as the CellSymphony code does; the result depends on the order of cells and is not optimal.

    Each cell takes its nearest nucleus. A later cell that is closer takes it from the earlier one. Cells left without a
    nucleus then take their second nearest where it is free, in order, and never a third.

    Parameters
    ----------
    cells, nuclei
        (n, 2) and (m, 2) positions in one unit.

    Returns
    -------
    tuple
        (n,) nucleus of each cell, -1 for none, and (n,) distance, NaN for none.
    """
    distance, nearest = cKDTree(nuclei).query(cells, k=min(2, len(nuclei)))
    distance, nearest = distance.reshape(len(cells), -1), nearest.reshape(len(cells), -1)
    owner = np.full(len(nuclei), -1, dtype=np.intp)
    waiting: list[int] = []
    for cell, nucleus in enumerate(nearest[:, 0]):
        holder = owner[nucleus]
        if holder < 0 or distance[cell, 0] < distance[holder, 0]:
            if holder >= 0:
                waiting.append(int(holder))
            owner[nucleus] = cell
        else:
            waiting.append(cell)
    choice = np.full(len(cells), -1, dtype=np.intp)
    choice[owner[owner >= 0]] = 0
    for cell in waiting if nearest.shape[1] > 1 else []:
        if owner[nearest[cell, 1]] < 0:
            owner[nearest[cell, 1]], choice[cell] = cell, 1
    rows = np.arange(len(cells))
    matched = choice >= 0
    nucleus = np.where(matched, nearest[rows, choice], -1)
    return nucleus, np.where(matched, distance[rows, choice], np.nan)


def match_optimal(cells: Points, nuclei: Points, max_distance: float) -> Matches:
    """Match one to one so that as many cells as possible are matched, at the least total distance.

    One sparse assignment over all pairs within ``max_distance``: dense tissue is one group of 10^5 cells and more.

    Parameters
    ----------
    cells, nuclei
        (n, 2) and (m, 2) positions in one unit.
    max_distance
        Pairs farther apart are never matched.

    Returns
    -------
    tuple
        As of `match_greedy`.
    """
    nucleus, distance = np.full(len(cells), -1, dtype=np.intp), np.full(len(cells), np.nan)
    pairs = cKDTree(cells).sparse_distance_matrix(cKDTree(nuclei), max_distance, output_type="ndarray")
    if not len(pairs):
        return nucleus, distance
    n, m = len(cells), len(nuclei)
    own = np.arange(n)
    # Each cell may also stay alone, on a column of its own that costs more than any rearrangement of pairs can save.
    # No entry may be 0, which would be no entry: every pair costs 1 more, which changes no choice among full matchings.
    alone = max_distance * (n + 1)
    weights = csr_array(
        (
            np.concatenate([pairs["v"], np.full(n, alone)]) + 1.0,
            (np.concatenate([pairs["i"], own]), np.concatenate([pairs["j"], m + own])),
        ),
        shape=(n, m + n),
    )
    rows, columns = min_weight_full_bipartite_matching(weights)
    matched = columns < m
    nucleus[rows[matched]] = columns[matched]
    distance[rows[matched]] = np.linalg.norm(cells[rows[matched]] - nuclei[columns[matched]], axis=1)
    return nucleus, distance
