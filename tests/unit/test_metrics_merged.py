"""Predictions of fine types scored at a coarser level: sums, not means of correlations; and what must not change."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from metrics_inputs import SPEC, TYPES, make_obs, make_values, write_inputs

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.metrics import score_predictions
from histoloom.metrics.rows import read_metrics

OBS = make_obs({("A", "A1"): 36, ("A", "A2"): 36, ("B", "B1"): 36})
IMMUNE = {"Immune": ["T", "B"]}


def scored(folder, values, made, **spec) -> pd.DataFrame:
    files = write_inputs(folder, OBS, values, made, seeds={0: made, 1: made})
    target = {"statistic": "mean", "transform": spec.pop("transform", "none")}
    score_predictions(
        spec={**SPEC, "target": target, **spec}, experiment="loo", model="ridge", out=folder / "m.parquet", **files
    )
    return read_metrics([folder / "m.parquet"])


def section_cc(rows: pd.DataFrame, against: str, target: str, sample: str) -> float:
    found = rows[
        (rows["against"] == against) & (rows["metric"] == "cc") & (rows["aggregation"] == "section")
        & (rows["target"] == target) & (rows["sample"] == sample) & (rows["train_seed"] == -1)
    ]  # fmt: skip
    return float(found["value"].iloc[0])


def test_types_that_are_confused_with_one_another_are_right_in_sum(tmp_path):
    """T and B look the same: whoever gives each cell to one of them at random is wrong by type and right in sum."""
    values = make_values(OBS)
    t, b = TYPES.index("T"), TYPES.index("B")
    made, share = values.copy(), np.random.default_rng(0).uniform(size=len(values))
    made[:, t] = (values[:, t] + values[:, b]) * share
    made[:, b] = (values[:, t] + values[:, b]) * (1 - share)
    rows = scored(tmp_path, values, made, merge=IMMUNE)
    at = (OBS["sample"] == "A1").to_numpy()
    assert section_cc(rows, "labels (merged)", "Immune", "A1") == pytest.approx(1)
    assert section_cc(rows, "labels", "T", "A1") == pytest.approx(np.corrcoef(made[at, t], values[at, t])[0, 1])
    assert section_cc(rows, "labels", "T", "A1") < 0.9
    merged = rows[rows["against"] == "labels (merged)"]
    assert set(merged["target"]) == {"", "Immune", "Epithelial", "Fibro", "Lost"}
    assert section_cc(rows, "labels (merged)", "Fibro", "B1") == pytest.approx(
        section_cc(rows, "labels", "Fibro", "B1")
    )
    l1 = merged[(merged["metric"] == "l1") & (merged["target"] == "Immune")]
    assert l1["value"].abs().max() == pytest.approx(0, abs=1e-9)


def test_the_rows_of_the_labels_own_types_stay_what_they_were(tmp_path):
    values = make_values(OBS)
    made = values + np.random.default_rng(1).normal(size=values.shape)
    plain, more = scored(tmp_path / "a", values, made), scored(tmp_path / "b", values, made, merge=IMMUNE)
    pd.testing.assert_frame_equal(plain, more[more["against"] == "labels"].reset_index(drop=True))


def test_a_logarithm_is_undone_before_types_are_summed(tmp_path):
    values = make_values(OBS)
    made = values * np.random.default_rng(2).uniform(0.5, 2, size=values.shape)
    rows = scored(tmp_path, np.log1p(values), np.log1p(made), merge=IMMUNE, transform="log1p")
    at, columns = (OBS["sample"] == "B1").to_numpy(), [TYPES.index("T"), TYPES.index("B")]
    expected = np.corrcoef(*(np.log1p(v[at][:, columns].sum(axis=1)) for v in (made, values)))[0, 1]
    assert section_cc(rows, "labels (merged)", "Immune", "B1") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("merge", "code"),
    [
        ({"Immune": ["T", "NK"]}, "merge-types"),
        ({"Immune": ["T"], "Lymphoid": ["T", "B"]}, "merge-types"),
        ({"Fibro": ["T", "B"]}, "merge-name"),
    ],
)
def test_a_merge_that_does_not_fit_is_named(tmp_path, merge, code):
    values = make_values(OBS)
    with pytest.raises(InputError, check=has_code(code)):
        scored(tmp_path, values, values, merge=merge)
