"""The CellSymphony paper's tables: which run is which row, and when a number may stand next to a published one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from histoloom.metrics.rows import assemble
from histoloom.report.class_tables import class_cells, class_page
from histoloom.report.published import load_published

TABLES = load_published(Path(__file__).resolve().parents[2] / "resources" / "published", "cellsymphony")


def cells_of(number: int, **changes: Any) -> pd.DataFrame:
    """Cells with one run: the dual model on breast, as the paper states it but for `changes`."""
    model = {"kind": "cell_transformer", "architecture": "dual", "inputs": ["g", "m"], **changes.get("model", {})}
    protocol = {
        "kind": "cell_transformer",
        "settings": "as_code",
        "split": "random_stratified",
        "encoders": {"g": {"card": "scgpt", "revision": "local"}, "m": {"card": "uni2_h", "revision": "d517a8"}},
        "tiles_spec": {"size_px": 224, "um_per_px": 0.5},
        "n_sections": {"breast": 1},
        "n_observations": {"breast": 461094},
        **changes.get("protocol", {}),
    }
    entry = {
        "models": ["dual"],
        "sources": {"breast": changes.get("source", "xenium")},
        "samples": {"breast": ["breast"]},
        "model_specs": {"dual": model},
        "test_share": 0.2,
        "target": {"kind": "cell_class", "labels_from": "counts" if number == 2 else "morphology"},
        "label_spec": {"method": "singler" if number == 2 else "nuclei"},
        **changes.get("entry", {}),
    }
    rows = [
        {"metric": metric, "target": name, "value": value, "n": 1, "cohort": "breast"}
        for name in ("B_cell", "epithelial")
        for metric, value in (("precision", 0.8), ("recall", 0.85), ("f1", 0.82), ("f1_low", 0.8), ("f1_high", 0.84))
    ]
    metrics = assemble(
        [pd.DataFrame(rows)], experiment="e", model="dual", aggregation="cohort", against="labels",
        protocol=json.dumps(protocol),
    )  # fmt: skip
    return class_cells(TABLES[number], {"experiments": {"e": entry}}, metrics)


@pytest.mark.parametrize("number", [1, 2])
def test_tables_without_a_run_print_every_cell(number: int):
    table = TABLES[number]
    cells = class_cells(table, {"experiments": {}}, assemble([]))
    assert set(cells["status"]) == {"not run"}
    assert len(cells) == len(table.rows) * len(table.columns)
    text = class_page(table, cells).markdown()
    assert all(f"## {name}" in text for name in ("Breast", "Lung", "Prostate"))
    assert all(note in text for note in table.content["notes"])


def test_a_run_as_the_paper_states_it_stands_next_to_its_row():
    cells = cells_of(2)
    own = cells[cells["ran"] != ""].set_index(["class", "metric"])
    assert set(own["row"]) == {"Dual-Modality Transformer Breast"}
    assert set(own["status"]) == {"same"}
    assert own.loc[("b cell", "f1"), "published"] == 0.81
    assert own.loc[("b cell", "f1"), "difference"] == pytest.approx(0.01)
    assert own.loc[("b cell", "f1"), ["low", "high"]].tolist() == [0.8, 0.84]
    # What no run is stays: the row's other classes, and all other rows.
    rest = cells[(cells["status"] == "not run") & (cells["row"] == "Dual-Modality Transformer Breast")]
    assert len(rest) == 4 * 3
    assert "0.820 [0.80, 0.84]" in class_page(TABLES[2], cells).markdown()


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"protocol": {"split": "spatial_block"}}, "deviates", "split"),
        ({"protocol": {"n_observations": {"breast": 9}}}, "deviates", "n observations 9"),
        ({"protocol": {"changed": {"epochs": 2}}}, "deviates", "epochs 2"),
        ({"source": "simulated_xenium"}, "not comparable", "simulated"),
        ({"model": {"architecture": None}}, "not comparable", "no such row"),
        ({"protocol": {"encoders": {"m": {"card": "uni2_h", "revision": "random"}}}}, "not comparable", "no such row"),
        ({"entry": {"label_spec": {"method": "table"}}}, "not comparable", "label method"),
    ],
)
def test_what_differs_is_said(changes: dict[str, Any], status: str, words: str):
    own = cells_of(2, **changes).query("ran != ''")
    assert set(own["status"]) == {status}
    assert words in own["details"].iloc[0]


def test_labels_of_another_modality_are_of_the_other_table_and_open_nuclei_are_not_the_papers():
    assert cells_of(2, entry={"target": {"kind": "cell_class", "labels_from": "morphology"}})["ran"].eq("").all()
    nuclei = cells_of(1).query("ran != ''")
    assert set(nuclei["status"]) == {"not comparable"}
    assert "AI-sTIL" in nuclei["details"].iloc[0]
