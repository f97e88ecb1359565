"""Figures and GeoJSON: drawn without warnings, same bytes twice, degenerate inputs too."""

from __future__ import annotations

import json
import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from metrics_inputs import SPEC, TYPES, make_obs, make_values, write_inputs, write_labels, write_section

from error_codes import has_code
from histoloom.checks.base import draw_check, run_check
from histoloom.errors import InputError
from histoloom.identity import canonical_json
from histoloom.metrics import score_predictions
from histoloom.metrics.scored import read_predictions
from histoloom.report.baselines import _skill
from histoloom.report.coloc import cluster_order, draw_coloc
from histoloom.report.curves import draw_curves, read_curves
from histoloom.report.errors import find_cases
from histoloom.report.experiment import report_experiment
from histoloom.report.maps import choose_types, draw_maps, draw_ranks, median_section, rank_types
from histoloom.report.results import overall, read_results
from histoloom.report.side_by_side import draw_coloc_models, draw_models, shown_types
from histoloom.report.slides import report_slide

SPEC_DRAWN = {**SPEC, "models": ["flat", "ridge"]}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two models, one of them undefined everywhere, a flagged patient, and the sections' pictures."""
    folder = tmp_path_factory.mktemp("figures")
    sections = {("A", "A1"): 30, ("A", "A2"): 20, ("B", "B1"): 36, ("C", "C1"): 25}
    obs = make_obs(sections, qc_flags={"C1": "low resolution"})
    values = make_values(obs)
    values[(obs["sample"] == "B1").to_numpy(), 3] = 0.0
    predictions = {"ridge": values + np.random.default_rng(0).normal(size=values.shape), "flat": np.ones_like(values)}
    files = {}
    for model, prediction in predictions.items():
        files[model] = write_inputs(folder / model, obs, values, prediction)
        score_predictions(spec=SPEC, experiment="loo", model=model, out=folder / f"{model}.parquet", **files[model])
    state_side(files["ridge"]["predictions"], sorted(s for _, s in sections))
    samples = [write_section(folder / f"{s}.h5ad", "demo", s, part) for s, part in obs.groupby("sample")]
    return folder, obs, values, files, samples


def state_side(path, samples):
    """Add what predictions over slides state of each section."""
    with h5py.File(path, "r+") as file:
        metadata = json.loads(file["uns/histoloom"][()])
        metadata["sections"] = [{"cohort": "demo", "sample": s, "pitch_px": 200.0} for s in samples]
        del file["uns/histoloom"]
        file["uns/histoloom"] = canonical_json(metadata)
        file["uns/histoloom"].attrs.update({"encoding-type": "string", "encoding-version": "0.2.0"})


def outputs_of_slide(folder, sample):
    return {
        "table": folder / f"{sample}.tsv",
        "types": folder / f"{sample}.types.tsv",
        "geojson": folder / f"{sample}.geojson",
        "figure": folder / f"{sample}.jpg",
    }


def draw_all(folder, files, samples, out, models=("ridge", "flat")):
    out.mkdir(exist_ok=True)
    metrics = [folder / "flat.parquet", folder / "ridge.parquet"]
    tables = {
        f"{name}_{end}": out / f"{name}.{end}" for name in ("summary", "baselines") for end in ("csv", "md", "html")
    }
    pictures = {name: out / f"{name}.png" for name in ("bars", "baselines", "between", "curves")}
    report_experiment(experiment="loo", spec=SPEC_DRAWN, metrics=metrics, efficiency=[], out=tables | pictures)
    for model in models:
        names, paths = {"experiment": "loo", "model": model}, files[model]
        draw_maps(**names, predictions=paths["predictions"], samples=samples, out=out / f"maps-{model}.jpg")
        draw_ranks(**names, **paths, out=out / f"ranks-{model}.png")
        draw_coloc(**names, metrics=folder / f"{model}.parquet", out=out / f"coloc-{model}.png")
    both = {model: files[model] for model in ("ridge", "flat")}
    draw_models(
        experiment="loo", models={m: f["predictions"] for m, f in both.items()}, samples=samples,
        target=files["ridge"]["target"], folds=files["ridge"]["folds"], out=out / "models.jpg",
    )  # fmt: skip
    draw_coloc_models(experiment="loo", models={m: folder / f"{m}.parquet" for m in both}, out=out / "models_coloc.png")
    report_slide(
        predictions=files["ridge"]["predictions"],
        cohort="demo",
        sample="B1",
        section=folder / "B1.h5ad",
        out=outputs_of_slide(out, "B1"),
    )
    return sorted(path.name for path in out.iterdir())


def test_every_figure_is_drawn_without_warnings_and_twice_the_same(drawn, tmp_path):
    folder, _, _, files, samples = drawn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = draw_all(folder, files, samples, tmp_path / "a")
    again = draw_all(folder, files, samples, tmp_path / "b", models=("ridge",))
    assert (len(names), len(again)) == (22, 19)
    for name in again:
        picture = (tmp_path / "a" / name).read_bytes()
        assert picture.startswith(b"\x89PNG") == name.endswith(".png")
        assert picture.startswith(b"\xff\xd8") == name.endswith(".jpg")
        assert picture == (tmp_path / "b" / name).read_bytes(), name
        assert b"Matplotlib" not in picture


