"""Positions on square, hexagonal and free lattices: distances that are known."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pandas as pd
import pytest
from modelworld import experiment

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.folds import build_folds
from histoloom.lattice import FREE, HEXAGONAL, KINDS, SQUARE, cells_of, lattice_of, neighbours, positions_um
from histoloom.metrics import block_weights, moran
from histoloom.metrics.block_weights import BlockWeights
from histoloom.metrics.moran import grid_shifts, protocol_weights, section_positions, spatial_weights


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


def sections(array=visium, pitch: float = 100.0, side: int = 20) -> pd.DataFrame:
    frames = []
    for sample, patient in (("A1", "A"), ("B1", "B")):
        row, column = array(side, side)
        obs_id = [f"{r}x{c}" for r, c in zip(row, column, strict=True)]
        frames.append(
            pd.DataFrame({"cohort": "one", "sample": sample, "patient": patient, "obs_id": obs_id, "array_row": row,
                          "array_col": column, "pitch_um": pitch})
        )  # fmt: skip
    obs = pd.concat(frames)
    return obs.set_axis(obs["cohort"] + "/" + obs["sample"] + "/" + obs["obs_id"])


def block_folds(obs: pd.DataFrame, **given) -> pd.DataFrame:
    spec = experiment(
        split="spatial_block", cohorts=["one"], on_overlap="allow", **{"block_um": 500, "n_folds": 2, **given}
    )
    table, _ = build_folds(spec, obs, 3)
    return table[table["fold"] != "all"].merge(obs, on=["cohort", "sample", "patient", "obs_id"])


@pytest.mark.parametrize(("array", "pitch"), [(visium, 100.0), (square, 200.0), (square, 55.0)])
def test_blocks_and_buffers_are_um_on_every_lattice(array, pitch) -> None:
    buffer = 1.5 * pitch
    table = block_folds(sections(array, pitch), block_um=5 * pitch, buffer_um=buffer)
    for _, rows in table.groupby(["fold", "sample"]):
        row, column = rows["array_row"].to_numpy(), rows["array_col"].to_numpy()
        # Independent of the module: Visium's columns are half a pitch apart, its rows sqrt(3)/2.
        step = (0.75**0.5, 0.5) if array is visium else (1.0, 1.0)
        places = np.column_stack([row * step[0], column * step[1]]) * pitch
        test = places[(rows["role"] == "test").to_numpy()]
        nearest = np.sqrt(((places[:, None] - test[None]) ** 2).sum(-1)).min(1)
        assert ((nearest >= buffer) == (rows["role"] == "train")).all()
        extent = [np.ptp(places[(rows["block"] == block).to_numpy()], axis=0).max() for block in set(rows["block"])]
        assert max(extent) < 5 * pitch
        assert max(extent) > 3.9 * pitch


@pytest.mark.parametrize(("array", "pitch"), [(visium, 100.0), (square, 200.0)])
def test_a_spot_exactly_at_the_buffer_trains(array, pitch) -> None:
    dropped = block_folds(sections(array, pitch), block_um=5 * pitch, buffer_um=pitch)
    assert not (dropped["role"] == "dropped").any()
    more = block_folds(sections(array, pitch), block_um=5 * pitch, buffer_um=pitch * 1.01)
    assert (more["role"] == "dropped").any()


def test_pooled_weights_take_each_sections_own_pitch_and_lattice() -> None:
    """W over a Visium and a square section: each spot has the neighbours that its own section's W gives it."""
    parts = [sections(visium, 100.0).query("sample == 'A1'"), sections(square, 200.0).query("sample == 'B1'")]
    pooled = protocol_weights(pd.concat(parts), {}).tocsr()
    for part, start in zip(parts, (0, 400), strict=True):
        alone = protocol_weights(part, {})
        block = pooled[start : start + 400, start : start + 400]
        assert (block != 0).sum() == (alone != 0).sum()
        ratio = block.sum() / alone.sum()
        assert abs(block - alone * ratio).max() < 1e-12
    assert pooled[:400, 400:].nnz == 0
    inner = np.diff(protocol_weights(parts[0], {}).indptr).max() - 1
    # 240 um and a cutoff of .2: rings up to 430 um, which hold 60 of the hexagonal array's spots.
    distance = np.hypot(*np.meshgrid(np.arange(-10, 11) * 50.0, np.arange(-10, 11) * 75**0.5 * 10))
    parity = np.add.outer(np.arange(-10, 11), np.arange(-10, 11)) % 2 == 0
    assert inner == ((distance <= 240 * np.sqrt(-2 * np.log(0.2))) & parity).sum() - 1


