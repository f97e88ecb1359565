"""Checks of choices and of held-out predictions: sensitivity, regions of predictions, kept tiles; all their figures."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from metrics_inputs import SPEC, make_obs, make_values, write_inputs, write_labels, write_section
from sklearn.metrics import roc_auc_score

from error_codes import has_code
from histoloom.artefacts import write_parquet
from histoloom.checks.base import draw_check, read_predicted, run_check
from histoloom.errors import InputError
from histoloom.metrics import score_predictions
from histoloom.metrics.rows import read_metrics
from histoloom.report.attainable import report_attainable
from histoloom.report.results import with_marks
from histoloom.schemas import check, load_schema

OBS = make_obs({("A", "A1"): 49, ("A", "A2"): 49, ("B", "B1"): 49})
NAMES = ["Plasma", "Cancer", "Fibro"]


def run(kind: str, folder, checked, against, /, **more) -> pd.DataFrame:
    """Validate, score, draw twice, and return the rows."""
    spec = {"kind": kind, **more}
    check(spec, load_schema(f"check.{kind}"), "checks.j")
    spec["name"] = "j"
    run_check(spec=spec, labels=checked, against=against, out=folder / "j.parquet")
    for name in ("a.png", "b.png"):
        draw_check(spec=spec, metrics=folder / "j.parquet", out=folder / name)
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()
    return read_metrics([folder / "j.parquet"])


def variants(tmp_path, **values) -> list:
    files = []
    for name, (numbers, types) in values.items():
        (tmp_path / name).mkdir()
        files.append(write_labels(tmp_path / name / "demo.h5ad", OBS, numbers, types))
    return files


def test_labels_made_in_several_ways_are_compared_pair_by_pair(tmp_path):
    base = make_values(OBS, types=3)
    noisy = base + np.random.default_rng(0).normal(size=base.shape)
    files = variants(tmp_path, n30=(base, NAMES), n60=(2 * base, NAMES), other=(noisy[:, [2, 0]], ["Fibro", "Plasma"]))
    rows = run("sensitivity", tmp_path, files, [], labels=["n30", "n60", "other"], cohorts=["demo"])
    cohort = rows[rows["aggregation"] == "cohort"].set_index(["gene_set", "k", "metric", "target"])["value"]
    assert cohort["n30", "n60", "cc", "Plasma"] == pytest.approx(1)
    assert cohort["n30", "n60", "abundance_ratio", ""] == pytest.approx(2)
    at = (OBS["sample"] == "A1").to_numpy()
    section = rows[(rows["aggregation"] == "section") & (rows["sample"] == "A1") & (rows["k"] == "other")]
    got = section[(section["gene_set"] == "n30") & (section["target"] == "Fibro")]["value"].iloc[0]
    assert got == pytest.approx(np.corrcoef(base[at, 2], noisy[at, 2])[0, 1])
    assert ("n30", "other", "cc", "Cancer") not in cohort.index
    assert set(rows["model"]) == {"n30+n60+other"}


def test_two_levels_of_a_reference_meet_at_the_coarser_one(tmp_path):
    """Plasma and Fibro are one type of the coarse entry; fine entries are still compared type by type."""
    base = make_values(OBS, types=3)
    coarse = np.column_stack([base[:, 1], base[:, 0] + base[:, 2]])
    files = variants(tmp_path, fine=(base, NAMES), other=(base + 1, NAMES), coarse=(coarse, ["Cancer", "Rest"]))
    names = ["fine", "other", "coarse"]
    merge = {"Rest": ["Plasma", "Fibro", "absent here"]}
    rows = run("sensitivity", tmp_path, files, [], labels=names, cohorts=["demo"], merge=merge)
    cohort = rows[rows["aggregation"] == "cohort"].set_index(["gene_set", "k", "metric", "target"])["value"]
    assert cohort["fine", "coarse", "cc", "Rest"] == pytest.approx(1)
    assert cohort["fine", "coarse", "cc", "Cancer"] == pytest.approx(1)
    assert ("fine", "coarse", "cc", "Plasma") not in cohort.index
    assert set(rows[(rows["k"] == "other") & (rows["metric"] == "cc")]["target"]) == {"", *NAMES}
    assert cohort["fine", "coarse", "abundance_ratio", ""] == pytest.approx(1)


def test_a_sensitivity_says_in_what_its_entries_differ_and_that_fits_were_short(tmp_path):
    base, files = make_values(OBS, types=3), []
    for name, more in (
        ("n30", {"n_cells_per_location": 30}), ("a200", {"n_cells_per_location": 30, "detection_alpha": 200}),
        ("counted", {"n_cells_per_location": "nuclei"}),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        spec = {"method": "cell2location", "detection_alpha": 20, "max_epochs": 9, **more}
        facts = {"spec": spec, "demo_fit": name == "a200", "qc": [{"n_cells_per_location": 17.0}]}
        files.append(write_labels(tmp_path / name / "demo.h5ad", OBS, base, NAMES, **facts))
    rows = run("sensitivity", tmp_path, files, [], labels=["n30", "a200", "counted"], cohorts=["demo"])
    stamp = json.loads(rows["protocol"].iloc[0])["labels"]
    assert stamp["demo_fit"] is True
    assert stamp["variants"] == {
        "n30": {"n_cells_per_location": 30, "detection_alpha": 20},
        "a200": {"n_cells_per_location": 30, "detection_alpha": 200},
        "counted": {"n_cells_per_location": "nuclei: 17", "detection_alpha": 20},
    }
    assert with_marks("Labels", rows) == "Labels [demo fit]"


def test_variants_without_a_common_type_are_refused(tmp_path):
    base = make_values(OBS, types=2)
    files = variants(tmp_path, a=(base, ["x", "y"]), b=(base, ["u", "v"]))
    with pytest.raises(InputError, check=has_code("check-no-shared-type")):
        run("sensitivity", tmp_path, files, [], labels=["a", "b"], cohorts=["demo"])


def test_label_methods_next_to_each_other(tmp_path):
    """Cells and proportions are compared as proportions; a method that says nothing of a type scores 0 on it."""
    truth = make_values(OBS, types=3)
    shares = truth / truth.sum(axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    noisy = np.abs(shares + 0.2 * rng.normal(size=shares.shape))
    silent = np.column_stack([np.full(len(OBS), 0.2), noisy[:, 1:] / noisy[:, 1:].sum(axis=1, keepdims=True) * 0.8])
    results = tmp_path / "results"
    for name, values in {"c2l": truth * 30, "nnls": noisy, "silent": silent, "gt": shares}.items():
        (results / "labels" / name).mkdir(parents=True)
        write_labels(results / "labels" / name / "demo.h5ad", OBS, values, NAMES)
    names = ["c2l", "nnls", "silent"]
    costs = results / "efficiency" / "labels" / "nnls" / "demo"
    costs.mkdir(parents=True)
    for part, seconds in (("a.0", 2.5), ("b.0", 4.0)):
        record = {"seconds": seconds, "peak_rss_mb": 100 * seconds, "peak_gpu_mb": None}
        (costs / f"{part}.json").write_text(json.dumps(record))
    regions = np.where(shares[:, 1] > np.median(shares[:, 1]), "tumour", "rest")
    (results / "samples" / "demo").mkdir(parents=True)
    samples = []
    for sample, part in OBS.assign(region=regions).groupby("sample"):
        path = results / "samples" / "demo" / f"{sample}.h5ad"
        samples.append(write_section(path, "demo", sample, part, patient=part["patient"].iloc[0]))
    rows = run(
        "label_methods", tmp_path, [results / "labels" / n / "demo.h5ad" for n in names],
        [results / "labels" / "gt" / "demo.h5ad", *sorted(costs.glob("*.json")), *samples],
        labels=names, cohorts=["demo"], against="gt", pairs=[{"type": "Cancer", "region": "tumour"}],
    )  # fmt: skip
    cohort = rows[rows["aggregation"] == "cohort"].set_index(["model", "metric", "gene_set", "target"])["value"]
    assert cohort["c2l", "cc", "truth", ""] == pytest.approx(1)
    assert cohort["silent", "cc", "truth", "Plasma"] == 0
    assert cohort["nnls", "seconds", "", ""] == 6.5
    assert cohort["nnls", "peak_rss_mb", "", ""] == 400
    assert ("c2l", "seconds") not in {key[:2] for key in cohort.index}
    assert cohort["c2l", "auroc", "", "Cancer"] == 1
    at = (OBS["sample"] == "A1").to_numpy()
    nnls = noisy / noisy.sum(axis=1, keepdims=True)
    expected = np.mean([np.corrcoef(shares[at, i], nnls[at, i])[0, 1] for i in range(3)])
    own = rows[(rows["model"] == "c2l+nnls") & (rows["sample"] == "A1") & (rows["target"] == "")]
    assert own["value"].tolist() == pytest.approx([expected])


def predictions(tmp_path, seed=1) -> tuple:
    values = make_values(OBS, types=3)
    made = values + np.random.default_rng(seed).normal(size=values.shape)
    return made, write_inputs(tmp_path / "in", OBS, values, made, types=NAMES)


def sections(tmp_path) -> tuple:
    region = np.where(np.arange(len(OBS)) % 3 == 0, "immune infiltrate", "connective tissue").astype(object)
    region[np.arange(len(OBS)) % 5 == 0] = ""
    obs = OBS.assign(region=region)
    return obs, [write_section(tmp_path / f"{s}.h5ad", "demo", s, part) for s, part in obs.groupby("sample")]


def test_held_out_predictions_are_held_against_regions(tmp_path):
    made, files = predictions(tmp_path)
    obs, paths = sections(tmp_path)
    pairs = [{"type": "Plasma", "region": "immune infiltrate"}]
    rows = run("predicted_regions", tmp_path, [files["predictions"]], paths, experiment="loo", pairs=pairs)
    assert set(rows["model"]) == {"ridge"}
    for sample in ("A1", "B1"):
        at = ((obs["sample"] == sample) & (obs["region"] != "")).to_numpy()
        inside = (obs["region"] == "immune infiltrate").to_numpy()[at]
        found = rows[(rows["metric"] == "auroc") & (rows["sample"] == sample) & (rows["aggregation"] == "section")]
        assert found["value"].iloc[0] == pytest.approx(roc_auc_score(inside, made[at, 0]))


def test_predictions_read_as_labels_are_one_row_per_observation(tmp_path):
    made, files = predictions(tmp_path)
    (labels,) = read_predicted(files["predictions"])
    assert labels.values == pytest.approx(made)
    assert list(labels.obs.index) == list(OBS.index)


def test_predicted_cellularity_has_a_figure(tmp_path):
    made, files = predictions(tmp_path)
    counted = []
    for sample, part in OBS.groupby("sample"):
        total = made[(OBS["sample"] == sample).to_numpy()].sum(axis=1)
        table = pd.DataFrame({"obs_id": part["obs_id"].to_numpy(), "nuclei": total / 2, "nuclei_area_um2": 0.0})
        write_parquet(table, tmp_path / f"{sample}.parquet", {"cohort": "demo", "sample": sample})
        counted.append(tmp_path / f"{sample}.parquet")
    rows = run("predicted_nuclei", tmp_path, [files["predictions"]], counted, experiment="loo")
    cohort = rows[rows["aggregation"] == "cohort"].set_index("metric")["value"]
    assert cohort["nuclei_cc"] == pytest.approx(1)
    assert cohort["nuclei_ratio"] == pytest.approx(2)


def test_tiles_kept_per_region_are_counted_against_all(tmp_path):
    obs, paths = sections(tmp_path)
    tables = []
    for sample, part in obs.groupby("sample"):
        kept = ~((part["region"] == "connective tissue") & (np.arange(len(part)) % 2 == 0)).to_numpy()
        reason = np.where(kept, "", "background")
        table = pd.DataFrame({"obs_id": part["obs_id"].to_numpy(), "kept": kept, "reason": reason})
        write_parquet(table, tmp_path / f"{sample}.t", {"cohort": "demo", "sample": sample, "patient": sample[0]})
        tables.append((tmp_path / f"{sample}.t").rename(tmp_path / f"{sample}.tiles.parquet"))
    rows = run("kept", tmp_path, tables, paths, tiles="um112", cohorts=["demo"])
    section = rows[(rows["aggregation"] == "section") & (rows["sample"] == "A1") & (rows["metric"] == "kept")]
    value = section.set_index("target")["value"]
    a1 = obs[obs["sample"] == "A1"]
    lost = ((a1["region"] == "connective tissue") & (np.arange(len(a1)) % 2 == 0)).sum()
    assert value["immune infiltrate"] == 1
    assert value["connective tissue"] == pytest.approx(1 - lost / (a1["region"] == "connective tissue").sum())
    assert value["all"] == pytest.approx(1 - lost / len(a1))


def test_ceiling_and_colocalization_have_figures_and_cc_stands_beside_its_ceiling(tmp_path):
    made, files = predictions(tmp_path)
    base, rng = make_values(OBS, types=3), np.random.default_rng(0)
    halves = [np.abs(base + rng.normal(size=base.shape) * [0.2, 0.5, 30.0]) for _ in range(2)]
    paths = [write_labels(tmp_path / f"h{i}.h5ad", OBS, half, NAMES) for i, half in enumerate(halves)]
    run("ceiling", tmp_path, paths[:1], paths[1:], labels="c2l", cohorts=["demo"])
    ceilings = (tmp_path / "j.parquet").rename(tmp_path / "ceilings.parquet")
    placed = [write_section(tmp_path / f"{s}.h5ad", "demo", s, p, pitch_um=200.0) for s, p in OBS.groupby("sample")]
    run("colocalization", tmp_path, paths[:1], placed, labels="c2l", cohorts=["demo"], permutations=19)
    score_predictions(spec=SPEC, experiment="loo", model="ridge", out=tmp_path / "m.parquet", **files)
    more = {"metrics": [tmp_path / "m.parquet"], "ceilings": [ceilings]}
    spec = {"name": "loo", "models": ["ridge"], "title": "t"}
    for name in ("c", "d"):
        out = {"figure": tmp_path / f"{name}.png", "csv": tmp_path / "t.csv", "md": tmp_path / "t.md"}
        report_attainable(spec=spec, out=out, **more)
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "d.png").read_bytes()
    table = pd.read_csv(tmp_path / "t.csv").set_index("target")
    assert not table.loc["Fibro", "identifiable"]
    assert table.loc["Plasma", "share_ridge"] == pytest.approx(
        table.loc["Plasma", "cc_ridge"] / table.loc["Plasma", "ceiling"], abs=1e-5
    )
    assert "## Not identifiable: 1 types" in (tmp_path / "t.md").read_text()
