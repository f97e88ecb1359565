"""Predictions and labels of a section as h5ad: other software plots them as they are, under the section's own names."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest
from metrics_inputs import SPEC, TYPES, make_obs, make_values, write_inputs, write_labels, write_section

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.metrics import score_predictions
from histoloom.viewer.export import write_h5ad
from histoloom.viewer.view import view_labels, view_predictions


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sections with scored predictions of seeds, and labels; the observations are in another order than in sections."""
    folder = tmp_path_factory.mktemp("world")
    obs = make_obs({("A", "A1"): 30, ("B", "B1"): 36})
    sections = {}
    for sample, part in obs.groupby("sample"):
        sections[str(sample)] = write_section(folder / f"{sample}.h5ad", "demo", str(sample), part[::-1])
    values = make_values(obs)
    seeds = {i: values + np.random.default_rng(i).normal(size=values.shape) for i in (1, 2)}
    files = write_inputs(folder, obs, values, np.mean(list(seeds.values()), axis=0), seeds=seeds)
    score_predictions(spec=SPEC, experiment="loo", model="ridge", out=folder / "m.parquet", **files)
    labels = write_labels(folder / "labels.h5ad", obs, values, TYPES)
    return {"metrics": folder / "m.parquet", "predictions": files["predictions"], "labels": labels, **sections}


def test_predictions_carry_what_is_known_of_them(world: dict[str, Path], tmp_path: Path) -> None:
    view = view_predictions(predictions=world["predictions"], sample=world["B1"], metrics=world["metrics"])
    write_h5ad(view, world["B1"], tmp_path / "B1.h5ad")
    made, section = anndata.read_h5ad(tmp_path / "B1.h5ad"), anndata.read_h5ad(world["B1"])
    source = anndata.read_h5ad(world["predictions"])
    source = source[source.obs["sample"] == "B1"]
    source.obs_names = source.obs["obs_id"].astype(str)
    assert made.obs_names.tolist() == section.obs_names.tolist()
    np.testing.assert_allclose(made.X, source[made.obs_names].X, rtol=1e-6)
    np.testing.assert_allclose(made.layers["labels"], source[made.obs_names].layers["labels"], rtol=1e-6)
    assert made.layers["spread"].std() > 0
    np.testing.assert_array_equal(made.obsm["spatial"], section.obsm["spatial"])
    r = [np.corrcoef(made.X[:, i], made.layers["labels"][:, i])[0, 1] for i in range(len(TYPES))]
    assert made.var["held_out_r_here"].to_numpy() == pytest.approx(r, rel=1e-4)
    assert made.var["held_out_r"].notna().all()
    assert json.loads(made.uns["histoloom"])["values"] == "prediction"


@pytest.mark.parametrize("what", ["predictions", "labels"])
def test_scanpy_and_squidpys_names_are_there(world: dict[str, Path], tmp_path: Path, what: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import scanpy

    view = (view_labels if what == "labels" else view_predictions)(**{what: world[what]}, sample=world["A1"])
    write_h5ad(view, world["A1"], tmp_path / "A1.h5ad")
    made = anndata.read_h5ad(tmp_path / "A1.h5ad")
    (drawn,) = scanpy.pl.spatial(made, color=TYPES[0], show=False)
    assert drawn.images, "the picture lies under the spots"
    assert set(made.obs["library_id"]) == set(made.uns["spatial"])


def test_an_observation_of_several_folds_is_there_once(world: dict[str, Path], tmp_path: Path) -> None:
    whole = anndata.read_h5ad(world["predictions"])
    again = whole.copy()
    again.X = again.X + 2
    again.obs_names = "second/" + again.obs_names
    both = anndata.concat([whole, again])
    both.uns = whole.uns
    both.write_h5ad(tmp_path / "p.h5ad")
    for path in (world["predictions"], tmp_path / "p.h5ad"):
        write_h5ad(
            view_predictions(predictions=path, sample=world["B1"]), world["B1"], tmp_path / f"{path.stem}.out.h5ad"
        )
    once, twice = (anndata.read_h5ad(tmp_path / f"{name}.out.h5ad") for name in (world["predictions"].stem, "p"))
    assert once.obs_names.equals(twice.obs_names)
    np.testing.assert_allclose(twice.X, once.X + 1, rtol=1e-5)
    np.testing.assert_allclose(twice.layers["labels"], once.layers["labels"], rtol=1e-6)


def test_a_section_that_was_read_anew_with_fewer_observations_is_refused(
    world: dict[str, Path], tmp_path: Path
) -> None:
    view = view_predictions(predictions=world["predictions"], sample=world["B1"])
    short = anndata.read_h5ad(world["B1"])[:-1].copy()
    short.write_h5ad(tmp_path / "B1.h5ad")
    with pytest.raises(InputError, check=has_code("view-other-section")):
        write_h5ad(view, tmp_path / "B1.h5ad", tmp_path / "out.h5ad")
