"""A region of interest drawn in QuPath limits a section to the observations whose centre lies in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from PIL import Image
from test_user_layouts import CENTRES, COUNTS, NAMES, slide, write_h5ad

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.config import load_config
from histoloom.errors import InputError
from histoloom.plan import Plan
from histoloom.samples import read_section
from histoloom.samples.roi import inside_roi
from histoloom.slides import BlankSlide


def box(left: float, top: float, right: float, bottom: float, **properties: Any) -> dict[str, Any]:
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def write(path: Path, *features: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def read(root: Path, roi: Path) -> tuple[ad.AnnData, dict[str, Any]]:
    Image.fromarray(slide()).save(root / "s.png")
    row = {"sample": "S1", "patient": "P", "pitch_um": "100", "spot_diameter_um": "55", **write_h5ad(root)}
    files = {"counts": root / row["counts"], "image": root / "s.png", "roi": roi}
    out = root / "out.h5ad"
    read_section(source="files", cohort="m", row=row, spec={}, files=files, out=out, picture=root / "out.png")
    return ad.read_h5ad(out), read_metadata(out)


def test_observations_outside_are_dropped_and_counted(tmp_path: Path) -> None:
    ignored = {"classification": {"name": "Ignore*"}}
    roi = write(tmp_path / "r.geojson", box(0, 0, 150, 400), box(200, 0, 300, 100), box(90, 80, 110, 100, **ignored))
    section, facts = read(tmp_path, roi)
    x, y = CENTRES.T
    expected = (x < 150) | ((x > 200) & (y < 100))
    expected &= ~((x > 90) & (x < 110) & (y > 80) & (y < 100))
    assert 0 < expected.sum() < len(expected)
    assert list(section.obs_names) == list(np.array(NAMES)[expected])
    np.testing.assert_array_equal(section.X.toarray(), COUNTS[expected])
    assert facts["dropped"]["outside_roi"] == (~expected).sum()


def test_um_per_px_comes_from_the_whole_array(tmp_path: Path) -> None:
    """A column of spots says nothing of the pitch across."""
    section, facts = read(tmp_path, write(tmp_path / "r.geojson", box(50, 0, 70, 400)))
    assert section.n_obs == 6
    assert facts["mpp"] == pytest.approx(2.5)


def test_another_region_is_another_section(tmp_path: Path) -> None:
    _, first = read(tmp_path, write(tmp_path / "a.geojson", box(0, 0, 150, 400)))
    _, second = read(tmp_path, write(tmp_path / "b.geojson", box(0, 0, 190, 400)))
    assert first["identity"]["sha256"] != second["identity"]["sha256"]


def test_a_region_is_in_the_frame_that_qupath_shows(tmp_path: Path) -> None:
    """QuPath crops a slide to its scanned area, and counts from there."""
    whole = BlankSlide(1000, 800)
    whole.bounds = (300, 200)
    places = np.array([[310.0, 210.0], [10.0, 10.0]])
    roi = write(tmp_path / "r.geojson", box(0, 0, 20, 20))
    assert inside_roi(roi, places, whole, "S1").tolist() == [True, False]


POINT = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}}


@pytest.mark.parametrize(
    ("features", "code"),
    [
        ([POINT], "roi-no-area"),
        ([], "roi-no-area"),
        ([box(1000, 1000, 1400, 1400)], "roi-other-frame"),
        ([box(0, 0, 20, 20)], "roi-empty"),
        ([{"type": "Feature", "geometry": {"type": "Circle"}}], "roi-geojson"),
    ],
)
def test_what_is_no_region_of_this_slide(tmp_path: Path, features: list[dict[str, Any]], code: str) -> None:
    with pytest.raises(InputError, check=has_code(code)):
        read(tmp_path, write(tmp_path / "r.geojson", *features))


def test_a_file_that_is_no_geojson(tmp_path: Path) -> None:
    (tmp_path / "r.geojson").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, check=has_code("roi-geojson")):
        read(tmp_path, tmp_path / "r.geojson")


def test_detections_of_an_export_of_all_objects_are_no_region(tmp_path: Path) -> None:
    cell = box(200, 200, 210, 210, objectType="detection")
    drawn = box(0, 0, 150, 400, objectType="annotation")
    section, _ = read(tmp_path, write(tmp_path / "r.geojson", drawn, cell))
    assert section.n_obs == (CENTRES[:, 0] < 150).sum()


def test_a_file_of_another_encoding_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "r.geojson").write_bytes('{"features": [], "name": "Stück"}'.encode("utf-16"))
    with pytest.raises(InputError) as error:
        read(tmp_path, tmp_path / "r.geojson")
    assert error.value.code != "roi-geojson"


@pytest.mark.parametrize("source", ["files", "slides"])
def test_the_sheet_names_it(tmp_path: Path, source: str) -> None:
    (tmp_path / "sheet.tsv").write_text("sample\tpatient\tcounts\timage\troi\nS1\tP\tc.h5ad\ts.png\tdrawn/r.geojson\n")
    if source == "slides":
        (tmp_path / "sheet.tsv").write_text("sample\tpatient\timage\troi\nS1\tP\ts.png\tdrawn/r.geojson\n")
    raw = {"cohorts": {"m": {"source": source, "sheet": "sheet.tsv"}}, "experiments": {}}
    (tmp_path / "c.yaml").write_text("")
    plan = Plan(load_config(raw, [tmp_path / "c.yaml"]))
    assert plan.sections.files("m", "S1")["roi"] == str(tmp_path / "drawn/r.geojson")
    with pytest.raises(InputError, check=has_code("user-file-missing")) as error:
        plan.sections.raw_files("m", "S1")
    assert "column 'roi'" in str(error.value)
