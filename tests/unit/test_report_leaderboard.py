"""Probes next to the leaderboard: what may be compared, what deviates, what is not said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from histoloom.identity import canonical_json
from histoloom.metrics.rows import assemble
from histoloom.report.paper_tables import paper_cells, paper_page
from histoloom.report.published import load_published

FOLDER = Path(__file__).resolve().parents[2] / "resources" / "published"
MODEL = {"kind": "pca_ridge", "inputs": ["mine"], "components": 256, "alpha": "published"}
ENTRY = {"split": "published", "models": ["mine", "mine_inner"], "model_specs": {"mine": MODEL}}
SPEC = {"paper": "hest_bench", "experiments": {"e": {**ENTRY, "sources": {"idc": "hest_bench IDC"}}}}


def protocol(**changes: Any) -> dict[str, Any]:
    recipe = {"kind": "expression", "size_factor": "none", "target_sum": 10000, "log": "log1p"}
    return {
        "kind": "pca_ridge", "split": "published", "sections": "as published", "standardise": "train",
        "panel": {"genes": "published", "k": 50, "selected_on": "train"}, "target": recipe, "tiles": "patch",
        "tiles_spec": {"size_px": 224, "um_per_px": 0.5, "background": {"method": "none"}},
        "encoders": {"mine": {"card": "uni", "revision": "0" * 40}}, "n_observations": {"idc": 99},
        "aggregation": "gene over the fold>genes>folds",
        **changes,
    }  # fmt: skip


def metrics(value: float = 0.6, *, model: str = "mine", undefined: int = 0, **changes: Any) -> pd.DataFrame:
    common = {"cohort": "idc", "variant": "default", "n_nan": 0, "protocol": canonical_json(protocol(**changes))}
    place = {"fold": "f", "patient": "P", "sample": "S"}
    rows = [
        {"metric": "pcc_bench", "aggregation": "cohort", "value": value, "n": 4},
        {"metric": "pcc_bench", "aggregation": "fold", "value": value, "n": 50, "fold": "f", "n_nan": undefined},
        {"metric": "cc", "aggregation": "cohort", "value": value / 2, "n": 4},
        {"metric": "cc", "aggregation": "patient", "value": value / 2, "n": 1, **place},
        {"metric": "cc", "aggregation": "section", "value": value / 2, "n": 9, "target": "G", **place},
    ]
    frame = pd.DataFrame([{**common, **row} for row in rows])
    return assemble([frame], experiment="e", model=model, against="labels")


def spec_of(**model: Any) -> dict[str, Any]:
    """Return the paper's spec with a model of other settings."""
    entry = {**SPEC["experiments"]["e"], "model_specs": {"mine": {**MODEL, **model}}}
    return {"paper": "hest_bench", "experiments": {"e": entry}}


def cell(rows: pd.DataFrame, spec: dict[str, Any] = SPEC) -> pd.Series:
    cells = paper_cells(load_published(FOLDER, "hest_bench")[1], spec, rows)
    own = cells[cells["experiment"] == "e"]
    assert len(own) == 1
    return own.iloc[0]


def test_the_same_protocol_stands_beside_its_row_with_a_difference() -> None:
    found = cell(metrics(0.6))
    assert (found["status"], found["column"], found["published"]) == ("same", "IDC", 0.5890)
    assert found["difference"] == pytest.approx(0.011)
    assert "hardware" in found["details"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split": "leave_one_patient_out"}, "split leave_one_patient_out instead of published"),
        ({"sections": "without TENX99"}, "sections without TENX99 instead of as published"),
        ({"panel": {"genes": "hvg"}}, "panel hvg instead of published"),
        (
            {"target": {"kind": "expression", "size_factor": "total", "log": "log1p"}},
            "size factor total instead of none",
        ),
        ({"undefined": 2}, "undefined genes 2 instead of 0"),
        ({"tiles_spec": {"size_px": 224, "um_per_px": "native"}}, "tile um per px native instead of 0.5"),
    ],
)
def test_any_other_choice_deviates_and_is_listed(changes: dict[str, Any], says: str) -> None:
    deviating = cell(metrics(0.6, **changes))
    assert deviating["status"] == "deviates"
    assert says in deviating["details"]
    assert np.isnan(deviating["difference"])


@pytest.mark.parametrize("model", [{"alpha": "inner"}, {"components": None}])
def test_other_settings_of_the_model_deviate(model: dict[str, Any]) -> None:
    deviating = cell(metrics(0.6), spec_of(**model))
    ((key, value),) = model.items()
    assert deviating["status"] == "deviates"
    assert f"{key} {value} instead of {MODEL[key]}" in deviating["details"]


def test_other_weights_encoders_and_cohorts_are_not_compared() -> None:
    for encoders in ({"card": "uni", "revision": "random"}, {"card": "stain_texture", "revision": None}):
        found = cell(metrics(0.6, encoders={"mine": encoders}))
        assert found["status"] == "not comparable"
        assert np.isnan(found["published"])
    other = {"paper": "hest_bench", "experiments": {"e": {**ENTRY, "sources": {"idc": "simulated"}}}}
    assert cell(metrics(0.6), other)["status"] == "not comparable"


def test_the_headline_of_ours_never_stands_in_the_leaderboard() -> None:
    rows = metrics(0.6)
    table = load_published(FOLDER, "hest_bench")[1]
    assert set(paper_cells(table, SPEC, rows[rows["metric"] == "cc"])["status"]) == {"not run"}


def test_published_averages_are_the_means_of_the_tasks_within_rounding() -> None:
    rows = yaml.safe_load((FOLDER / "hest_bench_table1.yaml").read_text())["rows"]
    for row in rows:
        values = {name: value for name, value in row["values"].items() if name != "average"}
        assert len(values) == 9
        assert abs(np.mean(list(values.values())) - row["values"]["average"]) < 0.0001 + 1e-9, row["id"]
    assert len(rows) == 26


def test_a_leaderboard_is_one_row_per_model_with_short_cells() -> None:
    rows = pd.concat([metrics(0.6), metrics(0.61, model="mine_inner")])
    table = load_published(FOLDER, "hest_bench")[1]
    text = paper_page(table, paper_cells(table, SPEC, rows)).markdown()
    mine = next(line for line in text.splitlines() if line.startswith("| mine ("))
    assert "0.6000; same; published 0.5890, difference 0.0110" in mine
    (uni,) = [line for line in text.splitlines() if line.startswith("| UNI (")]
    assert "not run: gated weights" in uni
    assert uni.count("not run") == 1
    assert "0.2943" in uni
    assert "0.5890" not in uni
