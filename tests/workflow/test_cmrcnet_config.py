"""``config/cmrcnet.yaml`` on small files in HEST's layout: every kind of model, every table and figure.

One data set and one model of each kind; all six and all models with ``HISTOLOOM_WHOLE_CONFIG=1`` (about half an hour).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hest_world import small_config
from whole_config import FIGURES, WholeConfig

WHOLE = bool(os.environ.get("HISTOLOOM_WHOLE_CONFIG"))
FEW = [
    "train_mean",
    "ridge_texture",
    "ctranspath_probe",
    "ctranspath_tuned",
    "retrieval_ctranspath",
    "stnet",
    "histogene",
    "bleep",
    "cmrcnet",
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WholeConfig, list[Path]]:
    folder, before = tmp_path_factory.mktemp("cmrcnet"), Path.cwd()
    config, path = small_config(folder, None if WHOLE else ["skcm"])
    if not WHOLE:
        config["experiments"] = {"skcm_samples": config["experiments"]["skcm_samples"] | {"models": FEW}}
    torch.set_num_threads(1)
    os.chdir(folder)
    try:
        world = WholeConfig(config, path)
        for experiment in config["experiments"]:
            world.evaluate(experiment)
        tables = world.paper("cmrcnet")
    finally:
        os.chdir(before)
    return folder, world, [folder / table for table in tables]


def test_every_table_and_figure_is_made(ran: tuple[Path, WholeConfig, list[Path]]) -> None:
    folder, world, tables = ran
    assert [path.name for path in tables] == [f"table{i}.md" for i in range(1, 6)]
    for experiment in world.plan.experiments.evaluations():
        for name in FIGURES.values():
            with Image.open(folder / "results/figures" / experiment / name) as picture:
                pixels = np.asarray(picture.convert("L"), float)
            assert pixels.shape[1] > 800
            assert pixels.std() > 10, name


def test_simulated_sections_under_hests_names_are_never_the_same_as_the_paper(
    ran: tuple[Path, WholeConfig, list[Path]],
) -> None:
    for path in ran[2]:
        cells = pd.read_csv(path.with_suffix(".csv"))
        assert "same" not in set(cells["status"])
        assert cells["difference"].isna().all()
    # k = 500 is cut down to fewer neighbours than that here, and so is no row of the paper.
    first = pd.read_csv(ran[2][0].with_suffix(".csv"))
    ours = first[first["status"] != "not run"]
    assert {"SKCM STNet", "SKCM BLEEP", "SKCM CMRCNet-50"} <= set(ours["row"])


def test_scores_of_a_run_are_by_three_ways_with_their_ceiling(ran: tuple[Path, WholeConfig, list[Path]]) -> None:
    table = pd.read_csv(ran[0] / "results/tables/skcm_samples/protocols.csv")
    heg = table[(table["gene_set"] == "heg") & (table["k"] == 50)].set_index("model")
    assert heg.loc["train_mean", "pcc_panel"] == 0
    assert heg.loc["ridge_texture", "pcc_panel"] > 0.05  # simulated genes follow visible types
    assert ((heg["ceiling"] > heg["pcc_panel"]) & (heg["ceiling"] < 1)).all()
    page = (ran[0] / "results/tables/skcm_samples/protocols.md").read_text()
    # An encoder with random weights is a baseline, and its models do not count here.
    trained = table["model"].str.contains("^(?:ridge_texture|ctranspath_tuned|stnet|histogene|bleep|cmrcnet)")
    ten = table[(table["k"] == 10) & (table["gene_set"] == "hvg") & trained]
    added = float((ten["pcc_published"] - ten["pcc_panel"]).mean())
    assert added > 0.01  # genes chosen by the test section's own truth
    assert f"{added:+.3f}" in page.partition("What each way adds to ours")[2]
    marker = table[table["gene_set"] == "marker"].iloc[0]
    assert marker["genes"] + marker["undefined"] == 5  # every marker is counted, predicted or not
