"""Measures that cannot be played with: silence, small amplitude, left-out observations and lucky subsets gain nothing."""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from metrics_inputs import SPEC, TYPES, make_obs, make_values, write_inputs
from scipy.stats import linregress

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.metrics import score_predictions
from histoloom.metrics.aggregate import add_ratio, roll_up
from histoloom.metrics.ceiling import IDENTIFIABLE, attainable
from histoloom.metrics.moran import permutation_p
from histoloom.metrics.rows import assemble, read_metrics
from histoloom.metrics.uncertainty import compare_models
from histoloom.stats import amplitude_columns, pearson_columns, score_columns

OBS = make_obs({(p, f"{p}{i}"): 36 for p in "ABCDEF" for i in (1, 2)})
VALUES = make_values(OBS)
HARD = [0, 3, 4]
EASY = [1, 2]


def good(seed: int = 0) -> np.ndarray:
    """A model that is good at two types and bad at three."""
    noise = np.where(np.isin(np.arange(5), HARD), 8.0, 0.5) * VALUES.std(axis=0)
    return VALUES + np.random.default_rng(seed).normal(size=VALUES.shape) * noise


def score(folder, prediction, values=VALUES, model="m", obs=OBS, **more) -> pd.DataFrame:
    files = write_inputs(folder, obs, values, prediction, **more)
    score_predictions(spec=SPEC, experiment="loo", model=model, out=folder / "m.parquet", **files)
    return read_metrics([folder / "m.parquet"])


def headline(rows: pd.DataFrame, metric: str = "cc", target: str = "") -> float:
    where = (rows["metric"] == metric) & (rows["aggregation"] == "cohort") & (rows["target"] == target)
    return float(rows.loc[where & (rows["train_seed"] == -1) & (rows["against"] == "labels"), "value"].iloc[0])


def test_a_model_that_is_silent_on_hard_types_does_not_rise(tmp_path):
    whole = good()
    silent = whole.copy()
    silent[:, HARD] = VALUES[:, HARD].mean(axis=0)
    one, two = score(tmp_path / "a", whole, model="whole"), score(tmp_path / "b", silent, model="silent")
    easy = np.mean([headline(one, target=TYPES[t]) for t in EASY])
    # Known answer: the two types it speaks of, over all five that have labels.
    assert headline(two) == pytest.approx(easy * len(EASY) / len(TYPES))
    assert headline(two) < headline(one)
    undefined = [
        rows.loc[(rows["metric"] == "cc") & (rows["aggregation"] == "section"), "n_nan"] for rows in (one, two)
    ]
    assert undefined[0].tolist() == undefined[1].tolist()
    table = compare_models(pd.concat([one, two]), ["whole", "silent"]).iloc[0]
    assert table["n_pairs"] == len(TYPES) * OBS["sample"].nunique()
    assert table["difference"] > 0
    assert table["n_first_higher"] == 6
    # The other measures do not rise either.
    for metric in ("sd_ratio", "slope"):
        assert headline(two, metric) < headline(one, metric)
    pooled = [
        r[(r["aggregation"] == "spot") & (r["patient"] == "") & (r["against"] == "labels")]["value"].iloc[0]
        for r in (one, two)
    ]
    assert np.isfinite(pooled).all()


def test_undefined_is_the_labels_doing_only(tmp_path):
    values = VALUES.copy()
    values[(OBS["sample"] == "A1").to_numpy(), 3] = 2.0
    rows = {
        name: score(tmp_path / name, prediction, values)
        for name, prediction in (("good", good()), ("constant", np.ones_like(values)), ("exact", values))
    }
    section = {
        name: r[(r["metric"] == "cc") & (r["aggregation"] == "section") & (r["target"] != "")].set_index(
            ["sample", "target"])["value"]
        for name, r in rows.items()
    }  # fmt: skip
    for values_of in section.values():
        assert values_of.index[values_of.isna()].tolist() == [("A1", "Lost")]
    assert (section["constant"].dropna() == 0).all()
    assert section["exact"].dropna().to_numpy() == pytest.approx(1)
    assert headline(rows["constant"]) == 0


def test_scaled_predictions_keep_cc_and_lose_spread_and_slope(tmp_path, caplog):
    shrunk = 0.002 * good()
    with caplog.at_level(logging.WARNING):
        rows = score(tmp_path / "a", shrunk)
    assert "predictions spread" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        whole = score(tmp_path / "b", good())
    assert "predictions spread" not in caplog.text
    assert headline(rows) == pytest.approx(headline(whole))
    for metric in ("sd_ratio", "slope"):
        assert headline(rows, metric) == pytest.approx(0.002 * headline(whole, metric))


