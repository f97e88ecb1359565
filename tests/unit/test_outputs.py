"""What predictions on slides carry: no negative abundance, edges of the tissue, pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize

from histoloom.lattice import at_edge
from histoloom.models.outputs import without_negatives

VALUES = arrays(np.float32, (3, 4), elements=st.floats(-2, 2, width=32))


@given(VALUES)
@settings(max_examples=50, deadline=None)
def test_clipped_and_projected_values_are_not_negative(values: np.ndarray) -> None:
    clipped, share = without_negatives(values, "clip")
    assert (clipped == np.maximum(values, 0)).all()
    assert share == (values < 0).mean()
    projected, same = without_negatives(values, "simplex")
    assert same == share
    assert (projected >= 0).all()
    assert projected.sum(axis=1) == pytest.approx(1, abs=1e-5)
    kept, told = without_negatives(values, "keep")
    assert kept is values
    assert told == share


def test_the_projection_is_the_nearest_point_of_the_simplex() -> None:
    row = np.array([0.7, -0.2, 0.6, 0.1], np.float32)
    limits = {"type": "eq", "fun": lambda w: w.sum() - 1}
    best = minimize(lambda w: ((w - row) ** 2).sum(), np.full(4, 0.25), bounds=[(0, None)] * 4, constraints=limits)
    assert without_negatives(row[None], "simplex")[0][0] == pytest.approx(best.x, abs=1e-4)
    # What lies on it stays where it is.
    inside = np.array([[0.25, 0.75, 0, 0]], np.float32)
    assert without_negatives(inside, "simplex")[0] == pytest.approx(inside, abs=1e-6)


def test_edges_of_a_square_grid_and_of_a_hole() -> None:
    row, column = (grid.ravel() for grid in np.indices((6, 7)))
    edge = at_edge(row, column)
    outer = (row == 0) | (row == 5) | (column == 0) | (column == 6)
    assert (edge == outer).all()
    hole = (row == 2) & (column == 3)
    around = (np.abs(row - 2) <= 1) & (np.abs(column - 3) <= 1) & ~hole
    assert (at_edge(row[~hole], column[~hole]) == (outer | around)[~hole]).all()


def test_edges_of_a_hexagonal_grid() -> None:
    row, column = (grid.ravel() for grid in np.indices((8, 16)))
    on = (row + column) % 2 == 0
    row, column = row[on], column[on]
    inner = (row > 0) & (row < 7) & (column > 1) & (column < 14)
    assert (at_edge(row, column) == ~inner).all()
