"""Match cells to nuclei seen on the H&E, one to one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
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

    Groups of cells and nuclei within ``max_distance`` of one another are solved apart, each by linear assignment.

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
    n = len(cells)
    edges = coo_array((np.ones(len(pairs)), (pairs["i"], pairs["j"] + n)), shape=(n + len(nuclei),) * 2)
    _, component = connected_components(edges, directed=False)
    order = np.argsort(component[pairs["i"]], kind="stable")
    ends = np.flatnonzero(np.diff(component[pairs["i"][order]])) + 1
    for group in np.split(pairs[order], ends):
        own, i = np.unique(group["i"], return_inverse=True)
        seen, j = np.unique(group["j"], return_inverse=True)
        # A pair too far apart costs more than any rearrangement of allowed ones can save.
        cost = np.full((len(own), len(seen)), max_distance * (len(own) + 1))
        cost[i, j] = group["v"]
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            if cost[row, column] <= max_distance:
                nucleus[own[row]], distance[own[row]] = seen[column], cost[row, column]
    return nucleus, distance
