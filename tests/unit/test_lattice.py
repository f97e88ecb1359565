"""Positions on square, hexagonal and free lattices: distances that are known."""

from __future__ import annotations

import numpy as np
import pytest

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.lattice import FREE, HEXAGONAL, KINDS, SQUARE, cells_of, lattice_of, neighbours, positions_um


def visium(rows: int = 12, columns: int = 20) -> tuple[np.ndarray, np.ndarray]:
    row, column = np.divmod(np.arange(rows * columns), columns)
    return row, 2 * column + row % 2


def square(rows: int = 12, columns: int = 20) -> tuple[np.ndarray, np.ndarray]:
    row, column = np.divmod(np.arange(rows * columns), columns)
    return row, column


def test_an_inner_visium_spot_has_six_neighbours_at_one_pitch() -> None:
    row, column = visium()
    places = positions_um(row, column, 100.0)
    inner = int(np.flatnonzero((row == 6) & (column == 20))[0])
    distance = np.sort(np.hypot(*(places - places[inner]).T))
    np.testing.assert_allclose(distance[1:7], 100.0, rtol=1e-12)
    # The second ring: six at sqrt(3), the third: six at 2.
    np.testing.assert_allclose(distance[7:13], 100 * np.sqrt(3), rtol=1e-12)
    np.testing.assert_allclose(distance[13:19], 200.0, rtol=1e-12)


def test_an_inner_square_spot_has_four_neighbours_at_one_pitch() -> None:
    row, column = square()
    places = positions_um(row, column, 200.0)
    inner = 6 * 20 + 10
    distance = np.sort(np.hypot(*(places - places[inner]).T))
    np.testing.assert_allclose(distance[1:5], 200.0, rtol=1e-12)
    np.testing.assert_allclose(distance[5:9], 200 * np.sqrt(2), rtol=1e-12)


@pytest.mark.parametrize(("array", "kind", "ring"), [(visium, HEXAGONAL, 6), (square, SQUARE, 4)])
def test_ring_on_the_edge_of_the_radius_belongs_to_it(array, kind, ring) -> None:
    row, column = array()
    graph = neighbours(positions_um(row, column, 100.0, kind), 100.0)
    assert graph.sum(axis=1).max() == ring
    assert (graph != graph.T).nnz == 0
    assert not graph.diagonal().any()
    assert neighbours(positions_um(row, column, 100.0, kind), 100.0, include_self=True).diagonal().all()


def test_the_lattice_is_known_by_its_numbers() -> None:
    assert lattice_of(*visium()) == HEXAGONAL
    assert lattice_of(visium()[0] + 1, visium()[1]) == HEXAGONAL  # the other parity
    assert lattice_of(*square()) == SQUARE
    row, column = square()
    assert lattice_of(2 * row, 2 * column) == SQUARE  # one parity, but rows of one parity only
    hole = np.arange(len(row)) % 7 != 0
    assert lattice_of(row[hole], column[hole]) == SQUARE
    assert lattice_of(*(values[hole] for values in visium())) == HEXAGONAL
    assert lattice_of(visium()[0][:6], visium()[1][:6]) == SQUARE
    # One spot off the parity of all others: no hexagonal array has it.
    row, column = visium()
    assert lattice_of(np.append(row, 0), np.append(column, 1)) == SQUARE


def test_free_positions_are_um_already() -> None:
    places = np.random.default_rng(0).uniform(0, 500, (30, 2))
    np.testing.assert_array_equal(positions_um(*places.T, np.nan, FREE), places)


def test_hexagonal_cells_slide_onto_spots() -> None:
    row, column = visium(8, 10)
    cells = cells_of(row, column, HEXAGONAL)
    assert len(np.unique(cells, axis=0)) == len(cells)
    moved = positions_um(row, column, 1.0, HEXAGONAL)[cells[:, 0] < 6]
    by_cell = {tuple(cell): place for cell, place in zip(cells, positions_um(row, column, 1.0, HEXAGONAL), strict=True)}
    shifted = np.array([by_cell[r + 2, c] for r, c in cells[cells[:, 0] < 6]])
    np.testing.assert_allclose(shifted - moved, np.tile([np.sqrt(3), 0.0], (len(moved), 1)), atol=1e-12)


def test_bad_lattices() -> None:
    assert set(KINDS) == {SQUARE, HEXAGONAL, FREE}
    with pytest.raises(InputError, check=has_code("lattice-unknown")):
        positions_um([0, 1], [0, np.nan], 100.0, SQUARE)
    with pytest.raises(InputError, check=has_code("lattice-unknown")):
        positions_um([0, 1], [0, 1], 0.0, SQUARE)
    with pytest.raises(InputError, check=has_code("lattice-kind")):
        positions_um([0, 1], [0, 1], 100.0, "round")
