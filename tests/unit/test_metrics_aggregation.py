"""Aggregation in the open, and tests between models: identities, enumeration, patients as the unit."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from metrics_inputs import SPEC, TYPES, make_obs, make_values, write_inputs
from scipy.stats import pearsonr, permutation_test

from histoloom.metrics import score_predictions
from histoloom.metrics.continuous import between_part
from histoloom.metrics.rows import assemble, read_metrics
from histoloom.metrics.uncertainty import compare_models, holm, sign_flip_p
from histoloom.report.between import between_table, draw_between
from histoloom.report.results import read_results


def scored(tmp_path, sections, prediction=None, seed=0):
    obs = make_obs(sections)
    values = make_values(obs, seed)
    offsets = obs.groupby("sample").ngroup().to_numpy()[:, None] * 2.0
    values = values + offsets
    rng = np.random.default_rng(9)
    made = values + rng.normal(size=values.shape) * 1.5 if prediction is None else prediction(obs, values)
    files = write_inputs(tmp_path, obs, values, made)
    score_predictions(spec=SPEC, experiment="loo", model="ridge", out=tmp_path / "m.parquet", **files)
    return obs, values, made, read_metrics([tmp_path / "m.parquet"])


def of(rows, metric, aggregation, **where):
    found = rows[(rows["metric"] == metric) & (rows["aggregation"] == aggregation) & (rows["against"] == "labels")]
    for column, value in {"train_seed": -1, **where}.items():
        found = found[found[column] == value]
    return found.set_index("target")["value"]


def test_one_section_is_the_same_in_every_aggregation_and_nothing_is_between(tmp_path):
    *_, rows = scored(tmp_path, {("A", "A1"): 60, ("B", "B1"): 60})
    for patient in "AB":
        section = of(rows, "cc", "section", patient=patient)
        assert of(rows, "cc", "patient", patient=patient).to_dict() == pytest.approx(section.to_dict())
        assert of(rows, "cc", "pooled_patient", patient=patient).to_dict() == pytest.approx(section.to_dict())
        assert of(rows, "cc_between", "pooled_patient", patient=patient).to_numpy() == pytest.approx(0, abs=1e-12)
        assert (of(rows, "cc_section_mean", "pooled_patient", patient=patient) == 0).all()


def test_pooled_cc_is_the_sum_of_its_parts_and_the_parts_are_those_of_the_definition(tmp_path):
    obs, values, made, rows = scored(tmp_path, {("A", "A1"): 60, ("A", "A2"): 40, ("B", "B1"): 50})
    pooled, between = of(rows, "cc", "pooled"), of(rows, "cc_between", "pooled")
    known = of(rows, "cc_section_mean", "pooled")
    code = obs["sample"].to_numpy()
    for t, name in enumerate(TYPES):
        x, y = made[:, t], values[:, t]
        mx, my = (pd.Series(v).groupby(code).transform("mean").to_numpy() for v in (x, y))
        within = np.mean((x - mx) * (y - my)) / (x.std() * y.std())
        assert pooled[name] == pytest.approx(pearsonr(x, y).statistic)
        assert pooled[name] - between[name] == pytest.approx(within)
        assert between[name] == pytest.approx(np.mean((mx - x.mean()) * (my - y.mean())) / (x.std() * y.std()))
        assert known[name] == pytest.approx(pearsonr(my, y).statistic)


def test_the_predictor_of_section_means_is_all_between_and_zero_within(tmp_path):
    def flat(obs, values):
        return pd.DataFrame(values).groupby(obs["sample"].to_numpy()).transform("mean").to_numpy()

    *_, rows = scored(tmp_path, {("A", "A1"): 60, ("A", "A2"): 40, ("B", "B1"): 50}, flat)
    pooled = of(rows, "cc", "pooled")
    assert of(rows, "cc_between", "pooled").to_dict() == pytest.approx(pooled.to_dict())
    assert of(rows, "cc_section_mean", "pooled").to_dict() == pytest.approx(pooled.to_dict())
    assert (of(rows, "cc", "section") == 0).all()
    assert (of(rows, "cc", "cohort") == 0).all()
    assert pooled[""] > 0.3


def test_missing_observations_leave_their_column_only():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 2))
    section = np.repeat(["a", "b", "c"], 20)
    x[:7, 1] = np.nan
    found = between_part(x, y, section)
    assert found[0] == pytest.approx(between_part(x[:, :1], y[:, :1], section)[0])
    assert found[1] == pytest.approx(between_part(x[7:, 1:], y[7:, 1:], section[7:])[0])


def test_the_figure_holds_all_four_aggregations(tmp_path):
    *_, rows = scored(tmp_path, {("A", "A1"): 60, ("A", "A2"): 40, ("B", "B1"): 50})
    table = between_table(rows, ["ridge"], "demo").set_index("aggregation")
    assert list(table.index) == ["cohort", "pooled_patient", "pooled", "spot"]
    assert table["cc"].notna().all()
    assert table.loc["pooled", "between"] == pytest.approx(of(rows, "cc_between", "pooled")[""])
    assert np.isnan(table.loc["cohort", "between"])
    for name in ("a.png", "b.png"):
        draw_between(read_results("loo", {"models": ["ridge"]}, [tmp_path / "m.parquet"]), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("n", [5, 6, 9])
def test_sign_flip_is_the_enumeration_over_all_patterns(n):
    rng = np.random.default_rng(n)
    data = rng.normal(0.4, 1.0, size=n)
    means = [abs(np.mean(data * np.array(signs))) for signs in product((-1, 1), repeat=n)]
    want = np.mean(np.array(means) >= abs(data.mean()) - 1e-15)
    assert sign_flip_p(data) == pytest.approx(want)
    other = permutation_test((data,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(data) == pytest.approx(other.pvalue)


def test_sign_flip_knows_its_limits():
    assert np.isnan(sign_flip_p([0.1, 0.2, 0.3, 0.4, np.nan]))
    assert sign_flip_p([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 32)
    assert sign_flip_p(np.zeros(6)) == 1.0
    many = np.random.default_rng(0).normal(0.3, 1, size=30)
    assert sign_flip_p(many) == pytest.approx(sign_flip_p(many, seed=1), abs=0.01)


def test_sign_flip_is_calibrated_for_patients_without_a_difference():
    rng = np.random.default_rng(0)
    p = np.array([sign_flip_p(rng.standard_t(3, size=8)) for _ in range(400)])
    assert (p <= 0.05).mean() < 0.08
    assert (p <= 0.5).mean() == pytest.approx(0.5, abs=0.08)


def test_holm_by_hand():
    assert holm([0.01, 0.04, np.nan, 0.03]) == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)
    assert np.isnan(holm([np.nan, np.nan])).all()


def section_rows(model: str, values: dict[tuple[str, str], float], qc_flag: str = ""):
    """Return cc of one section per patient, by (patient, type)."""
    rows = [
        {"metric": "cc", "aggregation": "section", "against": "labels", "cohort": "demo", "patient": p, "sample": p,
         "target": t, "value": v, "qc_flag": qc_flag, "model": model}
        for (p, t), v in values.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_models_are_compared_over_the_patients_that_both_have():
    one = {(f"p{i}", "T"): 0.5 + 0.01 * i for i in range(7)}
    two = {(f"p{i}", "T"): 0.3 + 0.02 * i for i in range(1, 8)}
    rows = assemble(
        [section_rows("a", one), section_rows("b", two), section_rows("c", {("p1", "T"): 0.1}),
         section_rows("a", {("low", "T"): 9.0}, "low")]
    )  # fmt: skip
    table = compare_models(rows, ["a", "b", "c"]).set_index(["first", "second"])
    row = table.loc[("a", "b")]
    differences = [one[f"p{i}", "T"] - two[f"p{i}", "T"] for i in range(1, 7)]
    assert row["n_patients"] == 6
    assert row["difference"] == pytest.approx(np.mean(differences))
    assert row["p"] == pytest.approx(sign_flip_p(differences))
    assert row["p_holm"] == pytest.approx(row["p"])  # the other pairs have too few patients and are no tests
    assert table.loc[("a", "c"), "n_patients"] == 1
    assert np.isnan(table.loc[("a", "c"), "p"])


def test_models_are_compared_on_the_same_types_of_the_same_sections_only():
    """Model b has no number of the hard type: a must not lose for having one."""
    a = {(f"p{i}", t): v for i in range(6) for t, v in (("easy", 0.8), ("hard", 0.1))}
    b = {(f"p{i}", "easy"): 0.7 for i in range(6)}
    table = compare_models(assemble([section_rows("a", a), section_rows("b", b)]), ["a", "b"]).iloc[0]
    assert table["difference"] == pytest.approx(0.1)
    assert (table["n_pairs"], table["n_patients"], table["n_first_higher"]) == (6, 6, 6)


@pytest.mark.parametrize("n", [17, 20])
def test_p_is_never_zero_above_the_patients_whose_patterns_are_all_tried(n):
    rng = np.random.default_rng(0)
    assert 0 < sign_flip_p(rng.uniform(5, 6, n)) < 1e-3
    differences = rng.normal(0.2, 1, n)
    assert sign_flip_p(differences) == sign_flip_p(differences)
    exact = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=2**n, vectorized=True)
    if n == 17:
        assert sign_flip_p(differences) == pytest.approx(exact.pvalue, abs=0.01)
