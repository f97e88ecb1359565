"""Two simulated Xenium runs from the bundle to scores: which classes genes tell apart, which morphology, which neither."""

from __future__ import annotations

import pandas as pd
import pytest
from support import ROOT, run

pytestmark = pytest.mark.workflow
CONFIG = ROOT / "tests" / "workflow" / "cells.yaml"
MODELS = ("majority", "genes", "morphology", "both")


@pytest.fixture(scope="module")
def f1(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """F1 of each class (rows) and of all ("") by model, on spatial blocks."""
    folder = tmp_path_factory.mktemp("cells")
    run(folder, *(f"results/metrics/blocks/{model}.parquet" for model in MODELS), config=CONFIG)
    rows = pd.concat([pd.read_parquet(folder / f"results/metrics/blocks/{model}.parquet") for model in MODELS])
    rows = rows[(rows["aggregation"] == "cohort") & rows["metric"].isin(["f1", "macro_f1"])]
    return rows.pivot_table(index="target", columns="model", values="value")


def test_genes_tell_apart_what_looks_alike(f1: pd.DataFrame) -> None:
    assert (f1.loc[["T_cell", "B_cell"], "genes"] > 0.9).all()
    assert (f1.loc[["T_cell", "B_cell"], "morphology"] < 0.6).all()


def test_morphology_tells_apart_what_has_one_expression_profile(f1: pd.DataFrame) -> None:
    assert (f1.loc[["tumour", "epithelial"], "morphology"] > f1.loc[["tumour", "epithelial"], "genes"] + 0.15).all()
    assert (f1.loc[["tumour", "epithelial"], "both"] > 0.9).all()


def test_classes_that_are_drawn_by_lot_are_not_learnt(f1: pd.DataFrame) -> None:
    assert (f1.loc[["fibroblast", "myofibroblast"]].drop(columns="majority") < 0.75).all(axis=None)


def test_both_modalities_together_are_best_and_the_majority_says_nothing(f1: pd.DataFrame) -> None:
    whole = f1.loc[""]
    assert whole["both"] > max(whole["genes"], whole["morphology"]) + 0.03
    assert whole["majority"] < 0.1
