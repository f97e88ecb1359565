"""Where array coordinates lie in um: on a square lattice, on a hexagonal one, or free.

Distances are taken here and not on estimated pixels, which carry the error of the slide's um/px.

=============  =========================================  =====================================
lattice        position, um (row, column)                 nearest neighbours
=============  =========================================  =====================================
``square``     (row, column) x pitch                      4 at one pitch
``hexagonal``  (row x sqrt(3)/2, column / 2) x pitch      6 at one pitch
``free``       the coordinates are um already (cells)     as they lie
=============  =========================================  =====================================

The hexagonal coordinates are Visium's: ``row + column`` is even, and neighbours within a row are two columns apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from histoloom.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SQUARE, HEXAGONAL, FREE = "square", "hexagonal", "free"
KINDS = (SQUARE, HEXAGONAL, FREE)
ON_THE_EDGE = 1 + 1e-9
"""A neighbour exactly at a distance belongs to it, whatever the rounding."""
MIN_HEXAGONAL = 10
"""Spots from which on one parity of ``row + column`` is no chance."""


def lattice_of(array_row: npt.ArrayLike, array_col: npt.ArrayLike) -> str:
    """Return the kind of lattice on which the array coordinates of one whole section lie.

    ``hexagonal`` when all spots have ``row + column`` of one parity, rows and columns of both (Visium's numbering);
    ``square`` otherwise, and with fewer than ten spots, where parity may be chance.
    """
    array = np.rint(np.column_stack([np.asarray(v, dtype=np.float64) for v in (array_row, array_col)]))
    array = array[np.isfinite(array).all(axis=1)]
    if len(array) < MIN_HEXAGONAL:
        return SQUARE
    one_parity = np.unique(array.sum(axis=1) % 2).size == 1
    return HEXAGONAL if one_parity and all(np.unique(axis % 2).size == 2 for axis in array.T) else SQUARE


def positions_um(
    array_row: npt.ArrayLike, array_col: npt.ArrayLike, pitch_um: float, kind: str | None = None
) -> npt.NDArray[np.float64]:
    """Return (n, 2) positions in um, (y, x), by array coordinates, which are that already on a ``free`` lattice."""
    row, column = (np.asarray(values, dtype=np.float64) for values in (array_row, array_col))
    kind = kind or lattice_of(row, column)
    if kind not in KINDS:
        raise InputError("lattice", f"'{kind}' is no lattice.", f"use one of: {', '.join(KINDS)}.", code="lattice-kind")
    places = np.column_stack([row, column])
    if kind == FREE:
        return places
    if not (np.isfinite(places).all() and np.isfinite(pitch_um) and pitch_um > 0):
        remedy = "give pitch_um in the cohort's sheet and array coordinates in the positions."
        raise InputError("lattice", "array coordinates or pitch_um are not known.", remedy, code="lattice-unknown")
    scale = np.array([np.sqrt(3) / 2, 0.5]) if kind == HEXAGONAL else np.ones(2)
    return places * scale * pitch_um


def neighbours(
    positions: npt.NDArray[np.float64],
    radius_um: float,
    *,
    include_self: bool = False,
    weight: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.floating]] | None = None,
) -> csr_array:
    """Return the (n, n) symmetric matrix of positions at most a radius apart: ones, or a weight of squared distances.

    Those on the edge belong to it; the diagonal is 1 with `include_self`.
    """
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    pairs = cKDTree(positions).query_pairs(radius_um * ON_THE_EDGE, output_type="ndarray")
    values: npt.NDArray[np.floating] = np.ones(len(pairs), dtype=np.float32)
    if weight is not None:
        values = weight(((positions[pairs[:, 0]] - positions[pairs[:, 1]]) ** 2).sum(axis=1))
    own = np.arange(len(positions) if include_self else 0)
    rows = np.concatenate([pairs[:, 0], pairs[:, 1], own])
    columns = np.concatenate([pairs[:, 1], pairs[:, 0], own])
    values = np.concatenate([values, values, np.ones(len(own), values.dtype)])
    return csr_array((values, (rows, columns)), shape=(len(positions), len(positions)))


def at_edge(array_row: npt.ArrayLike, array_col: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Tell which places of a section lack a neighbour on their lattice: one of 8 on a square one, of 6 on a hexagonal.

    The places are those that count (kept tiles), so that a hole in the tissue has an edge too.
    """
    kind = lattice_of(array_row, array_col)
    row, column = (np.rint(np.asarray(values, dtype=np.float64)).astype(np.int64) for values in (array_row, array_col))
    if kind == HEXAGONAL:
        steps = [(0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1)]
    else:
        steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    places = set(zip(row.tolist(), column.tolist(), strict=True))
    edges = [any((y + dy, x + dx) not in places for dy, dx in steps) for y, x in zip(row, column, strict=True)]
    return np.array(edges, dtype=bool)


def cells_of(array_row: npt.ArrayLike, array_col: npt.ArrayLike, kind: str) -> npt.NDArray[np.int64]:
    """Return (n, 2) whole-numbered cells in which neighbours within a row are one apart.

    On a hexagonal lattice the column is halved, so that a slide by whole cells and an even number of rows maps spots
    onto spots.
    """
    row, column = (np.rint(np.asarray(values, dtype=np.float64)).astype(np.int64) for values in (array_row, array_col))
    return np.column_stack([row, column // 2 if kind == HEXAGONAL else column])
