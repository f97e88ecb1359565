"""The error gallery: the right cases, of the right places, as tiles and for QuPath."""

from __future__ import annotations

import json

import numpy as np
import pytest
from metrics_inputs import make_obs, make_values, write_inputs, write_section
from PIL import Image

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.exports.geojson import write_cases
from histoloom.report.errors import COLUMNS, TILE_UM, draw_errors, find_cases

NAMES = ["A", "B"]
OBS = make_obs({("p", "p1"): 49, ("q", "q1"): 49, ("r", "r1"): 49}, qc_flags={"r1": "low"})


@pytest.fixture
def world(tmp_path):
    values = make_values(OBS, types=2)
    made = values + 0.01 * np.random.default_rng(0).normal(size=values.shape)
    # Simulated errors of type A: a miss at the highest label of p1, a false positive at the lowest of q1.
    p1, q1 = (np.flatnonzero(OBS["sample"] == s) for s in ("p1", "q1"))
    miss, false = p1[values[p1, 0].argmax()], q1[values[q1, 0].argmin()]
    made[miss, 0], made[false, 0] = -5.0, 99.0
    files = write_inputs(tmp_path, OBS, values, made, types=NAMES)
    return files["predictions"], values, OBS.iloc[miss]["obs_id"], OBS.iloc[false]["obs_id"], tmp_path


def test_simulated_errors_come_first_and_flagged_sections_give_none(world):
    predictions, values, miss, false, _ = world
    cases = find_cases(predictions, each=2)
    assert list(cases.columns) == COLUMNS
    cases = cases[cases["target"] == "A"]
    first = cases[cases["place"] == 0].set_index("case")
    assert (first.loc["miss", "sample"], first.loc["miss", "obs_id"]) == ("p1", miss)
    assert (first.loc["false positive", "sample"], first.loc["false positive", "obs_id"]) == ("q1", false)
    assert first.loc["hit", ["label_rank", "prediction_rank"]].min() > 0.9
    assert set(cases["sample"]) == {"p1", "q1"}
    # Patients take turns.
    assert set(cases[cases["case"] == "hit"]["patient"]) == {"p", "q"}
    row = first.loc["miss"]
    place = OBS[(OBS["sample"] == "p1") & (OBS["obs_id"] == miss)].iloc[0]
    assert (row["x"], row["y"]) == (place["x"], place["y"])


def test_tiles_show_the_place_of_the_case_and_geojson_the_same_square(world):
    predictions, _, miss, _, folder = world
    cases = find_cases(predictions, each=2)
    samples, slides = [], []
    for sample in ("p1", "q1"):
        part = OBS[OBS["sample"] == sample]
        samples.append(write_section(folder / f"{sample}.h5ad", "demo", sample, part, mpp=0.69, spot_diameter_um=100.0))
        Image.fromarray(np.full((2600, 2600, 3), 222, np.uint8)).save(folder / f"{sample}.png")
        slides.append(folder / f"{sample}.png")
    for name in ("a.jpg", "b.jpg"):
        draw_errors(cases=cases, samples=samples, slides=slides, title="t", out=folder / name)
    assert (folder / "a.jpg").read_bytes() == (folder / "b.jpg").read_bytes()
    with pytest.raises(InputError, check=has_code("report-no-slide")):
        draw_errors(cases=cases, samples=samples[:1], slides=slides[:1], title="t", out=folder / "c.jpg")
    write_cases(cases=cases, sample=samples[0], out=folder / "p1.geojson", side_um=TILE_UM)
    features = json.loads((folder / "p1.geojson").read_text())["features"]
    assert len(features) == (cases["sample"] == "p1").sum()
    found = next(f for f in features if f["properties"]["name"] == f"A: miss ({miss})")
    ring = np.array(found["geometry"]["coordinates"][0])
    row = cases[(cases["case"] == "miss") & (cases["obs_id"] == miss) & (cases["sample"] == "p1")].iloc[0]
    assert ring[:4].mean(axis=0) == pytest.approx([row["x"], row["y"]], abs=0.02)
    assert np.ptp(ring[:, 0]) * 0.69 == pytest.approx(160, abs=0.1)
    assert found["properties"]["classification"]["name"] == "miss"
