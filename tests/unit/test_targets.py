"""Targets: the join and its counts, the recipe, alignment of the truth, bad input."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from modelworld import World, experiment

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.targets import make_target, read_target
from histoloom.targets.abundance import apply_recipe


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, patients={"A": ["A1"], "B": ["B1"], "D": ["D1"]})


def build(world, out, labels=None, ground_truth=(), **spec):
    files = {"samples": world.samples, "tiles": world.tiles, "labels": [labels or world.write_labels()]}
    make_target(spec=experiment(**spec), files={**files, "truth": list(ground_truth)}, out=out)
    return read_target(out)


def test_join_counts_and_values(world, tmp_path):
    target = build(world, tmp_path / "target.h5ad")
    # 64 spots; number 0 is off tissue, number 1 on a dropped tile, number 2 without label.
    for step in target.metadata["steps"]:
        assert (step["observations"], step["in_tissue"], step["kept"], step["labelled"], step["joined"]) == (
            64,
            63,
            62,
            61,
            61,
        )
    assert list(target.obs.columns) == [
        "cohort", "sample", "patient", "obs_id", "array_row", "array_col", "region",
        "x", "y", "pitch_um", "um_per_px", "qc_flag", "low_umi", "tissue_fraction", "edge",
    ]  # fmt: skip
    ids = world.ids()
    for key, row in target.obs.iterrows():
        number = ids.index(row["obs_id"])
        assert key == f"demo/{row['sample']}/{row['obs_id']}"
        assert (row["array_row"], row["array_col"]) == divmod(number, 8)
        assert (row["x"], row["y"]) == (row["array_col"] * 400 + 100, row["array_row"] * 400 + 100)
        expected = world.labels[row["sample"]][number].astype(np.float32)
        np.testing.assert_array_equal(target.values[target.obs.index.get_loc(key)], expected)
    assert target.obs["low_umi"].sum() == 3
    assert set(target.obs.loc[target.obs["patient"] == "D", "qc_flag"]) == {"low resolution"}
    assert set(target.obs.loc[target.obs["patient"] == "A", "qc_flag"]) == {""}
    np.testing.assert_array_equal(target.spatial, target.obs[["x", "y"]])


def test_same_bytes_twice(world, tmp_path):
    labels = world.write_labels()
    build(world, tmp_path / "a.h5ad", labels)
    build(world, tmp_path / "b.h5ad", labels)
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()


def test_identity_follows_recipe_and_labels_but_not_models(world, tmp_path):
    def identity(**spec):
        build(world, tmp_path / "t.h5ad", **spec)
        return read_metadata(tmp_path / "t.h5ad")["identity"]["sha256"]

    assert identity() == identity(models=["x", "y"], train_seeds=[4])
    assert identity() != identity(target={"transform": "log1p"})


@pytest.mark.parametrize(("group_by", "joint"), [("cohort", True), ("patient", False)])
def test_labels_fitted_on_all_patients_together_are_marked(world, tmp_path, group_by, joint):
    labels = world.write_labels(spec={"method": "cell2location", "group_by": group_by})
    assert build(world, tmp_path / "t.h5ad", labels).metadata["joint_fit"] is joint


def test_q05_and_transforms(world, tmp_path):
    mean = build(world, tmp_path / "m.h5ad").values
    np.testing.assert_allclose(
        build(world, tmp_path / "q.h5ad", target={"statistic": "q05"}).values, mean * 0.5, rtol=1e-6
    )
    np.testing.assert_allclose(
        build(world, tmp_path / "l.h5ad", target={"transform": "log1p"}).values, np.log1p(mean), rtol=1e-6
    )
    share = build(world, tmp_path / "p.h5ad", target={"transform": "proportion"})
    np.testing.assert_allclose(share.values.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(share.values, mean / mean.sum(axis=1, keepdims=True), rtol=1e-5)
    assert share.metadata["units"] == "proportion"


def test_recipe_of_odd_rows():
    values = np.array([[0.0, 0.0], [1.0, np.nan]])
    np.testing.assert_array_equal(apply_recipe(values, "proportion", "f"), [[np.nan, np.nan], [1, np.nan]])
    with pytest.raises(InputError, check=has_code("labels-negative")):
        apply_recipe(np.array([[-1.0]]), "log1p", "f")


def test_truth_is_aligned_by_name(world, tmp_path):
    labels = world.write_labels()
    truth_world = World(tmp_path / "truth", patients=world.patients, seed=5)
    types, values = truth_world.types, truth_world.labels
    truth_world.types = ["stroma", "unknown", "T", "B"]  # another order, one type of its own, "epithelial" missing
    path = truth_world.write_labels("truth", missing=7)
    target = build(world, tmp_path / "t.h5ad", labels, [path], truth="truth")
    assert target.outputs == types
    at = {name: i for i, name in enumerate(truth_world.types)}
    row = target.obs.index.get_loc("demo/B1/3x4")
    expected = values["B1"][28]
    np.testing.assert_array_equal(
        target.ground_truth[row],
        np.array([expected[at["B"]], expected[at["T"]], np.nan, expected[at["stroma"]]], np.float32),
    )
    assert np.isnan(target.ground_truth[target.obs.index.get_loc("demo/B1/0x7")]).all()
    assert np.isfinite(target.values).all()


def test_nan_labels_and_empty_rows_are_counted(world, tmp_path):
    world.labels["A1"][10, 1] = np.nan
    target = build(world, tmp_path / "t.h5ad")
    assert target.metadata["steps"][0]["label_nan"] == 1
    assert "demo/A1/1x2" not in target.obs.index
    world.labels["A1"][10] = 0.0
    assert "demo/A1/1x2" in build(world, tmp_path / "z.h5ad").obs.index
    assert "demo/A1/1x2" not in build(world, tmp_path / "p.h5ad", target={"transform": "proportion"}).obs.index


def test_a_constant_column_is_listed_and_all_constant_stops(world, tmp_path):
    for label in world.labels.values():
        label[:, 2] = 3.0
    assert build(world, tmp_path / "t.h5ad").metadata["constant_types"] == ["epithelial"]
    for label in world.labels.values():
        label[:] = 3.0
    with pytest.raises(InputError, check=has_code("labels-constant")):
        build(world, tmp_path / "u.h5ad")


def test_section_without_kept_tile_stops_with_its_name(world, tmp_path):
    tiles = pd.read_parquet(world.tiles[1])
    tiles["kept"] = False
    from histoloom.artefacts import write_parquet

    write_parquet(tiles, world.tiles[1], read_metadata(world.tiles[1]))
    with pytest.raises(InputError, check=has_code("target-empty")):
        build(world, tmp_path / "t.h5ad")


def test_missing_statistic(world, tmp_path):
    with pytest.raises(InputError, check=has_code("labels-statistic")):
        build(world, tmp_path / "t.h5ad", world.write_labels(layers=False), target={"statistic": "q05"})


def test_samples_and_tiles_out_of_step(world, tmp_path):
    world.tiles.reverse()
    with pytest.raises(InputError, check=has_code("tiles-section")):
        build(world, tmp_path / "t.h5ad")


def test_cohorts_with_different_types_share_what_they_have(tmp_path):
    one = World(tmp_path / "a", patients={"A": ["A1"]})
    two = World(tmp_path / "b", patients={"Z": ["Z1"]}, cohort="other", types=["stroma", "T", "mast"])
    out = tmp_path / "t.h5ad"
    files = {"samples": one.samples + two.samples, "tiles": one.tiles + two.tiles}
    spec = experiment(cohorts=["demo", "other"])
    make_target(spec=spec, files=files | {"labels": [one.write_labels(), two.write_labels()]}, out=out)
    target = read_target(out)
    assert target.outputs == ["T", "stroma"]
    assert target.metadata["types_dropped"] == {"demo": ["B", "epithelial"], "other": ["mast"]}
    assert anndata.read_h5ad(out).obs["cohort"].nunique() == 2
    two.types = ["x", "y", "z"]
    with pytest.raises(InputError, check=has_code("labels-types")):
        make_target(spec=spec, files=files | {"labels": [one.write_labels(), two.write_labels()]}, out=out)


def test_labels_of_rows_are_of_all_outputs_or_of_those_named(world, tmp_path):
    target, rows = build(world, tmp_path / "t.h5ad"), np.array([5, 2])
    np.testing.assert_array_equal(target.labels(rows), target.values[[5, 2]])
    first, last = target.outputs[0], target.outputs[-1]
    np.testing.assert_array_equal(target.labels(rows, [last, first]), target.values[[5, 2]][:, [-1, 0]])
