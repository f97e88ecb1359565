"""Exports: QuPath GeoJSON, GeoParquet outlines, SpatialData where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.exports.geojson import class_colours, write_cases, write_predictions, write_section
from histoloom.exports.spatialdata import write_spatialdata
from histoloom.samples import read_section
from histoloom.samples.hest import HestReader
from histoloom.samples.polygons import read_polygons, write_polygons
from histoloom.samples.spatialdata import SpatialDataReader
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
    for change, code in (
        (frame.drop(columns="vertex_y"), "boundaries-columns"),
        (frame.iloc[:5], "outline-ring"),
        (frame.iloc[:0], "boundaries-empty"),
        (frame.assign(vertex_x=np.nan), "boundaries-vertex"),
        (frame.drop(columns="label_id").iloc[[0, 1, 2, 7, 8, 9, 3, 4, 5]], "boundaries-order"),
    ):
        change.to_parquet(tmp_path / "b.parquet", index=False)
        with pytest.raises(InputError, check=has_code(code)):
            write_polygons(boundaries=tmp_path / "b.parquet", out=tmp_path / "o.parquet", **options)
    with pytest.raises(InputError, check=has_code("outlines-format")):
        list(read_polygons(tmp_path / "b.parquet"))


def test_qupath_cells_with_nuclei_and_genes(xenium: Any) -> None:
    bundle, root, sample, found = xenium
    out = root / "cells.geojson"
    write_section(sample=sample, out=out, genes=["CD3E", "EPCAM"], cells=found["cells"], nuclei=found["nuclei"])
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
    with pytest.raises(InputError, check=has_code("export-unknown-gene")):
        write_section(sample=sample, out=out, genes=["NOPE"])


def test_outlines_of_other_cells_are_refused_and_missing_ones_become_discs(
    xenium: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle, _, sample, found = xenium
    table = pq.read_table(found["cells"])
    fewer, none = tmp_path / "fewer.parquet", tmp_path / "none.parquet"
    pq.write_table(table.slice(0, 200), fewer)
    other = table.set_column(0, "cell_id", [[f"other-{i}" for i in range(table.num_rows)]])
    pq.write_table(other.replace_schema_metadata(table.schema.metadata), none)
    write_section(sample=sample, out=tmp_path / "c.geojson", cells=fewer)
    assert "25 of 225 cells have no outline" in caplog.text
    features = json.loads((tmp_path / "c.geojson").read_text())["features"]
    assert [len(f["geometry"]["coordinates"][0]) for f in features] == [9] * 200 + [25] * 25
    with pytest.raises(InputError, check=has_code("outlines-of-another")):
        write_section(sample=sample, out=tmp_path / "d.geojson", cells=none)


def test_qupath_spots_are_circles_and_pseudo_spots_squares(tmp_path: Path) -> None:
    outs = SpaceRanger()
    outs.write(tmp_path)
    sample = make(VisiumReader, "visium", outs, tmp_path)
    section = anndata.read_h5ad(sample)
    section.obs["region"] = ["tumour" if i % 2 else "" for i in range(section.n_obs)]
    section.write_h5ad(sample)
    write_section(sample=sample, out=tmp_path / "v.geojson")
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
    write_section(sample=make(HestReader, "hest", pooled, other), out=other / "h.geojson")
    ring = np.array(json.loads((other / "h.geojson").read_text())["features"][0]["geometry"]["coordinates"][0])
    np.testing.assert_allclose(np.ptp(ring, axis=0), 200, rtol=2e-3)
    assert len(ring) == 5


def with_bounds(sample: Path, out: Path) -> Path:
    section = anndata.read_h5ad(sample)
    section.uns["histoloom"] = json.dumps({**json.loads(section.uns["histoloom"]), "slide_bounds": [512, 768]})
    section.write_h5ad(out)
    return out


@pytest.mark.parametrize("outlined", [True, False])
def test_a_slide_with_bounds_is_exported_as_qupath_crops_it(xenium: Any, tmp_path: Path, outlined: bool) -> None:
    files = xenium[3] if outlined else {}
    cropped = with_bounds(xenium[2], tmp_path / "b.h5ad")
    write_section(sample=xenium[2], out=tmp_path / "a.geojson", **files)
    write_section(sample=cropped, out=tmp_path / "b.geojson", **files)
    write_section(sample=cropped, out=tmp_path / "c.geojson", crop=False, **files)
    plain, moved, whole = (json.loads((tmp_path / f"{name}.geojson").read_text()) for name in "abc")
    assert whole["features"] == plain["features"]
    assert moved["histoloom"]["offset_px"] == [512, 768]
    assert whole["histoloom"]["offset_px"] == plain["histoloom"]["offset_px"] == [0, 0]
    for kind in ("geometry", "nucleusGeometry") if outlined else ("geometry",):
        rings = [np.array(read["features"][5][kind]["coordinates"][0]) for read in (plain, moved)]
        np.testing.assert_allclose(rings[0] - rings[1], np.broadcast_to([512, 768], rings[0].shape), atol=0.011)


def test_predictions_and_cases_are_moved_too(xenium: Any, tmp_path: Path) -> None:
    import pandas as pd

    values = pd.DataFrame({"a": [1.0], "b": [0.0]}, index=["t"])
    at, centres = np.array([512, 768]), np.array([[632.0, 868.0]])
    write_predictions(values=values, measured=values, centres=centres, side=10.0, out=tmp_path / "p", offset=at)
    cropped = with_bounds(xenium[2], tmp_path / "b.h5ad")
    case = {"cohort": "c", "sample": "X1", "case": "hit", "target": "a", "obs_id": "1", "x": 632.0, "y": 868.0}
    case |= dict.fromkeys(["label", "prediction", "label_rank", "prediction_rank"], 1.0)
    write_cases(cases=pd.DataFrame([case]), sample=cropped, out=tmp_path / "c", side_um=50.0)
    for name in "pc":
        ring = np.array(json.loads((tmp_path / name).read_text())["features"][0]["geometry"]["coordinates"][0])
        np.testing.assert_allclose((ring.min(axis=0) + ring.max(axis=0)) / 2, [120, 100], atol=0.01)


def test_what_is_no_sample_is_refused(tmp_path: Path) -> None:
    anndata.AnnData(np.zeros((2, 2))).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, check=has_code("section-metadata")):
        write_section(sample=tmp_path / "a.h5ad", out=tmp_path / "a.geojson")


@pytest.mark.skipif(HAS_SPATIALDATA, reason="spatialdata is installed")
def test_without_spatialdata_the_remedy_is_named(xenium: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("spatialdata-not-installed")):
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
    assert list(store.coordinate_systems) == ["global"]
    with pytest.raises(InputError, check=has_code("export-exists")):
        write_spatialdata(sample=sample, out=tmp_path / "s.zarr")


@pytest.mark.skipif(not HAS_SPATIALDATA, reason="spatialdata is not installed")
def test_spatialdata_of_a_slide_with_bounds_has_both_frames(xenium: Any, tmp_path: Path) -> None:
    import spatialdata

    write_spatialdata(sample=with_bounds(xenium[2], tmp_path / "b.h5ad"), out=tmp_path / "s.zarr")
    store = spatialdata.read_zarr(tmp_path / "s.zarr")
    for element in ("X1_hires", "X1_cells"):
        whole, cropped = (spatialdata.get_extent(store[element], coordinate_system=s) for s in ("global", "cropped"))
        np.testing.assert_allclose(np.subtract(whole["x"], cropped["x"]), 512)
        np.testing.assert_allclose(np.subtract(whole["y"], cropped["y"]), 768)


@pytest.mark.skipif(not HAS_SPATIALDATA, reason="spatialdata is not installed")
class TestStoresAsInput:
    """What we export comes back as it was; what others write is placed by its transformations."""

    def read(self, root: Path, row: dict[str, str]) -> tuple[anndata.AnnData, dict[str, Any]]:
        row = {"sample": "B", "patient": "P1", **row}
        files = {role: Path(path) for role, path in SpatialDataReader.files(row, {}, root).items()}
        out = root / "back.h5ad"
        read_section(
            source="spatialdata", cohort="b", row=row, spec={}, files=files, out=out, picture=root / "back.png"
        )
        return anndata.read_h5ad(out), read_metadata(out)

    def same(self, back: anndata.AnnData, sample: Path) -> None:
        was = anndata.read_h5ad(sample)
        assert list(back.obs_names) == list(was.obs_names)
        assert list(back.var_names) == list(was.var_names)
        assert (back.X != was.X).nnz == 0
        assert back.X.dtype == was.X.dtype
        np.testing.assert_array_equal(back.obsm["spatial"], was.obsm["spatial"])
        columns = ["array_row", "array_col", "in_tissue", "n_counts"]
        assert back.obs[columns].equals(was.obs[columns])

    @pytest.mark.parametrize("with_outlines", [True, False])
    def test_cells_come_back_as_they_were(self, xenium: Any, tmp_path: Path, with_outlines: bool) -> None:
        bundle, root, sample, found = xenium
        write_spatialdata(sample=sample, out=tmp_path / "s.zarr", **(found if with_outlines else {}))
        back, facts = self.read(tmp_path, {"store": "s.zarr", "image": str(root / bundle.row["image"])})
        self.same(back, sample)
        was = read_metadata(sample)
        assert {k: facts[k] for k in ("unit", "pitch_um", "spot_diameter_um", "slide_sha256")} == {
            k: was[k] for k in ("unit", "pitch_um", "spot_diameter_um", "slide_sha256")
        }
        assert facts["mpp"] == pytest.approx(was["mpp"], rel=1e-12)

    def test_spots_come_back_as_they_were(self, tmp_path: Path) -> None:
        outs = SpaceRanger()
        outs.write(tmp_path)
        sample = make(VisiumReader, "visium", outs, tmp_path)
        write_spatialdata(sample=sample, out=tmp_path / "s.zarr")
        back, _ = self.read(tmp_path, {"store": "s.zarr", "image": outs.row["image"]})
        self.same(back, sample)
        with pytest.raises(InputError, check=has_code("spatialdata-table")):
            self.read(tmp_path, {"store": "s.zarr", "image": outs.row["image"], "table": "counts"})
        with pytest.raises(InputError, check=has_code("spatialdata-system")):
            self.read(tmp_path, {"store": "s.zarr", "image": outs.row["image"], "coordinate_system": "um"})
        with pytest.raises(InputError, check=has_code("spatialdata-element")):
            self.read(tmp_path, {"store": "s.zarr", "image": outs.row["image"], "element": "V1_hires"})
        with pytest.raises(InputError, check=has_code("spatialdata-missing")):
            self.read(tmp_path, {"store": "t.zarr", "image": outs.row["image"]})

    def test_a_store_in_um_is_placed_through_its_image(self, xenium: Any, tmp_path: Path) -> None:
        """As spatialdata-io lays a Xenium run out: circles in um, the H&E with the alignment, global = morphology px."""
        import geopandas
        import spatialdata
        from scipy.sparse import csr_matrix
        from spatialdata.models import Image2DModel, ShapesModel, TableModel
        from spatialdata.transformations import Affine, Scale

        bundle, root, _, _ = xenium
        to_global = Scale([1 / PIXEL_UM, 1 / PIXEL_UM], axes=("x", "y"))
        circles = ShapesModel.parse(
            bundle.um, geometry=0, radius=5.0, index=[str(i) for i in bundle.ids], transformations={"global": to_global}
        )
        assert isinstance(circles, geopandas.GeoDataFrame)
        he = Image2DModel.parse(
            np.moveaxis(bundle.image, 2, 0),
            dims=("c", "y", "x"),
            transformations={"global": Affine(bundle.matrix, input_axes=("x", "y"), output_axes=("x", "y"))},
        )
        table = anndata.AnnData(csr_matrix(bundle.counts[:, :6]))
        table.obs["region"], table.obs["cell_id"] = "cell_circles", [str(i) for i in bundle.ids]
        table.obs["region"] = table.obs["region"].astype("category")
        table.obs_names = table.obs["cell_id"].to_numpy()
        table.obs_names.name = None
        table = TableModel.parse(table[::-1].copy(), region="cell_circles", region_key="region", instance_key="cell_id")
        store = spatialdata.SpatialData(images={"he": he}, shapes={"cell_circles": circles}, tables={"table": table})
        store.write(tmp_path / "x.zarr")
        row = {
            "store": "x.zarr", "image": str(root / bundle.row["image"]), "image_element": "he", "unit": "cell",
            "mpp": str(PIXEL_UM * 1.2884), "spot_diameter_um": "10",
        }  # fmt: skip
        back, facts = self.read(tmp_path, row)
        np.testing.assert_allclose(back.obsm["spatial"], bundle.he[::-1], atol=1e-6)
        np.testing.assert_array_equal(back.X.toarray(), bundle.counts[::-1, :6])
        assert facts["unit"] == "cell"
        assert "region" not in back.obs
        # Without the image's transformation the cells lie in another frame, outside the slide.
        with pytest.raises(InputError, check=has_code("spots-outside")):
            self.read(tmp_path, {**row, "image_element": ""})


def test_colours_of_classes_differ_and_go_to_the_most_frequent_first(tmp_path: Path) -> None:
    names = [f"type {i:02d}" for i in range(24)]
    colours = class_colours(names)
    assert len(set(colours.values())) == 24
    assert all(0 <= part <= 255 for colour in colours.values() for part in colour)
    values = pd.DataFrame(np.zeros((5, 24)), index=list("abcde"), columns=names)
    values.iloc[:4, 20] = values.iloc[4, 3] = 1.0
    write_predictions(values=values, measured=values, centres=np.zeros((5, 2)), side=10, out=tmp_path / "p.geojson")
    kinds = [f["properties"]["classification"] for f in json.loads((tmp_path / "p.geojson").read_text())["features"]]
    assert [kind["name"] for kind in kinds] == ["type 20"] * 4 + ["type 03"]
    assert [kind["color"] for kind in kinds[::4]] == [list(colours["type 00"]), list(colours["type 01"])]