def test_the_skill_in_the_figure_is_that_of_the_table(drawn):
    folder = drawn[0]
    results = read_results("loo", SPEC_DRAWN, [folder / "flat.parquet", folder / "ridge.parquet"])
    rows = results.measured()
    patients = _skill(rows)
    assert patients["value"].nunique() > 2
    for model, part in patients.groupby("model"):
        told = overall(rows[rows["model"] == model], "cohort", "l1_skill")["value"].item()
        assert np.average(part["value"], weights=part["weight"]) == pytest.approx(told, abs=1e-12)


def test_checks_are_drawn(drawn, tmp_path):
    _, obs, values, _, _ = drawn
    obs = obs.assign(region=np.where(values[:, 4] > np.median(values[:, 4]), "immune infiltrate", "fat"))
    samples = [write_section(tmp_path / f"{s}.h5ad", "demo", s, part) for s, part in obs.groupby("sample")]
    labels = write_labels(tmp_path / "l.h5ad", obs, values, TYPES)
    base = {"name": "j", "title": "", "labels": "c2l", "cohorts": ["demo"]}
    cases = {
        "truth": ({"against": "t"}, [labels]),
        "labels": ({"against": "t", "map": {"T": ["T", "B"]}}, [labels]),
        "regions": ({"pairs": [{"type": "T", "region": "immune infiltrate"}], "ignore": []}, samples),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind, (more, against) in cases.items():
            spec = {"kind": kind, **base, **more}
            run_check(spec=spec, labels=[labels], against=against, out=tmp_path / f"{kind}.parquet")
            draw_check(spec=spec, metrics=tmp_path / f"{kind}.parquet", out=tmp_path / f"{kind}.png")
            assert (tmp_path / f"{kind}.png").stat().st_size > 5000


def test_the_section_drawn_is_the_median_one_without_a_qc_flag(drawn):
    _, _, _, files, _ = drawn
    scored = read_predictions(files["ridge"]["predictions"])
    _, _, sample, index = median_section(scored)
    from histoloom.report.maps import section_scores

    scores = section_scores(scored).query("qc_flag == ''").set_index("sample")["value"]
    assert scores[sample] == scores.median()
    assert set(scored.obs.iloc[index]["sample"]) == {sample}


def test_types_drawn_span_best_to_worst_and_skip_undefined():
    r = np.array([0.1, np.nan, 0.9, 0.5, -0.3, 0.7])
    assert choose_types(r, most=3) == [2, 3, 4]
    assert choose_types(r, most=4)[0] == 2
    assert choose_types(np.array([np.nan])) == [0]


def test_types_side_by_side_are_chosen_by_ranks_of_labels_alone():
    ranks = pd.DataFrame({"training": [3, 1, 5, 2, 4], "test": [3, 2, 4, 5, 1], "prediction": [5, 4, 3, 2, 1]},
                         index=list("abcde"))  # fmt: skip
    chosen = shown_types(ranks)
    # d and e move by 3 ranks; e is among the least abundant already.
    assert list(chosen) == ["b", "d", "e", "c"]
    assert shown_types(ranks.assign(prediction=[1, 2, 3, 4, 5])) == chosen
    assert list(shown_types(ranks.loc[["b"]])) == ["b"]
    assert list(shown_types(ranks.loc[["b", "d"]])) == ["b", "d"]


@pytest.mark.parametrize("held_out", [False, True])
def test_curves_of_folds_with_other_numbers_of_epochs_are_drawn(tmp_path, held_out):
    rng, trainings = np.random.default_rng(0), []
    for fold, epochs in (("a", 9), ("b", 9), ("all", 12)):
        more = {"val_loss": rng.random(epochs).tolist(), "val_score": rng.random(epochs).tolist()}
        trainings.append({"fold": fold, "seed": 0, "part": "fit", "train_loss": rng.random(epochs).tolist()}
                         | (more if held_out and fold != "all" else {}))  # fmt: skip
    records = {"mlp": {"curves": trainings}, "ridge": {}, "hist2cell": {"curves": trainings[:1]}}
    for model, record in records.items():
        (tmp_path / f"{model}.json").write_text(json.dumps(record))
    paths = [tmp_path / f"{model}.json" for model in records]
    assert list(read_curves(paths)) == ["mlp", "hist2cell"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves(title="t", efficiency=paths, out=tmp_path / "curves.png")
        draw_curves(title="t", efficiency=[], out=tmp_path / "none.png")
    assert (tmp_path / "curves.png").stat().st_size > 2 * (tmp_path / "none.png").stat().st_size


def test_clusters_are_put_together():
    r = np.kron(np.eye(2), np.ones((3, 3))) - 0.5
    shuffle = np.array([0, 3, 1, 4, 2, 5])
    order = shuffle[cluster_order(r[np.ix_(shuffle, shuffle)])] // 3
    assert np.abs(np.diff(order)).sum() == 1


def test_an_unknown_section_or_one_without_a_side_is_named(drawn, tmp_path):
    folder, _, _, files, _ = drawn
    for model, sample, code in (("ridge", "Z9", "report-no-section"), ("flat", "B1", "report-no-side")):
        with pytest.raises(InputError, check=has_code(code)):
            report_slide(predictions=files[model]["predictions"], cohort="demo", sample=sample,
                         section=folder / "B1.h5ad", out=outputs_of_slide(tmp_path, "B1"))  # fmt: skip


def test_geojson_is_closed_squares_around_the_centres_with_their_values(drawn, tmp_path):
    folder, obs, _, files, _ = drawn
    path, out = files["ridge"]["predictions"], outputs_of_slide(tmp_path, "B1")
    held_out = {TYPES[1]: {"mean": 0.5}, TYPES[0]: {"mean": 0.25}}
    report_slide(predictions=path, cohort="demo", sample="B1", section=folder / "B1.h5ad", out=out, held_out=held_out)
    types = pd.read_csv(out["types"], sep="\t")
    assert types["type"].tolist()[:2] == [TYPES[1], TYPES[0]]
    assert types["held_out_r"].tolist()[:2] == [0.5, 0.25]
    assert types["held_out_r"][2:].isna().all()
    assert types["share_most_abundant"].sum() == pytest.approx(1, abs=1e-3)
    table = pd.read_csv(out["table"], sep="\t")
    assert table.columns.tolist() == ["obs_id", "x [px]", "y [px]", *TYPES]
    part = obs[obs["sample"] == "B1"]
    assert table["obs_id"].tolist() == part["obs_id"].tolist()
    assert table[["x [px]", "y [px]"]].to_numpy() == pytest.approx(part[["x", "y"]].to_numpy())
    content = json.loads(out["geojson"].read_text())
    assert content["type"] == "FeatureCollection"
    part = obs[obs["sample"] == "B1"].set_index("obs_id")
    assert [f["properties"]["name"] for f in content["features"]] == part.index.tolist()
    scored = read_predictions(path)
    values = pd.DataFrame(scored.prediction, columns=scored.types)[(scored.obs["sample"] == "B1").to_numpy()].to_numpy()
    for feature, row in zip(content["features"], values, strict=True):
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert len(ring) == 5
        x, y = np.asarray(ring[:-1]).T
        area = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
        assert area == pytest.approx(200.0**2)  # positive: counterclockwise, as RFC 7946 has it
        centre = part.loc[feature["properties"]["name"], ["x", "y"]]
        assert np.asarray(ring[:-1]).mean(axis=0) == pytest.approx(centre.to_numpy(float))
        assert feature["properties"]["objectType"] == "tile"
        assert list(feature["properties"]["measurements"]) == TYPES
        assert list(feature["properties"]["measurements"].values()) == pytest.approx(row, rel=1e-5)


def test_genes_outside_a_folds_panel_are_in_no_picture_and_no_rank_of_it(tmp_path):
    obs = make_obs({(p, f"{p}1"): 30 for p in "ABC"})
    values = make_values(obs)
    made = values + np.random.default_rng(0).normal(size=values.shape)
    paths = write_inputs(tmp_path, obs, values, made)
    # Each fold has no value of one gene of its own; gene 4 is of the target only.
    data = anndata.read_h5ad(paths["predictions"])[:, :4].copy()
    for fold, gene in zip("ABC", (0, 1, 3), strict=True):
        rows = (data.obs["fold"] == f"patient-{fold}").to_numpy()
        data.X[rows, gene] = data.layers["labels"][rows, gene] = np.nan
    data.uns["histoloom"] = canonical_json({**json.loads(data.uns["histoloom"]), "target_kind": "expression"})
    data.write_h5ad(paths["predictions"])
    samples = [write_section(tmp_path / f"{s}.h5ad", "demo", s, part) for s, part in obs.groupby("sample")]
    scored = read_predictions(paths["predictions"])
    ranks = rank_types(scored, "patient-B", paths["target"], paths["folds"])
    panel, tested = [0, 2, 3], (obs["patient"] == "B").to_numpy()
    assert list(ranks.index) == [TYPES[i] for i in panel]
    for column, part in (("training", values[~tested]), ("test", values[tested]), ("prediction", made[tested])):
        order = sorted(panel, key=lambda i, part=part: -part[:, i].mean())
        assert list(ranks.sort_values(column).index) == [TYPES[i] for i in order]
    cases = find_cases(paths["predictions"])
    assert set(cases["target"]) == set(TYPES[:4])
    assert np.isfinite(cases[["label", "prediction", "label_rank"]]).all(axis=None)
    for gene, fold in zip((0, 1, 3), "ABC", strict=True):
        assert fold not in set(cases.loc[cases["target"] == TYPES[gene], "patient"])
    names = {"experiment": "loo", "model": "ridge"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_maps(**names, predictions=paths["predictions"], samples=samples, out=tmp_path / "maps.png")
        draw_ranks(**names, **paths, out=tmp_path / "ranks.png")
