"""Checks of labels: ground truth, other labels, regions; intervals and patients as the unit."""

from __future__ import annotations

import zipfile

import numpy as np
import pandas as pd
import pytest
from metrics_inputs import make_obs, make_values, write_labels, write_section
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from error_codes import has_code
from histoloom.checks.base import Labels, run_check
from histoloom.checks.regions import score_regions
from histoloom.errors import InputError
from histoloom.metrics.rows import read_metrics
from histoloom.metrics.uncertainty import auroc_with_interval, bootstrap_interval
from histoloom.schemas import check, load_schema

NAMES = ["Plasma", "Cancer", "Fibro"]
OBS = make_obs({("A", "A1"): 40, ("A", "A2"): 30, ("B", "B1"): 40})


def spec(kind: str, **more) -> dict:
    entry = {"kind": kind, "labels": "c2l", "cohorts": ["demo"], **more}
    if kind != "regions":
        entry.setdefault("against", "other")
    check(entry, load_schema(f"check.{kind}"), "checks.j")
    return {**entry, "name": "j"}


@pytest.fixture
def truth(tmp_path):
    values = make_values(OBS, types=3)
    return write_labels(tmp_path / "truth.h5ad", OBS, values, NAMES, method="truth"), values


def test_every_label_type_against_every_true_type(tmp_path, truth):
    path, ground_truth = truth
    rng = np.random.default_rng(0)
    # The labels know the types in another order and one that the ground truth lacks.
    found = np.column_stack([ground_truth[:, 2], ground_truth[:, 0], rng.normal(size=len(OBS))]) + 0.2 * rng.normal(
        size=(len(OBS), 3)
    )
    labels = write_labels(tmp_path / "l.h5ad", OBS, found, ["Fibro", "Plasma", "Mast"])
    run_check(spec=spec("truth"), labels=[labels], against=[path], out=tmp_path / "j.parquet")
    rows = read_metrics([tmp_path / "j.parquet"])
    assert set(rows["model"]) == {"c2l"}
    assert set(rows["against"]) == {"truth"}
    cc = rows[(rows["metric"] == "cc") & (rows["aggregation"] == "section")]
    assert len(cc) == 3 * 3 * 3
    one = cc[(cc["sample"] == "B1") & (cc["target"] == "Plasma") & (cc["target2"] == "Cancer")]["value"].iloc[0]
    at = (OBS["sample"] == "B1").to_numpy()
    assert one == pytest.approx(pearsonr(found[at, 1], ground_truth[at, 1]).statistic)
    check_rows = rows[rows["metric"] == "diagonal_is_max"].set_index("target")["value"]
    assert check_rows.to_dict() == {"Fibro": 1.0, "Plasma": 1.0}


def test_swapped_types_fail_the_diagonal(tmp_path, truth):
    path, ground_truth = truth
    labels = write_labels(tmp_path / "l.h5ad", OBS, ground_truth, ["Cancer", "Plasma", "Fibro"])
    run_check(spec=spec("truth"), labels=[labels], against=[path], out=tmp_path / "j.parquet")
    rows = read_metrics([tmp_path / "j.parquet"])
    found = rows[rows["metric"] == "diagonal_is_max"].set_index("target")["value"].to_dict()
    assert found == {"Cancer": 0.0, "Plasma": 0.0, "Fibro": 1.0}


def test_labels_against_labels_through_a_map_of_sums_on_shared_observations(tmp_path, truth):
    path, ground_truth = truth
    rng = np.random.default_rng(0)
    order = rng.permutation(len(OBS))[5:]
    shuffled = OBS.iloc[order]
    epithelial = (ground_truth[:, 0] + ground_truth[:, 1])[order] + rng.normal(size=len(order))
    labels = write_labels(
        tmp_path / "l.h5ad", shuffled, np.column_stack([epithelial, ground_truth[order, 2]]), ["Epi", "Str"]
    )
    entry = spec("labels", map={"Epi": ["Plasma", "Cancer"], "Str": "Fibro"})
    run_check(spec=entry, labels=[labels], against=[path], out=tmp_path / "j.parquet")
    rows = read_metrics([tmp_path / "j.parquet"]).query("aggregation == 'section'")
    at = (shuffled["sample"] == "A1").to_numpy()
    want = pearsonr(epithelial[at], (ground_truth[:, 0] + ground_truth[:, 1])[order][at]).statistic
    got = rows[(rows["target"] == "Epi") & (rows["sample"] == "A1")].iloc[0]
    assert got["value"] == pytest.approx(want)
    assert got["target2"] == "Plasma + Cancer"
    assert got["n"] == at.sum()
    assert rows[rows["target"] == "Str"]["value"].to_numpy() == pytest.approx(1)


def test_a_map_that_names_no_type_is_refused(tmp_path, truth):
    path, _ = truth
    with pytest.raises(InputError, check=has_code("check-unknown-type")):
        run_check(
            spec=spec("labels", map={"Plasma": "Cancerous"}), labels=[path], against=[path], out=tmp_path / "j.parquet"
        )


def regions_case(tmp_path):
    values = make_values(OBS, types=3)
    region = np.where(np.arange(len(OBS)) % 3 == 0, "immune infiltrate", "connective tissue").astype(object)
    region[np.arange(len(OBS)) % 7 == 0] = ""
    region[np.arange(len(OBS)) % 11 == 0] = "undetermined"
    obs = OBS.assign(region=region)
    obs.loc[obs["sample"] == "A2", "region"] = ""
    sections = [write_section(tmp_path / f"{s}.h5ad", "demo", s, part) for s, part in obs.groupby("sample")]
    return values, obs, sections, write_labels(tmp_path / "l.h5ad", OBS, values, NAMES)


