"""Bundles of other publishers through the rules: to samples, outlines, the picture of tiles on nuclei, and exports."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import yaml
from support import run

from histoloom.samples.polygons import read_polygons
from raw_layouts import HestSample, SpaceRanger, XeniumBundle

pytestmark = pytest.mark.workflow
HAS_SPATIALDATA = importlib.util.find_spec("spatialdata") is not None
MADE = {"xenium": (XeniumBundle, "X1"), "visium": (SpaceRanger, "V1"), "hest": (lambda: HestSample("Visium"), "H1")}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A Xenium bundle, a Space Ranger folder and a HEST sample, exported by one run."""
    folder = tmp_path_factory.mktemp("sources")
    config: dict[str, Any] = {"cohorts": {}, "experiments": {}}
    config["tiles"] = {"t28": {"size_px": 56, "um_per_px": 0.5, "background": {"method": "none"}}}
    raw, targets = {}, ["results/figures/outlines/t28/xenium/X1.jpg"]
    for source, (make, sample) in MADE.items():
        raw[source] = make()
        raw[source].write(folder / source)
        row = raw[source].row
        (folder / source / "sheet.tsv").write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
        config["cohorts"][source] = {
            "source": source,
            "sheet": str(folder / source / "sheet.tsv"),
            "root": str(folder / source),
        }
        targets += [f"results/exports/{source}/{sample}.geojson"]
        targets += [f"results/exports/{source}/{sample}.zarr"] if HAS_SPATIALDATA else []
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    run(folder, *targets, config=path)
    return folder, raw


def features_of(folder: Path, source: str) -> list[dict[str, Any]]:
    text = (folder / f"results/exports/{source}/{MADE[source][1]}.geojson").read_text()
    features: list[dict[str, Any]] = json.loads(text)["features"]
    return features


def middle(geometry: dict[str, Any]) -> np.ndarray:
    return np.array(geometry["coordinates"][0])[:-1].mean(axis=0)


def test_a_bundle_becomes_cells_on_their_nuclei(exported: tuple[Path, dict[str, Any]]) -> None:
    folder, raw = exported
    section = anndata.read_h5ad(folder / "results/samples/xenium/X1.h5ad")
    np.testing.assert_array_equal(section.X.toarray(), raw["xenium"].counts[:, :6])
    np.testing.assert_allclose(section.obsm["spatial"], raw["xenium"].he, atol=1e-6)
    for kind in ("cells", "nuclei"):
        rings = dict(read_polygons(folder / f"results/samples/xenium/X1.{kind}.parquet"))
        assert list(rings) == list(section.obs_names)
        centres = np.array([ring[:-1].mean(axis=0) for ring in rings.values()])
        np.testing.assert_allclose(centres, section.obsm["spatial"], atol=0.05)
    assert (folder / "results/figures/outlines/t28/xenium/X1.jpg").stat().st_size > 50_000
    log = (folder / "logs/tiles/draw_outlines/t28/xenium/X1.log").read_text()
    assert "{'cell': 1.0, 'nucleus': 1.0}" in log


@pytest.mark.parametrize("source", list(MADE))
def test_exported_objects_lie_on_tissue(exported: tuple[Path, dict[str, Any]], source: str) -> None:
    folder, raw = exported
    sample = anndata.read_h5ad(folder / f"results/samples/{source}/{MADE[source][1]}.h5ad")
    sample = sample[sample.obs["in_tissue"].to_numpy()]
    features, image = features_of(folder, source), raw[source].image
    assert [f["properties"]["name"] for f in features] == list(sample.obs_names)
    places = np.array([middle(f["geometry"]) for f in features])
    np.testing.assert_allclose(places, sample.obsm["spatial"], atol=0.1)
    x, y = np.rint(places).astype(int).T
    glass = (image[y, x] > 225).all(axis=1)
    # The lowest row of Space Ranger's spots, 12 of 96, lies 6 px below the tissue's edge.
    assert glass.mean() <= (0.125 if source == "visium" else 0.0)


def test_cells_are_outlines_with_nuclei_not_points(exported: tuple[Path, dict[str, Any]]) -> None:
    for feature in features_of(exported[0], "xenium"):
        assert feature["properties"]["objectType"] == "cell"
        assert len(feature["geometry"]["coordinates"][0]) == 9
        np.testing.assert_allclose(middle(feature["nucleusGeometry"]), middle(feature["geometry"]), atol=0.1)


@pytest.mark.skipif(not HAS_SPATIALDATA, reason="spatialdata is not installed")
@pytest.mark.parametrize("source", list(MADE))
def test_exported_stores_open_with_spatialdata(exported: tuple[Path, dict[str, Any]], source: str) -> None:
    import spatialdata

    folder, raw = exported
    name = MADE[source][1]
    store = spatialdata.read_zarr(folder / f"results/exports/{source}/{name}.zarr")
    sample = anndata.read_h5ad(folder / f"results/samples/{source}/{name}.h5ad")
    table = store.tables["table"]
    assert list(table.obs_names) == list(sample.obs_names)
    assert (table.X != sample.X).nnz == 0
    unit = "cells" if source == "xenium" else "spots"
    centres = spatialdata.get_centroids(store.shapes[f"{name}_{unit}"], coordinate_system="global").compute()
    np.testing.assert_allclose(centres[["x", "y"]].to_numpy(), sample.obsm["spatial"], atol=0.1)
    extent = spatialdata.get_extent(store[f"{name}_hires"], coordinate_system="global")
    height, width = raw[source].image.shape[:2]
    np.testing.assert_allclose([*extent["x"], *extent["y"]], [0, width, 0, height], atol=2)


def test_outlines_of_a_source_without_any_are_refused(exported: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = exported
    told = run(folder, "-n", "results/samples/visium/V1.cells.parquet", config=folder / "config.yaml", check=False)
    assert told.returncode
    assert "cohorts.visium: has no outlines of cells" in told.stdout + told.stderr