def test_slope_and_sd_ratio_are_those_of_scipy():
    rng = np.random.default_rng(3)
    labels, prediction = rng.normal(size=(40, 3)), rng.normal(size=(40, 3))
    prediction[:, 2] = 5.0
    labels[3, 0] = np.nan
    ratio, slope = amplitude_columns(prediction, labels)
    for t in range(2):
        keep = np.isfinite(labels[:, t])
        assert slope[t] == pytest.approx(linregress(labels[keep, t], prediction[keep, t]).slope)
        assert ratio[t] == pytest.approx(prediction[keep, t].std() / labels[keep, t].std())
    assert (ratio[2], slope[2]) == (0, 0)
    labels[:, 1] = 1.0
    assert np.isnan([values[1] for values in amplitude_columns(prediction, labels)]).all()


def test_observations_that_a_model_leaves_out_are_refused(tmp_path):
    files = write_inputs(tmp_path, OBS, VALUES, good())
    data = anndata.read_h5ad(files["predictions"])
    data.X[5, 2] = np.nan
    data.write_h5ad(files["predictions"])
    with pytest.raises(InputError, check=has_code("predictions-gaps")):
        score_predictions(spec=SPEC, experiment="loo", model="m", out=tmp_path / "m.parquet", **files)


def test_a_constant_prediction_scores_zero_even_where_labels_are_known_in_part():
    labels = np.array([[np.nan, 1.0], [2.0, 1.0], [3.0, 1.0], [5.0, np.nan]])
    score, n = score_columns(np.ones((4, 2)), labels)
    assert score[0] == 0
    assert np.isnan(score[1])
    assert n.tolist() == [3, 3]
    # Constant where the labels are known, varying where they are not: it says nothing of the labels.
    x = np.array([[9.0], [1.0], [1.0], [1.0]])
    assert np.isnan(pearson_columns(x, labels[:, :1])[0][0])
    assert score_columns(x, labels[:, :1])[0][0] == 0


def rows_of(**values: float) -> pd.DataFrame:
    return pd.DataFrame(
        [{"metric": m, "target": "T", "value": v, "n": 3, "n_nan": 0, "fold": "f", "cohort": "c", "patient": "p",
          "sample": "s", "qc_flag": ""} for m, v in values.items()]
    )  # fmt: skip


def test_skill_is_undefined_where_the_training_mean_makes_no_error():
    rows = roll_up(rows_of(l1=0.5, l1_mean_predictor=0.0), types=False)
    skill = add_ratio(rows, "l1", "l1_mean_predictor", "l1_skill")
    assert skill["value"].isna().all()
    assert (skill["n_nan"] == 1).all()
    assert (add_ratio(roll_up(rows_of(l1=0.5, l1_mean_predictor=2.0), types=False),
                      "l1", "l1_mean_predictor", "l1_skill")["value"] == 0.75).all()  # fmt: skip


def test_a_patient_with_a_flagged_and_a_plain_section_is_described_by_the_plain_one():
    base = {"metric": "cc", "target": "T", "n": 9, "n_nan": 0, "fold": "f", "cohort": "c"}
    rows = pd.DataFrame(
        [{**base, "patient": "P", "sample": "P1", "qc_flag": "", "value": 0.2},
         {**base, "patient": "P", "sample": "P2", "qc_flag": "low resolution", "value": 0.8},
         {**base, "patient": "Q", "sample": "Q1", "qc_flag": "low resolution", "value": 0.9}]
    )  # fmt: skip
    table = roll_up(rows, types=False)
    patient = table[table["aggregation"] == "patient"].set_index("patient")
    assert patient.loc["P", ["value", "n", "qc_flag"]].tolist() == [0.2, 1, ""]
    assert patient.loc["Q", ["value", "n", "qc_flag"]].tolist() == [0.9, 1, "low resolution"]
    cohort = table[table["aggregation"] == "cohort"].iloc[0]
    assert (cohort["value"], cohort["n"]) == (0.2, 1)


def test_a_permutation_p_is_never_zero():
    observed, null = np.full((2, 2), 50.0), np.random.default_rng(0).normal(size=(99, 2, 2))
    assert permutation_p(observed, null) == pytest.approx(np.full((2, 2), 1 / 100))


def test_types_are_identifiable_from_a_reliability_of_three_tenths_on():
    assert IDENTIFIABLE == 0.3
    place = {"cohort": "c", "patient": "p", "sample": "s", "aggregation": "section", "against": "labels", "n": 9}
    ceiling = [{**place, "metric": m, "target": t, "value": v, "against": "halves"}
               for t, r in (("low", 0.299), ("edge", 0.3))
               for m, v in (("reliability", r), ("ceiling", np.sqrt(r)))]  # fmt: skip
    model = [{**place, "metric": "cc", "target": t, "value": 0.1, "model": "m"} for t in ("low", "edge")]
    table = attainable(assemble([pd.DataFrame(model)]), assemble([pd.DataFrame(ceiling)]), ["m"]).set_index("target")
    assert table["identifiable"].to_dict() == {"edge": True, "low": False}
    assert np.isnan(table.loc["low", "share_m"])
    assert table.loc["edge", "share_m"] == pytest.approx(0.1 / np.sqrt(0.3))
