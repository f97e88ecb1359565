"""Tables of the CMRCNet paper by data set: which run is which row, and what may stand next to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histoloom.metrics.rows import assemble
from histoloom.report.data_set_tables import data_set_cells, data_set_page
from histoloom.report.protocols import flattery, limits, protocol_table
from histoloom.report.published import load_published

FOLDER = Path(__file__).resolve().parents[2] / "resources" / "published"
TABLES = load_published(FOLDER, "cmrcnet")
READ = ["ZEN36", "ZEN40", "ZEN48", "ZEN49"]
MODELS = {"cmrcnet": {"kind": "cmrcnet", "k": 50}, "stnet": {"kind": "stnet"}, "ridge": {"kind": "ridge"}}


def protocol(kind: str, **changes) -> str:
    return json.dumps({
        "kind": kind, "split": "leave_one_sample_out", "selection": "val_spots", "weights": "imagenet", "encoders": {},
        "tiles_spec": {"size_px": 224, "um_per_px": 0.5}, "n_sections": {"read": 4}, "n_observations": {"read": 8407},
        "target": {"size_factor": "median", "log": "log1p"}, "settings": "as_code", "changed": {}, **changes,
    })  # fmt: skip


def metrics(model: str, variant: str = "default", genes: int = 3355, shift: float = 0.0, **changes) -> list[dict]:
    k = {"variant": {"k": int(variant[1:])}} if variant != "default" else {}
    place = {"experiment": "read_samples", "model": model, "variant": variant, "cohort": "read", "aggregation": "cohort",
             "against": "labels", "protocol": protocol(MODELS[model]["kind"], **k, **changes)}  # fmt: skip
    sets = [
        ("heg", "50", 0.30),
        ("hvg", "50", 0.40),
        ("marker", "11", 0.20),
        ("heg", "150", 0.25),
        ("hvg", "150", 0.35),
    ]
    rows = [{**place, "metric": "pcc_published", "gene_set": s, "k": n, "value": v + shift} for s, n, v in sets]
    values = np.linspace(0.5, -0.1, genes)
    return rows + [{**place, "metric": "cc", "target": f"g{i}", "value": v} for i, v in enumerate(values)]


def cells(number: int, rows: list[dict], samples=READ) -> pd.DataFrame:
    entry = {"models": list(MODELS), "model_specs": MODELS, "samples": {"read": samples}, "sources": {"read": "hest"},
             "split": "leave_one_sample_out"}  # fmt: skip
    return data_set_cells(TABLES[number], {"experiments": {"read_samples": entry}}, assemble([pd.DataFrame(rows)]))


def one(frame: pd.DataFrame, row: str, column: str) -> pd.Series:
    found = frame[(frame["row"] == row) & (frame["column"] == column)]
    assert len(found) == 1
    return found.iloc[0]


def test_a_run_on_the_papers_samples_is_its_row_by_kind_and_k():
    frame = cells(1, metrics("cmrcnet", "k50") + metrics("cmrcnet", "k500", shift=0.1) + metrics("cmrcnet", "k250"))
    fifty, most = one(frame, "READ CMRCNet-50", "HEG"), one(frame, "READ CMRCNet-500", "HEG")
    assert (fifty["status"], fifty["published"], fifty["value"]) == ("same", 0.3327, 0.30)
    assert fifty["difference"] == pytest.approx(0.30 - 0.3327)
    assert (most["published"], most["value"]) == (0.3361, pytest.approx(0.40))
    other = frame[frame["ran"] == "cmrcnet (k250)"]
    assert set(other["status"]) == {"not comparable"}
    assert other["published"].isna().all()
    assert one(frame, "PSC BLEEP", "HVG")["status"] == "not run"
    assert one(frame, "PSC BLEEP", "HVG")["published"] == 0.2262
    # Every published cell stands once: next to a run, or as not run.
    printed = frame[frame["published"].notna()]
    assert len(printed) == len(TABLES[1].rows) * 3


@pytest.mark.parametrize(
    ("changes", "samples", "status", "words"),
    [
        (
            {"split": "leave_one_patient_out"},
            READ,
            "deviates",
            "split leave_one_patient_out instead of leave_one_sample_out",
        ),
        ({"n_observations": {"read": 8000}}, READ, "deviates", "n observations 8000 instead of 8407"),
        ({"changed": {"depth": 1}}, READ, "deviates", "other settings than as_code: depth 1"),
        ({"weights": "random"}, READ, "not comparable", "random weights"),
        ({"shuffle_labels": "everywhere"}, READ, "not comparable", "labels shuffled"),
        ({}, READ[:2], "not comparable", "no such row"),
    ],
)
def test_what_differs_is_named(changes, samples, status, words):
    frame = cells(1, metrics("stnet", **changes), samples)
    own = frame[frame["ran"] == "stnet"]
    assert set(own["status"]) == {status}
    assert all(words in text for text in own["details"])
    assert own["published"].notna().all() == (status == "deviates")
    assert words in data_set_page(TABLES[1], frame).markdown()


def test_more_genes_take_more_neighbours_of_retrieval_models_only():
    frame = cells(2, metrics("cmrcnet", "k250") + metrics("stnet"))
    assert one(frame, "READ CMRCNet", "HEG (top 150)")["value"] == 0.25
    assert frame[(frame["ran"] == "cmrcnet (k250)") & (frame["column"] == "HEG (top 250)")].empty
    assert one(frame, "READ STNet", "HVG (top 150)")["published"] == 0.1910


def test_best_genes_are_named_in_order():
    frame = cells(3, metrics("cmrcnet", "k50"))
    ranks = [one(frame, f"READ rank {i}", "CMRCNet") for i in range(1, 6)]
    assert [r["gene"] for r in ranks] == [f"g{i}" for i in range(5)]
    assert ranks[0]["value"] == 0.5
    assert "FABP4 0.4154" in data_set_page(TABLES[3], frame).markdown()


def test_the_ablation_is_a_mean_that_says_how_many_data_sets_it_has():
    frame = cells(5, metrics("cmrcnet", "k50"))
    own = one(frame, "mse mask 0.5 image", "HEG")
    assert own["value"] == 0.30
    assert own["status"] == "deviates"
    assert own["details"].startswith("1 of 6 data sets: READ")
    assert one(frame, "contrastive only", "HEG")["status"] == "not run"


def test_three_ways_stand_next_to_each_other_and_what_each_adds():
    values = {"pcc_panel": 0.2, "pcc_published": 0.35, "pcc_bench_panel": 0.3}
    place = {"aggregation": "cohort", "train_seed": -1, "against": "labels", "gene_set": "hvg", "k": "50"}
    rows = [
        {**place, "model": m, "metric": way, "value": v + d}
        for way, v in values.items()
        for m, d in (("a", 0), ("b", 0.1))
    ]
    rows += [{**place, "model": "mean", "metric": way, "value": 0.0} for way in values]
    rows += [
        {**place, "model": m, "aggregation": "section", "metric": "pcc_panel", "n": 49, "n_nan": 1} for m in ("a", "b")
    ]
    top = pd.DataFrame({"gene_set": ["hvg"], "k": ["50"], "value": [0.6]})
    table = protocol_table(assemble([pd.DataFrame(rows)]), ["mean", "a", "b"], top)
    assert table["model"].tolist() == ["mean", "a", "b"]
    assert table.loc[1, [*values, "ceiling", "genes", "undefined"]].tolist() == [0.2, 0.35, 0.3, 0.6, 49, 1]
    added = flattery(table, ["mean"])
    assert added.loc[0, ["as published", "HEST-bench's"]].tolist() == pytest.approx([0.15, 0.10])


def test_one_patient_shows_nothing_about_new_ones():
    assert "nothing about new patients" in limits({"n_patients": {"psc": 1}})[0]
    said = limits({"n_patients": {"read": 2}, "overlap_patients": ["cms-A938797"]})
    assert "Two patients" in said[0]
    assert "cms-A938797" in said[1]
    assert not limits({"n_patients": {"idc": 4}})
