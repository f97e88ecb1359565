"""Which spots of a section are neighbours: each rule by its definition, and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.inputs.graph import section_graph

RULES = {
    "square4": lambda row, col: abs(row) + abs(col) == 1,
    "square8": lambda row, col: max(abs(row), abs(col)) == 1,
    "hex6": lambda row, col: (abs(row), abs(col)) in {(0, 2), (1, 1)},
    "published": lambda row, col: abs(col) < 3 and abs(row) < 2 and (row, col) != (0, 0),
}


def obs_of(row: np.ndarray, col: np.ndarray) -> pd.DataFrame:
    frame = pd.DataFrame({"array_row": row, "array_col": col, "pitch_um": 100.0})
    return frame.assign(cohort="c", sample="s")


def square(side: int = 6) -> pd.DataFrame:
    """A square array with a hole, its spots in no order."""
    row, col = (axis.ravel() for axis in np.mgrid[3 : 3 + side, 7 : 7 + side])
    keep = np.random.default_rng(0).permutation(np.flatnonzero((row != 5) | (col != 9)))
    return obs_of(row[keep], col[keep])


def hexagonal(rows: int = 5, per_row: int = 4) -> pd.DataFrame:
    row, place = (axis.ravel() for axis in np.mgrid[:rows, :per_row])
    return obs_of(row, 2 * place + row % 2)


def by_definition(obs: pd.DataFrame, rule: str) -> np.ndarray:
    places = obs[["array_row", "array_col"]].to_numpy(int)
    return np.array([[RULES[rule](*(a - b)) for b in places] for a in places], dtype=float)


@pytest.mark.parametrize(
    ("obs", "rule", "most"),
    [(square(), "square4", 4), (square(), "square8", 8), (square(), "published", 14), (hexagonal(), "hex6", 6),
     (hexagonal(), "published", 6)],
)  # fmt: skip
def test_a_rule_is_its_definition(obs: pd.DataFrame, rule: str, most: int) -> None:
    graph = section_graph(obs, rule).toarray()
    np.testing.assert_array_equal(graph, by_definition(obs, rule))
    np.testing.assert_array_equal(graph, graph.T)
    assert graph.sum(axis=1).max() == most


def test_a_radius_is_in_um_on_the_arrays_own_lattice() -> None:
    for obs, one_pitch in ((square(), "square4"), (hexagonal(), "hex6")):
        np.testing.assert_array_equal(section_graph(obs, 100.0).toarray(), by_definition(obs, one_pitch))
        assert section_graph(obs, 99.0).nnz == 0


@pytest.mark.parametrize(("rows", "per_row"), [(3, 3), (2, 2), (3, 1), (1, 1)])
def test_a_few_hexagonal_spots_are_taken_for_that(rows: int, per_row: int) -> None:
    obs = hexagonal(rows, per_row)
    assert len(obs) < 10
    np.testing.assert_array_equal(section_graph(obs, "hex6").toarray(), by_definition(obs, "hex6"))


@pytest.mark.parametrize(
    ("obs", "rule"),
    [(square(), "hex6"), (square(2), "hex6"), (hexagonal(), "square4"), (hexagonal(), "square8")],
)
def test_a_rule_of_another_lattice_is_refused_with_one_that_fits(obs: pd.DataFrame, rule: str) -> None:
    with pytest.raises(InputError, check=has_code("graph-lattice")) as refused:
        section_graph(obs, rule)
    fitting = "square4" if rule == "hex6" else "hex6"
    assert fitting in str(refused.value)
    section_graph(obs, fitting)


@pytest.mark.parametrize("missing", ["one number", "both columns"])
def test_spots_without_array_coordinates_have_no_graph(missing: str) -> None:
    obs = square().astype({"array_row": float})
    obs.loc[2, "array_row"] = np.nan
    if missing == "both columns":
        obs = obs.drop(columns=["array_row", "array_col"])
    for rule in (*RULES, 150.0):
        with pytest.raises(InputError, check=has_code("graph-coordinates"), match="c/s"):
            section_graph(obs, rule)


def test_an_unknown_rule_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, check=has_code("graph-rule"), match="square8"):
        section_graph(square(), "square6")