def test_auroc_against_sklearn_on_annotated_spots_only(tmp_path):
    values, obs, sections, labels = regions_case(tmp_path)
    entry = spec("regions", pairs=[{"type": ["Plasma", "Fibro"], "region": "immune infiltrate"}])
    run_check(spec=entry, labels=[labels], against=sections, out=tmp_path / "j.parquet")
    rows = read_metrics([tmp_path / "j.parquet"])
    auroc = rows[(rows["metric"] == "auroc") & (rows["aggregation"] == "section")].set_index("sample")
    assert set(auroc.index) == {"A1", "B1"}
    for sample in ("A1", "B1"):
        at = ((obs["sample"] == sample) & obs["region"].isin(["immune infiltrate", "connective tissue"])).to_numpy()
        inside = (obs["region"] == "immune infiltrate").to_numpy()[at]
        assert auroc.loc[sample, "value"] == pytest.approx(roc_auc_score(inside, values[at, 0] + values[at, 2]))
        assert auroc.loc[sample, "n"] == at.sum()
    skipped = rows[rows["metric"] == "sections_skipped"]["value"].iloc[0]
    assert skipped == 1
    cohort = rows[(rows["metric"] == "auroc") & (rows["aggregation"] == "cohort")].iloc[0]
    assert cohort["value"] == pytest.approx(auroc["value"].mean())


def test_an_unknown_region_lists_those_there_are(tmp_path):
    _, _, sections, labels = regions_case(tmp_path)
    entry = spec("regions", pairs=[{"type": "Plasma", "region": "fat"}])
    with pytest.raises(InputError, check=has_code("check-unknown-region")):
        run_check(spec=entry, labels=[labels], against=sections, out=tmp_path / "j.parquet")


def test_delong_interval_covers_as_it_should():
    """Coverage of the true area over repeated draws of two normals one apart (area .760)."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        inside = np.repeat([True, False], [30, 50])
        score = rng.normal(size=80) + inside
        value, low, high = auroc_with_interval(inside, score)
        assert low <= value <= high
        hits += low <= 0.7602 <= high
    assert 0.90 <= hits / 300 <= 0.985


def test_delong_variance_is_the_all_pairs_formula():
    rng = np.random.default_rng(1)
    inside = rng.random(40) < 0.4
    score = rng.integers(0, 8, 40).astype(float)  # with ties
    a, b = score[inside], score[~inside]
    psi = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    spread = np.sqrt(psi.mean(axis=1).var(ddof=1) / len(a) + psi.mean(axis=0).var(ddof=1) / len(b))
    value, low, high = auroc_with_interval(inside, score)
    assert value == pytest.approx(psi.mean())
    assert (high - low) / 2 == pytest.approx(1.959964 * spread, rel=1e-6)


def test_a_constant_score_has_no_auroc():
    assert np.isnan(auroc_with_interval(np.repeat([True, False], 5), np.zeros(10))).all()


@pytest.mark.real
def test_published_immune_proportions_find_the_pathologists_infiltrates(real_data):
    """Known answer on real tissue: stereoscope's immune classes against the regions of six her2st sections."""
    her2st = real_data / "her2st"
    archive = zipfile.ZipFile(her2st / "res/ST-deconv/props/major.zip")
    tables, regions = [], {}
    for path in sorted((her2st / "data/ST-pat/lbl").glob("*_labeled_coordinates.tsv")):
        sample = path.name[:2]
        spots = pd.read_csv(path, sep="\t").dropna(subset=["x", "y"])
        names = [f"her2st/{sample}/{round(x)}x{round(y)}" for x, y in zip(spots["x"], spots["y"], strict=True)]
        regions.update(zip(names, spots["label"], strict=True))
        with archive.open(f"major/{sample}-proportion.tsv") as handle:
            tables.append(pd.read_csv(handle, sep="\t", index_col=0).assign(sample=sample))
    table = pd.concat(tables)
    types = [name for name in table.columns if name != "sample"]
    obs = pd.DataFrame(
        {"cohort": "her2st", "sample": table["sample"], "patient": table["sample"].str[0], "qc_flag": ""}
    )
    obs.index = pd.Index("her2st/" + table["sample"] + "/" + table.index)
    labels = Labels(obs, types, table[types].to_numpy(float), {}, her2st)
    immune = {"type": ["B-cells", "Myeloid", "Plasma Cells", "T-cells"], "region": "immune infiltrate"}
    rows = pd.concat(score_regions(spec("regions", pairs=[immune]), labels, pd.Series(regions)))
    auroc = rows[(rows["metric"] == "auroc") & (rows["aggregation"] == "section")].set_index("sample")["value"]
    assert set(auroc.index) == {"A1", "D1", "E1", "F1", "G2", "H1"}
    assert auroc.min() > 0.8
    assert rows.loc[rows["metric"] == "sections_skipped", "value"].tolist() == [2.0]


def test_no_interval_below_five_patients_and_a_sane_one_above():
    assert bootstrap_interval([0.1, 0.2, 0.3, 0.4, np.nan]) is None
    low, high = bootstrap_interval([0.1, 0.2, 0.3, 0.4, 0.5])
    assert 0.1 <= low < 0.3 < high <= 0.5
    assert bootstrap_interval([0.1, 0.2, 0.3, 0.4, 0.5]) == (low, high)
    assert bootstrap_interval([0.2] * 6) == (0.2, 0.2)
