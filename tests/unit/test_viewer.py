"""The viewer: what it gathers, the page it writes, and the page itself in a headless Chromium."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from metrics_inputs import SPEC, TYPES, make_obs, make_values, write_inputs, write_section

from browser import CHROMIUM, Page
from error_codes import has_code
from histoloom.errors import InputError
from histoloom.metrics import score_predictions
from histoloom.viewer.page import UNKNOWN, write_page
from histoloom.viewer.thumbnail import draw_thumbnail
from histoloom.viewer.view import View, binned, view_predictions

in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def make_view(**changes: object) -> View:
    """Four tiles of two types; the labels of the last tile are unknown, the second tile is at the edge."""
    view = View(
        title="S1 (mine): ridge of experiment <loo>",
        note="Held out.",
        units="cells",
        ids=["0x0", "0x1", "1x0", "1x1"],
        xy=np.array([[100.0, 100.0], [300.0, 100.0], [100.0, 300.0], [300.0, 300.0]]),
        side=200.0,
        mpp=0.5,
        types=["T cell", "tumour"],
        layers={
            "prediction": np.array([[0, 4], [1, 3], [2, 1.5], [5, 0]], np.float32),
            "labels": np.array([[1, 2], [1, 3], [2, 1], [np.nan, np.nan]], np.float32),
        },
        columns={"edge": np.array([False, True, False, False]), "tissue_fraction": np.array([1, 0.5, 1, 1])},
        held_out={"T cell": {"mean": 0.125, "here": 0.5}, "tumour": {"mean": 0.75}},
        picture=np.full((200, 200, 3), 230, np.uint8),
        scale=0.5,
    )
    return replace(view, **changes)  # type: ignore[arg-type]


def read_back(page: Path, name: str, kind: str) -> np.ndarray:
    """Decode an array of the page without its script."""
    text = re.search(rf'id="{name}">([^<]*)<', page.read_text())
    assert text
    return np.frombuffer(base64.b64decode(text[1]), kind)


def test_the_page_holds_the_values(tmp_path: Path) -> None:
    view = make_view()
    write_page(view, tmp_path / "v.html")
    text = (tmp_path / "v.html").read_text()
    assert "<loo>" not in text
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', text)[1].replace("<\\/", "</"))
    packed = read_back(tmp_path / "v.html", "layer-labels", "<u2").reshape(2, 4).T
    assert (packed == UNKNOWN).tolist() == np.isnan(view.layers["labels"]).tolist()
    low, high = np.array(facts["ranges"]["prediction"]).reshape(2, 2).T
    values = read_back(tmp_path / "v.html", "layer-prediction", "<u2").reshape(2, 4).T / (UNKNOWN - 1)
    assert values * (high - low) + low == pytest.approx(view.layers["prediction"], abs=1e-4)
    assert text.count("data:image/jpeg") == 1


def test_many_cells_become_means_of_squares() -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 1000, (5000, 2))
    values = np.column_stack([xy[:, 0], np.where(xy[:, 1] < 500, np.nan, 7)]).astype(np.float32)
    names = [str(i) for i in range(5000)]
    view = make_view(ids=names, xy=xy, layers={"labels": values}, columns={"edge": xy[:, 0] < 500}, picture=None)
    small = binned(view, 100)
    assert len(small.ids) <= 121
    assert small.columns["cells"].sum() == 5000
    assert binned(view, 5000) is view
    inside = np.abs(xy - small.xy[7]).max(axis=1) <= small.side / 2
    assert small.columns["cells"][7] == inside.sum()
    assert small.layers["labels"][7, 0] == pytest.approx(xy[inside, 0].mean(), rel=1e-5)
    below = small.xy[:, 1] < 500 - small.side
    assert np.isnan(small.layers["labels"][below, 1]).all()
    assert np.nanmin(small.layers["labels"][:, 1]) == 7
    assert small.columns["edge"][small.xy[:, 0] < 500 - small.side].all()
    assert not small.columns["edge"][small.xy[:, 0] > 500 + small.side].any()


def test_a_view_gathers_its_section_and_the_scores_of_its_types(tmp_path: Path) -> None:
    obs = make_obs({("A", "A1"): 30, ("B", "B1"): 36})
    values = make_values(obs)
    prediction = values + np.random.default_rng(0).normal(size=values.shape)
    files = write_inputs(tmp_path, obs, values, prediction)
    score_predictions(spec=SPEC, experiment="loo", model="ridge", out=tmp_path / "m.parquet", **files)
    part = obs[obs["sample"] == "B1"]
    sample = write_section(tmp_path / "B1.h5ad", "demo", "B1", part)
    view = view_predictions(predictions=files["predictions"], sample=sample, metrics=tmp_path / "m.parquet")
    here = (obs["sample"] == "B1").to_numpy()
    assert view.layers["labels"] == pytest.approx(values[here], rel=1e-6)
    assert list(view.ids) == part["obs_id"].tolist()
    for i, name in enumerate(TYPES):
        r = {
            s: np.corrcoef(values[obs["sample"] == s, i], prediction[obs["sample"] == s, i])[0, 1] for s in ("A1", "B1")
        }
        assert view.held_out[name]["here"] == pytest.approx(r["B1"], rel=1e-4)
        assert view.held_out[name]["mean"] == pytest.approx(np.mean(list(r.values())), rel=1e-4)
    other = write_section(tmp_path / "Z9.h5ad", "demo", "Z9", part)
    with pytest.raises(InputError, check=has_code("view-no-section")):
        view_predictions(predictions=files["predictions"], sample=other)


@in_chromium
def test_clicks_change_what_is_shown(tmp_path: Path) -> None:
    write_page(make_view(), tmp_path / "v.html")
    column = "(name => Array.from(Bokeh.documents[0].roots()[1].renderers.find(r => r.name === 'tiles').data_source.data[name]))"
    with Page(f"file://{tmp_path}/v.html") as page:
        page.wait("document.body?.dataset.ready === 'yes'")
        # The type that held-out sections speak for most comes first.
        assert page.run("document.getElementById('type').selectedOptions[0].text") == "tumour"
        assert page.run(f"{column}('prediction')") == pytest.approx([4, 3, 1.5, 0], abs=1e-3)
        assert page.run(f"{column}('difference')")[:3] == pytest.approx([2, 0, 0.5], abs=1e-3)
        assert page.run(f"{column}('r')")[0] == "0.75"
        assert page.run("Bokeh.documents[0].roots().map(f => f.title.text)") == [
            "H&E", "prediction", "labels", "prediction − labels",
        ]  # fmt: skip
        page.send("Input.dispatchKeyEvent", type="keyDown", key="p", text="p")
        assert page.run("document.getElementById('summary').textContent") == (
            "T cell, cells. Correlation on held-out sections: 0.13; on this one: 0.50."
        )
        assert page.run(f"{column}('prediction')") == pytest.approx([0, 1, 2, 5], abs=1e-3)
        page.run("document.getElementById('hide-edge').click()")
        assert [v > 0 for v in page.run(f"{column}('alpha')")] == [True, False, True, True]
        page.run("document.getElementById('outlines').click()")
        line = "Bokeh.documents[0].roots()[0].renderers.find(r => r.name === 'tiles').glyph.line_alpha.value"
        assert page.run(line) > 0
        # Panels move together.
        page.run("Bokeh.documents[0].roots()[3].x_range.start = 60")
        assert page.run("Bokeh.documents[0].roots()[0].x_range.start") == 60
        page.send("Input.dispatchKeyEvent", type="keyDown", key="p", text="p")
        assert page.run(f"{column}('prediction')") == [0, 0, 1, 1]  # the most abundant: tumour, tumour, T cell, T cell
        assert page.run(f"{column}('difference')") == [None] * 3 + [1]
        assert page.run("document.getElementById('legend').textContent") == "tumourT cell"
        page.frames()
        assert page.run("viewer.picture().width") > 1000
        assert page.requests == [f"file://{tmp_path}/v.html"]
        rows = page.run("viewer.table()").splitlines()
        assert rows[0].split("\t")[:5] == ["obs_id", "x [px]", "y [px]", "tissue_fraction", "edge"]
        assert rows[2].split("\t")[:7] == ["0x1", "300", "100", "0.5", "1", "1", "3"]
        assert rows[4].split("\t")[7:] == ["", ""]
        features = json.loads(page.run("viewer.geojson()"))["features"]
        assert features[0]["properties"]["classification"]["name"] == "tumour"
        assert features[0]["geometry"]["coordinates"][0][0] == [0, 0]
        assert "labels: tumour [cells]" not in features[3]["properties"]["measurements"]
        assert page.errors == []


@in_chromium
def test_files_are_saved_and_values_shown_under_the_pointer(tmp_path: Path) -> None:
    write_page(make_view(), tmp_path / "v.html")
    with Page(f"file://{tmp_path}/v.html") as page:
        page.wait("document.body?.dataset.ready === 'yes'")
        page.frames()
        # The middle of the upper left tile in the second panel.
        x, y = page.run("""(() => {
            const view = Bokeh.index.find_one(Bokeh.documents[0].roots()[1]), frame = view.frame;
            const box = view.el.getBoundingClientRect();
            return [box.x + frame.x_scale.compute(50), box.y + frame.y_scale.compute(50)];
        })()""")
        page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        page.frames(5)
        text = page.run("""(() => {
            const texts = [], look = node => { for (const e of node.querySelectorAll('*')) {
                if (e.shadowRoot) look(e.shadowRoot); if (e.className === 'bk-tooltip-custom' || e.tagName === 'TABLE' || (e.classList && [...e.classList].some(c => c.includes('tooltip')))) texts.push(e.textContent);
            } };
            look(document);
            return texts.join(' | ');
        })()""")
        assert "0x0" in text
        assert "held-out r of this type" in text
        assert "0.75" in text
        for button, ending in (("tsv", "tsv"), ("geojson", "geojson"), ("png", "png")):
            page.run(f"document.getElementById('save-{button}').click()")
            page.saved(ending)
        assert page.errors == []


@in_chromium
def test_labels_without_a_picture(tmp_path: Path) -> None:
    view = make_view(layers={"labels": make_view().layers["labels"]}, picture=None, held_out={}, mpp=None, columns={})
    write_page(view, tmp_path / "v.html")
    draw_thumbnail(view, tmp_path / "v.jpg")
    with Page(f"file://{tmp_path}/v.html") as page:
        page.wait("document.body?.dataset.ready === 'yes'")
        assert page.run("Bokeh.documents[0].roots().map(f => f.title.text)") == ["labels"]
        assert "Correlation" not in page.run("document.getElementById('summary').textContent")
        assert page.errors == []


@in_chromium
def test_places_on_a_wide_slide_keep_their_pixels(tmp_path: Path) -> None:
    view = make_view(xy=make_view().xy + np.array([123_456.0, 98_765.0]), picture=None)
    write_page(view, tmp_path / "v.html")
    with Page(f"file://{tmp_path}/v.html") as page:
        page.wait("document.body?.dataset.ready === 'yes'")
        assert page.run("viewer.table()").splitlines()[2].split("\t")[1:3] == ["123756", "98865"]
        ring = json.loads(page.run("viewer.geojson()"))["features"][1]["geometry"]["coordinates"][0]
        assert ring[0] == [123656, 98765]
        assert ring[2] == [123856, 98965]
