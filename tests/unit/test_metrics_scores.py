"""CC, L1 and their aggregation: against scipy, hand-made means and known constant columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from metrics_inputs import SPEC, TYPES, lopo_folds, make_obs, make_values, write_inputs
from scipy.stats import pearsonr

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.metrics import score_predictions
from histoloom.metrics.rows import COLUMNS, read_metrics
from histoloom.stats import is_constant, pearson_columns, pearson_cross

SECTIONS = {("A", "A1"): 36, ("A", "A2"): 25, ("A", "A3"): 30, ("B", "B1"): 49, ("C", "C1"): 20}


def score(folder: Path, obs: pd.DataFrame, values: np.ndarray, prediction: np.ndarray, **more) -> pd.DataFrame:
    paths = write_inputs(folder, obs, values, prediction, **more)
    score_predictions(spec=SPEC, experiment="loo", model="ridge", out=folder / "m.parquet", **paths)
    return read_metrics([folder / "m.parquet"])


def value(rows: pd.DataFrame, **where) -> float:
    where = {"against": "labels", "train_seed": -1, **where}
    found = rows[np.logical_and.reduce([rows[k] == v for k, v in where.items()])]
    assert len(found) == 1, f"{len(found)} rows for {where}"
    return float(found["value"].iloc[0])


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    obs = make_obs({**SECTIONS, ("D", "D1"): 25}, qc_flags={"D1": "low resolution"})
    values = make_values(obs)
    values[:, 3] = np.where(obs["sample"] == "A2", 0.0, values[:, 3])  # "Lost" is constant in A2
    values[obs["patient"] == "C", 3] = 2.0  # and in the only section of C
    rng = np.random.default_rng(1)
    prediction = values + rng.normal(scale=2, size=values.shape)
    seeds = {0: prediction + 0.5, 1: prediction + rng.normal(size=values.shape)}
    rows = score(tmp_path_factory.mktemp("scored"), obs, values, prediction, seeds=seeds)
    return obs, values, prediction, seeds, rows


def test_the_table_has_the_contract_columns(scored):
    assert list(scored[-1].columns) == list(COLUMNS)
    protocol = json.loads(scored[-1]["protocol"].iloc[0])
    assert protocol["kind"] == "ridge"
    assert protocol["n_patients"] == {"demo": 3}
    assert protocol["aggregation"] == "section>patient>cohort"


def test_section_cc_is_scipys(scored):
    obs, values, prediction, _, rows = scored
    for sample in obs["sample"].unique():
        at = (obs["sample"] == sample).to_numpy()
        for t, name in enumerate(TYPES):
            got = value(rows, metric="cc", aggregation="section", sample=sample, target=name)
            if values[at, t].std() == 0:
                assert np.isnan(got)
            else:
                assert got == pytest.approx(pearsonr(values[at, t], prediction[at, t]).statistic, abs=1e-12)


def test_l1_and_mean_predictor_use_training_patients_only(scored):
    obs, values, prediction, _, rows = scored
    at, train = (obs["sample"] == "B1").to_numpy(), (obs["patient"] != "B").to_numpy()
    l1 = np.abs(values - prediction)[at].mean(axis=0)
    base = np.abs(values[at] - values[train].mean(axis=0)).mean(axis=0)
    for t, name in enumerate(TYPES):
        where = {"aggregation": "section", "sample": "B1", "target": name}
        assert value(rows, metric="l1", **where) == pytest.approx(l1[t])
        assert value(rows, metric="l1_mean_predictor", **where) == pytest.approx(base[t])
        assert value(rows, metric="l1_skill", **where) == pytest.approx(1 - l1[t] / base[t])
    whole = {"aggregation": "section", "sample": "B1", "target": ""}
    assert value(rows, metric="l1_skill", **whole) == pytest.approx(1 - l1.mean() / base.mean())


def test_patients_weigh_the_same_whatever_their_sections(scored):
    _, _, _, _, rows = scored
    section = {
        s: value(rows, metric="cc", aggregation="section", sample=s, target="T") for s in ("A1", "A2", "A3", "B1", "C1")
    }
    patient_a = np.mean([section[s] for s in ("A1", "A2", "A3")])
    assert value(rows, metric="cc", aggregation="patient", patient="A", target="T") == pytest.approx(patient_a)
    cohort = np.mean([patient_a, section["B1"], section["C1"]])
    assert value(rows, metric="cc", aggregation="cohort", target="T") == pytest.approx(cohort)
    assert cohort != pytest.approx(np.mean(list(section.values())))


def test_constant_columns_are_counted_and_never_averaged(scored):
    _, _, _, _, rows = scored
    cc = rows[(rows["metric"] == "cc") & (rows["train_seed"] == -1)]
    lost = cc[cc["target"] == "Lost"]
    section = lost[lost["aggregation"] == "section"].set_index("sample")
    assert section.loc["A2", "n_nan"] == 1
    assert np.isnan(section.loc["A2", "value"])
    patient = lost[lost["aggregation"] == "patient"].set_index("patient")
    assert (patient.loc["A", "n"], patient.loc["A", "n_nan"]) == (2, 1)
    assert patient.loc["A", "value"] == pytest.approx(section.loc[["A1", "A3"], "value"].mean())
    assert (patient.loc["C", "n"], patient.loc["C", "n_nan"]) == (0, 1)
    assert np.isnan(patient.loc["C", "value"])
    cohort = lost[lost["aggregation"] == "cohort"].iloc[0]
    assert (cohort["n"], cohort["n_nan"]) == (2, 1)
    assert cohort["value"] == pytest.approx(patient.loc[["A", "B"], "value"].mean())
    a2 = cc[(cc["sample"] == "A2") & (cc["target"] == "") & (cc["aggregation"] == "section")].iloc[0]
    assert (a2["n"], a2["n_nan"]) == (4, 1)


def test_headline_is_the_mean_over_patients_of_their_sections_means_over_types(scored):
    _, _, _, _, rows = scored
    cc = rows[(rows["metric"] == "cc") & (rows["train_seed"] == -1) & (rows["aggregation"] == "section")]
    cc = cc[(cc["target"] != "") & (cc["qc_flag"] == "")]
    per_patient = cc.groupby(["patient", "sample"])["value"].mean().groupby("patient").mean()
    # One type is undefined in one section: the other order of means is another number.
    other_order = cc.groupby(["patient", "target"])["value"].mean().groupby("patient").mean()
    assert per_patient.mean() != pytest.approx(other_order.mean())
    assert value(rows, metric="cc", aggregation="cohort", target="") == pytest.approx(per_patient.mean())


def test_flagged_sections_are_shown_and_kept_out_of_means(scored, tmp_path):
    obs, values, prediction, _, rows = scored
    flagged = rows[(rows["qc_flag"] != "")]
    assert set(flagged["aggregation"]) >= {"section", "patient"}
    assert set(flagged["patient"]) == {"D"}
    assert not set(flagged["aggregation"]) & {"cohort", "pooled", "pooled_patient"}
    worse = prediction.copy()
    worse[obs["patient"] == "D"] = np.random.default_rng(9).normal(size=worse[obs["patient"] == "D"].shape)
    again = score(tmp_path, obs, values, worse)
    for aggregation in ("cohort", "pooled"):
        where = {"metric": "cc", "aggregation": aggregation, "target": "T"}
        assert value(again, **where) == value(rows, **where)


def test_pooled_cc_is_scipys_over_all_plain_observations(scored):
    obs, values, prediction, _, rows = scored
    at = (obs["qc_flag"] == "").to_numpy()
    want = pearsonr(values[at, 4], prediction[at, 4]).statistic
    assert value(rows, metric="cc", aggregation="pooled", target="T") == pytest.approx(want)
    at = (obs["patient"] == "A").to_numpy()
    want = pearsonr(values[at, 4], prediction[at, 4]).statistic
    assert value(rows, metric="cc", aggregation="pooled_patient", patient="A", target="T") == pytest.approx(want)


def test_spot_cc_is_across_types(scored):
    obs, values, prediction, _, rows = scored
    at = (obs["sample"] == "C1").to_numpy()
    want = np.mean([pearsonr(a, b).statistic for a, b in zip(values[at], prediction[at], strict=True)])
    assert value(rows, metric="cc", aggregation="spot", sample="C1") == pytest.approx(want)


def test_training_seeds_have_rows_of_their_own(scored):
    _, _, _, _, rows = scored
    seeds = rows[(rows["metric"] == "cc") & (rows["train_seed"] >= 0)]
    assert set(seeds["train_seed"]) == {0, 1}
    assert set(seeds["aggregation"]) == {"cohort"}
    # Seed 0 is the prediction plus a constant: the same correlation.
    mine = value(rows, metric="cc", aggregation="cohort", target="T", train_seed=0)
    assert mine == pytest.approx(value(rows, metric="cc", aggregation="cohort", target="T"))


def test_one_section_makes_all_aggregations_equal(tmp_path):
    obs = make_obs({("A", "A1"): 40, ("B", "B1"): 40})
    values = make_values(obs)
    rows = score(tmp_path, obs, values, values + np.random.default_rng(0).normal(size=values.shape))
    for patient, sample in (("A", "A1"), ("B", "B1")):
        got = [
            value(rows, metric="cc", aggregation="section", sample=sample, target="T"),
            value(rows, metric="cc", aggregation="patient", patient=patient, target="T"),
            value(rows, metric="cc", aggregation="pooled_patient", patient=patient, target="T"),
        ]
        assert got == pytest.approx([got[0]] * 3)


def test_a_section_mean_predictor_scores_zero_by_section_and_more_pooled(tmp_path):
    obs = make_obs(SECTIONS)
    values = make_values(obs)
    values *= obs["sample"].map({"A1": 1, "A2": 9, "A3": 3, "B1": 20, "C1": 2}).to_numpy()[:, None]
    prediction = pd.DataFrame(values).groupby(obs["sample"].to_numpy()).transform("mean").to_numpy()
    rows = score(tmp_path, obs, values, prediction)
    assert value(rows, metric="cc", aggregation="cohort", target="") == 0
    assert value(rows, metric="cc", aggregation="pooled", target="") > 0.5


def test_ground_truth_is_scored_beside_labels_with_its_gaps_counted(tmp_path):
    obs = make_obs(SECTIONS)
    values = make_values(obs)
    ground_truth = values + np.random.default_rng(2).normal(size=values.shape)
    ground_truth[:, 1] = np.nan
    ground_truth[:3, 4] = np.nan
    rows = score(tmp_path, obs, values, values, ground_truth=ground_truth)
    assert value(rows, against="labels", metric="cc", aggregation="cohort", target="T") == pytest.approx(1)
    at = (obs["sample"] == "A1").to_numpy() & np.isfinite(ground_truth[:, 4])
    want = pearsonr(ground_truth[at, 4], values[at, 4]).statistic
    assert value(rows, against="truth", metric="cc", aggregation="section", sample="A1", target="T") == pytest.approx(
        want
    )
    absent = rows[(rows["against"] == "truth") & (rows["target"] == "Epithelial") & (rows["metric"] == "cc")]
    assert absent["value"].isna().all()
    assert (absent["n_nan"] > 0).all()


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    obs = make_obs(SECTIONS)
    values = make_values(obs)
    for name in ("a", "b"):
        score(tmp_path / name, obs, values, values[:, ::-1].copy())
    assert (tmp_path / "a" / "m.parquet").read_bytes() == (tmp_path / "b" / "m.parquet").read_bytes()


def test_rounding_noise_is_constant_and_small_numbers_are_not():
    noise = np.array([0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2])
    tiny = np.array([1e-200, 2e-200, 3e-200, 5e-200])
    assert is_constant(np.column_stack([noise, tiny])).tolist() == [True, False]
    r, n = pearson_columns(np.column_stack([noise, tiny]), np.column_stack([tiny, tiny * 7]))
    assert np.isnan(r[0])
    assert r[1] == pytest.approx(1)
    assert n.tolist() == [4, 4]


def test_constant_is_judged_on_the_observations_that_both_sides_have():
    x = np.array([0.1 + 0.2, 0.3, 0.3, 5.0])[:, None]
    y = np.array([1.0, 2.0, 3.0, np.nan])[:, None]
    for first, second in ((x, y), (y, x)):
        r, n = pearson_columns(first, second)
        assert np.isnan(r[0])
        assert n[0] == 3


def test_cross_correlation_is_numpys():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 4))
    y[:, 2] = 5.0
    got = pearson_cross(x, y)
    want = np.corrcoef(x.T, np.delete(y, 2, axis=1).T)[:3, 3:]
    assert np.delete(got, 2, axis=1) == pytest.approx(want)
    assert np.isnan(got[:, 2]).all()


def test_predictions_of_unknown_observations_are_refused(tmp_path):
    obs = make_obs(SECTIONS)
    values = make_values(obs)
    paths = write_inputs(tmp_path / "one", obs, values, values)
    other = write_inputs(
        tmp_path / "two", obs[obs["patient"] != "C"], values[obs["patient"] != "C"], values[obs["patient"] != "C"]
    )
    with pytest.raises(InputError, check=has_code("predictions-unknown-observations")):
        score_predictions(
            spec=SPEC, experiment="loo", model="ridge", predictions=paths["predictions"], target=other["target"],
            folds=other["folds"], out=tmp_path / "m.parquet",
        )  # fmt: skip


def test_observation_level_folds_are_averaged_within_their_section(tmp_path):
    """Two random folds of one section make one section, not two."""
    obs = make_obs({("A", "A1"): 40, ("B", "B1"): 40})
    values = make_values(obs)
    prediction = values + np.random.default_rng(0).normal(size=values.shape)
    paths = write_inputs(tmp_path, obs, values, prediction)
    import anndata

    data = anndata.read_h5ad(paths["predictions"])
    half = np.arange(len(obs)) % 2
    data.obs["fold"] = np.where(half == 0, "random-0", "random-1")
    data.write_h5ad(paths["predictions"])
    table = pd.DataFrame(
        {"fold": [f"random-{i}" for i in (0, 1) for _ in obs.index], "cohort": "demo", "block": None,
         "sample": [*obs["sample"]] * 2, "patient": [*obs["patient"]] * 2, "obs_id": [*obs["obs_id"]] * 2,
         "role": [*np.where(half == 0, "test", "train"), *np.where(half == 1, "test", "train")]}
    )  # fmt: skip
    table.to_parquet(paths["folds"])
    score_predictions(spec=SPEC, experiment="x", model="m", out=tmp_path / "m.parquet", **paths)
    rows = read_metrics([tmp_path / "m.parquet"])
    parts = rows[(rows["metric"] == "cc") & (rows["aggregation"] == "section") & (rows["sample"] == "A1")]
    parts = parts[(parts["target"] == "T") & (parts["against"] == "labels")]
    assert len(parts) == 2
    got = rows[(rows["metric"] == "cc") & (rows["aggregation"] == "patient") & (rows["patient"] == "A")]
    got = got[got["target"] == "T"].iloc[0]
    assert got["value"] == pytest.approx(parts["value"].mean())
    assert got["n"] == 1
    train = half == 1
    want = np.abs(values[~train & (obs["sample"] == "A1")] - values[train].mean(axis=0)).mean(axis=0)
    base = rows[(rows["metric"] == "l1_mean_predictor") & (rows["fold"] == "random-0") & (rows["sample"] == "A1")]
    assert base.set_index("target").loc[TYPES, "value"].to_numpy() == pytest.approx(want)
    assert len(lopo_folds(obs)) == 6