def test_part_of_a_section_lies_on_the_lattice_of_the_whole() -> None:
    """Folds hand over part of a section, whose numbers alone may look like another lattice; each has its own."""
    parts = [
        sections(visium, 100.0).query("sample == 'A1' and array_row % 2 == 0").assign(lattice=HEXAGONAL),
        sections(square, 200.0).query("sample == 'B1'").assign(lattice=SQUARE),
    ]
    places = section_positions(pd.concat(parts), np.repeat(["A1", "B1"], [len(part) for part in parts]))
    for part, start, kind, pitch in zip(parts, (0, len(parts[0])), (HEXAGONAL, SQUARE), (100.0, 200.0), strict=True):
        expected = positions_um(part["array_row"], part["array_col"], pitch, kind)
        np.testing.assert_allclose(places[start : start + len(part)], expected)


def test_slides_of_a_hexagonal_array_put_spots_on_spots() -> None:
    row, column = visium(14, 15)
    source, moved = grid_shifts(
        np.column_stack([row, column]).astype(float), np.random.default_rng(0), 50, least=3, lattice=HEXAGONAL
    )
    assert (moved[:, 0] % 2 == 0).all()
    assert (source >= 0).all()
    assert all(len(np.unique(draw)) == len(row) for draw in source)
    # Without the lattice half of the draws would find nothing.
    blind, _ = grid_shifts(np.column_stack([row, column]).astype(float), np.random.default_rng(0), 50, least=3)
    assert (blind >= 0).mean() < 0.6


@pytest.mark.parametrize("include_self", [True, False])
def test_weights_formed_by_blocks_are_those_that_are_stored(
    monkeypatch: pytest.MonkeyPatch, include_self: bool
) -> None:
    rng = np.random.default_rng(0)
    cells, values = rng.uniform(0, 300, (400, 2)), rng.gamma(1.0, size=(400, 5))
    section = np.array(["b", "a"])[rng.integers(2, size=400)]
    options: dict = {"length_scale_um": {"a": 30.0, "b": 45.0}, "include_self": include_self}
    stored = spatial_weights(cells, section, **options)
    monkeypatch.setattr(moran, "MOST_WEIGHTS", 1)
    monkeypatch.setattr(moran, "_CERTAINLY_SMALL", 0)
    monkeypatch.setattr(block_weights, "_MOST_IN_BLOCK", 700)
    blocks = spatial_weights(cells, section, **options)
    assert isinstance(blocks, BlockWeights)
    assert len(list(blocks.blocks())) > 5
    # A row with more weights than a block may hold is a block of its own.
    monkeypatch.setattr(block_weights, "_MOST_IN_BLOCK", 0)
    assert list(islice(blocks.blocks(), 401)) == [slice(i, i + 1) for i in range(400)]
    monkeypatch.setattr(block_weights, "_MOST_IN_BLOCK", 700)
    np.testing.assert_allclose(blocks[0:400].toarray(), stored.toarray(), atol=1e-12)
    np.testing.assert_allclose(moran.morans_r(values, blocks), moran.morans_r(values, stored), atol=1e-12)
    told, expected = moran.weight_diagnostics(blocks), moran.weight_diagnostics(stored)
    assert told == pytest.approx(expected)
    array = np.zeros((400, 2))
    nulls = [moran.null_maps(values, w, array, scheme="random", count=3, seed=1) for w in (blocks, stored)]
    np.testing.assert_allclose(*nulls, atol=1e-12)
    with pytest.raises(InputError, check=has_code("moran-too-dense")):
        moran.null_maps(values, blocks, array, scheme="toroidal", count=3, seed=1)


def test_the_default_length_scale_follows_the_pitch() -> None:
    obs = pd.DataFrame({"cohort": "c", "sample": ["v"] * 4 + ["x"] * 4, "array_row": [0, 0, 1, 1] * 2})
    obs["array_col"], obs["pitch_um"] = [0, 1] * 4, [100.0] * 4 + [10.0] * 4
    obs["lattice"] = SQUARE
    chosen = protocol_weights(obs, {"length_scale_um": None, "include_self": False}).toarray()
    one, other = np.exp(-(100**2) / (2 * 240**2)), np.exp(-(10**2) / (2 * 30**2))
    assert chosen[0, 1] / chosen[4, 5] == pytest.approx(one / other)
    given = protocol_weights(obs, {"length_scale_um": 240, "include_self": False}).toarray()
    assert given[0, 1] < given[4, 5]
