"""Exports: QuPath GeoJSON, GeoParquet outlines, SpatialData where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest

from histoloom.errors import InputError
from histoloom.exports.qupath import write_qupath
from histoloom.exports.spatialdata import write_spatialdata
from histoloom.samples import read_section
from histoloom.samples.hest import HestReader
from histoloom.samples.polygons import read_polygons, write_polygons
from histoloom.samples.visium import VisiumReader
from histoloom.samples.xenium import XeniumReader
from raw_layouts import PIXEL_UM, HestSample, SpaceRanger, XeniumBundle

HAS_SPATIALDATA = importlib.util.find_spec("spatialdata") is not None


def make(reader: Any, source: str, raw: Any, root: Path) -> Path:
    files = {role: Path(path) for role, path in reader.files(raw.row, {}, root).items()}
    out = root / "sample.h5ad"
    read_section(source=source, cohort="c", row=raw.row, spec={}, files=files, out=out, picture=root / "sample.png")
    return out


def outlines(bundle: XeniumBundle, root: Path) -> dict[str, Path]:
    found = {}
    for kind, path in XeniumReader.polygons(bundle.row, {}, root).items():
        found[kind] = root / f"{kind}.parquet"
        write_polygons(
            boundaries=Path(path),
            out=found[kind],
            cohort="c",
            sample="X1",
            alignment=root / bundle.row["alignment"],
            pixel_size_um=PIXEL_UM,
        )
    return found


@pytest.fixture(scope="module")
def xenium(tmp_path_factory: pytest.TempPathFactory) -> tuple[XeniumBundle, Path, Path, dict[str, Path]]:
    bundle, root = XeniumBundle(), tmp_path_factory.mktemp("xenium")
    bundle.write(root)
    return bundle, root, make(XeniumReader, "xenium", bundle, root), outlines(bundle, root)


def test_outlines_lie_on_the_slide(xenium: Any) -> None:
    bundle, _, _, found = xenium
    for kind, radius_um in (("cells", 5), ("nuclei", 2)):
        rings = dict(read_polygons(found[kind]))
        assert list(rings) == list(bundle.ids)
        for (name, ring), centre in zip(rings.items(), bundle.he, strict=True):
            assert ring.shape == (9, 2), name
            np.testing.assert_allclose(ring[:-1].mean(0), centre, atol=0.05)
            radius = np.hypot(*(ring - centre).T) * PIXEL_UM * 1.2884
            np.testing.assert_allclose(radius, radius_um, rtol=0.01)


def test_the_wkb_and_the_geo_metadata_follow_the_standards(xenium: Any) -> None:
    import struct

    table = pq.read_table(xenium[3]["cells"])
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["version"] == "1.0.0"
    assert geo["columns"][geo["primary_column"]]["encoding"] == "WKB"
    raw = table["geometry"][7].as_py()
    order, kind, rings, points = struct.unpack("<BIII", raw[:13])
    assert (order, kind, rings, points) == (1, 3, 1, 9)
    vertices = np.array(list(struct.iter_unpack("<dd", raw[13:])))
    assert len(vertices) == 9
    np.testing.assert_array_equal(vertices, list(read_polygons(xenium[3]["cells"]))[7][1])


def test_open_rings_are_closed_and_cells_with_two_nuclei_keep_both(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"cell_id": [1] * 3 + [1] * 4 + [2] * 3, "label_id": [1] * 3 + [2] * 4 + [3] * 3})
    frame["vertex_x"] = np.array([0, 1, 0, 5, 6, 6, 5, 9, 10, 9]) * PIXEL_UM
    frame["vertex_y"] = np.array([0, 0, 1, 5, 5, 6, 5, 9, 9, 10]) * PIXEL_UM
    frame.to_parquet(tmp_path / "b.parquet")
    options: dict[str, Any] = {"cohort": "c", "sample": "s", "alignment": None, "pixel_size_um": PIXEL_UM}
    write_polygons(boundaries=tmp_path / "b.parquet", out=tmp_path / "o.parquet", **options)
    rings = list(read_polygons(tmp_path / "o.parquet"))
    assert [name for name, _ in rings] == ["1", "1", "2"]
    assert [len(ring) for _, ring in rings] == [4, 4, 4]
    assert all((ring[0] == ring[-1]).all() for _, ring in rings)
    np.testing.assert_allclose(rings[2][1], [[9, 9], [10, 9], [9, 10], [9, 9]])
    for change, problem in (
        (frame.drop(columns="vertex_y"), "no column vertex_y"),
        (frame.iloc[:5], "under 3 vertices"),
        (frame.iloc[:0], "no vertices"),
        (frame.assign(vertex_x=np.nan), "no number"),
        (frame.drop(columns="label_id").iloc[[0, 1, 2, 7, 8, 9, 3, 4, 5]], "do not lie together"),
    ):
        change.to_parquet(tmp_path / "b.parquet", index=False)
        with pytest.raises(InputError, match=problem):
            write_polygons(boundaries=tmp_path / "b.parquet", out=tmp_path / "o.parquet", **options)
    with pytest.raises(InputError, match="no GeoParquet"):
        list(read_polygons(tmp_path / "b.parquet"))


def test_qupath_cells_with_nuclei_and_genes(xenium: Any) -> None:
    bundle, root, sample, found = xenium
    out = root / "cells.geojson"
    write_qupath(sample=sample, out=out, genes=["CD3E", "EPCAM"], cells=found["cells"], nuclei=found["nuclei"])
    read = json.loads(out.read_text())
    assert read["type"] == "FeatureCollection"
    assert len(read["features"]) == 225
    feature = read["features"][11]
    assert feature["properties"]["objectType"] == "cell"
    measured = feature["properties"]["measurements"]
    assert measured["CD3E"] == bundle.counts[11, 1]
    assert measured["EPCAM"] == bundle.counts[11, 0]
    assert measured["counts"] == bundle.counts[11, :6].sum()
    for geometry, radius in ((feature["geometry"], 5), (feature["nucleusGeometry"], 2)):
        ring = np.array(geometry["coordinates"][0])
        assert (ring[0] == ring[-1]).all()
        area = 0.5 * abs(np.dot(ring[:-1, 0], ring[1:, 1]) - np.dot(ring[1:, 0], ring[:-1, 1]))
        octagon = 2 * np.sqrt(2) * (radius / (PIXEL_UM * 1.2884)) ** 2
        assert area == pytest.approx(octagon, rel=0.02)
        np.testing.assert_allclose(ring[:-1].mean(0), bundle.he[11], atol=0.1)
    with pytest.raises(InputError, match="has no gene NOPE"):
        write_qupath(sample=sample, out=out, genes=["NOPE"])


def test_outlines_of_other_cells_are_refused_and_missing_ones_become_discs(
    xenium: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle, _, sample, found = xenium
    table = pq.read_table(found["cells"])
    fewer, none = tmp_path / "fewer.parquet", tmp_path / "none.parquet"
    pq.write_table(table.slice(0, 200), fewer)
    other = table.set_column(0, "cell_id", [[f"other-{i}" for i in range(table.num_rows)]])
    pq.write_table(other.replace_schema_metadata(table.schema.metadata), none)
    write_qupath(sample=sample, out=tmp_path / "c.geojson", cells=fewer)
    assert "25 of 225 cells have no outline" in caplog.text
    features = json.loads((tmp_path / "c.geojson").read_text())["features"]
    assert [len(f["geometry"]["coordinates"][0]) for f in features] == [9] * 200 + [25] * 25
    with pytest.raises(InputError, match="none of the section's 225 cells has an outline"):
        write_qupath(sample=sample, out=tmp_path / "d.geojson", cells=none)


def test_qupath_spots_are_circles_and_pseudo_spots_squares(tmp_path: Path) -> None:
    outs = SpaceRanger()
    outs.write(tmp_path)
    sample = make(VisiumReader, "visium", outs, tmp_path)
    section = anndata.read_h5ad(sample)
    section.obs["region"] = ["tumour" if i % 2 else "" for i in range(section.n_obs)]
    section.write_h5ad(sample)
    write_qupath(sample=sample, out=tmp_path / "v.geojson")
    features = json.loads((tmp_path / "v.geojson").read_text())["features"]
    assert len(features) == section.n_obs
    ring = np.array(features[3]["geometry"]["coordinates"][0])
    radius = np.hypot(*(ring - section.obsm["spatial"][3]).T)
    np.testing.assert_allclose(radius, 55 / 2 / 0.5, rtol=2e-3)
    assert features[1]["properties"]["classification"]["name"] == "tumour"
    assert "classification" not in features[0]["properties"]
    other = tmp_path / "hest"
    other.mkdir()
    pooled = HestSample("Xenium")
    pooled.write(other)
    write_qupath(sample=make(HestReader, "hest", pooled, other), out=other / "h.geojson")
    ring = np.array(json.loads((other / "h.geojson").read_text())["features"][0]["geometry"]["coordinates"][0])
    np.testing.assert_allclose(np.ptp(ring, axis=0), 200, rtol=2e-3)
    assert len(ring) == 5


def test_what_is_no_sample_is_refused(tmp_path: Path) -> None:
    anndata.AnnData(np.zeros((2, 2))).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="is no sample"):
        write_qupath(sample=tmp_path / "a.h5ad", out=tmp_path / "a.geojson")


@pytest.mark.skipif(HAS_SPATIALDATA, reason="spatialdata is installed")
def test_without_spatialdata_the_remedy_is_named(xenium: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pip install spatialdata"):
        write_spatialdata(sample=xenium[2], out=tmp_path / "s.zarr")


@pytest.mark.skipif(not HAS_SPATIALDATA, reason="spatialdata is not installed")
@pytest.mark.parametrize("with_outlines", [True, False])
def test_spatialdata_round_trip(xenium: Any, tmp_path: Path, with_outlines: bool) -> None:
    import spatialdata

    bundle, _, sample, found = xenium
    write_spatialdata(sample=sample, out=tmp_path / "s.zarr", cells=found["cells"] if with_outlines else None)
    store = spatialdata.read_zarr(tmp_path / "s.zarr")
    table = store.tables["table"]
    assert table.n_obs == 225
    np.testing.assert_array_equal(table.X.toarray(), bundle.counts[:, :6])
    centres = store.shapes["X1_cells"].geometry.centroid
    np.testing.assert_allclose(np.column_stack([centres.x, centres.y]), bundle.he, atol=0.1)
    extent = spatialdata.get_extent(store["X1_hires"], coordinate_system="global")
    np.testing.assert_allclose(extent["x"], (0, 900), atol=1)
    np.testing.assert_allclose(extent["y"], (0, 700), atol=1)
    with pytest.raises(InputError, match="exists already"):
        write_spatialdata(sample=sample, out=tmp_path / "s.zarr")
