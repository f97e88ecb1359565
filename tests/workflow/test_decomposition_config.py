"""``config/decomposition.yaml`` on small files in the layouts of her2st and STNet, with four patients in both.

Only the files by default; all experiments, models, tables and figures with ``HISTOLOOM_WHOLE_CONFIG=1`` (half an hour).
"""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from decomposition_world import SHARED, PaperRun, small_config
from histoloom import paths as patterns
from histoloom.audit import audit_sections
from simulated_world import paths

ENCODERS = ["CONCH_MLP", "UNI_MLP", "CONCH_UNI_MLP", "UNI2_MLP", "CONCH_UNI2_MLP", "CONCH_UNI_UNI2_MLP"]


def test_a_patient_of_both_cohorts_is_one_by_name_and_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = small_config(tmp_path, {"her2st": ["B", SHARED[0]], "stnet": ["BC23287", SHARED[0]]})
    monkeypatch.chdir(tmp_path)
    world = PaperRun(config, path)
    for cohort in config["cohorts"]:
        world.read(cohort)
    sections = {p.stem: anndata.read_h5ad(p) for p in paths(world.plan.experiments.sample_files("her2st_to_stnet"))}
    assert list(sections) == ["B1", "E1", "BC23287_C1", "BC23567_D2"]
    ours, theirs = sections["E1"], sections["BC23567_D2"]
    assert list(ours.obs_names.sort_values()) == list(theirs.obs_names.sort_values())
    ids = pd.read_csv(config["genes"]["table"], sep="\t").set_index("symbol")["ensembl_gene_id"]
    assert list(theirs.var_names) == list(ids[ours.var_names])
    np.testing.assert_array_equal(ours[theirs.obs_names].X.toarray(), theirs.X.toarray())
    out = tmp_path / "audit.parquet"
    files = paths(world.plan.experiments.sample_files("her2st_to_stnet"))
    audit_sections(spec={}, samples=files, genes=Path(config["genes"]["table"]), out=out)
    assert (pd.read_parquet(out)["verdict"] == "same").sum() == 1
    # A transfer with shared patients would stop at the guard, which knows them again.
    guards = {(e["on_overlap"], e.get("content_guard")) for e in config["experiments"].values() if "on_overlap" in e}
    assert guards == {("allow", "report"), ("drop", "stop")}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PaperRun, list[Path]]:
    if not os.environ.get("HISTOLOOM_WHOLE_CONFIG"):
        pytest.skip("long: set HISTOLOOM_WHOLE_CONFIG=1")
    folder, before = tmp_path_factory.mktemp("decomposition") / "run", Path.cwd()
    config, path = small_config(folder)
    torch.set_num_threads(1)
    os.chdir(folder)
    try:
        world = PaperRun(config, path)
        for experiment in config["experiments"]:
            world.evaluate(experiment)
        tables = world.paper("decomposition")
    finally:
        os.chdir(before)
    return folder, world, [folder / table for table in tables]


def test_every_table_and_figure_that_the_plan_names_is_made(ran: tuple[Path, PaperRun, list[Path]]) -> None:
    folder, world, tables = ran
    assert [path.name for path in tables] == [f"table{i}.md" for i in range(1, 4)]
    wanted = [
        target for target in world.plan.report.targets() if target.startswith(("results/figures", "results/tables"))
    ]
    not_here = {patterns.FRONT_PAGE, patterns.EXCLUSIONS}
    missing = [name for name in wanted if name not in not_here and not (folder / name).is_file()]
    assert missing == []
    for name in wanted:
        if name.endswith((".png", ".jpg")):
            with Image.open(folder / name) as picture:
                assert np.asarray(picture.convert("L"), float).std() > 5, name


def test_all_models_are_scored_on_all_patients(ran: tuple[Path, PaperRun, list[Path]]) -> None:
    for experiment, patients in (("her2st_paper", 8), ("stnet_paper", 23)):
        table = pd.read_csv(ran[0] / f"results/tables/{experiment}/summary.csv").set_index("model")
        assert set(table.index) == {"train_mean", *ENCODERS, "Hist2Cell"}
        assert (table["n_patients"] + table["n_patients_nan"] == patients).all()
        # Simulated types are seen in the picture; features of random networks show some of it to new patients.
        assert table.loc[ENCODERS, "cc"].mean() > table.loc["train_mean", "cc"] + 0.05


def test_no_cell_of_a_paper_table_is_called_the_same_as_the_paper(ran: tuple[Path, PaperRun, list[Path]]) -> None:
    cells = [pd.read_csv(path.with_suffix(".csv")) for path in ran[2]]
    assert all("same" not in set(table["status"]) for table in cells)
    ours = cells[0][cells[0]["status"] != "not run"]
    assert {"CONCH_UNI_MLP", "Hist2Cell"} <= set(ours["row"])
    assert set(cells[2].loc[cells[2]["status"] != "not run", "ratio_to"]) == {"Hist2Cell"}


def test_shared_patients_are_dropped_where_asked(ran: tuple[Path, PaperRun, list[Path]]) -> None:
    for name, train in (("her2st_to_stnet", "her2st"), ("stnet_to_her2st", "stnet")):
        kept, dropped = (
            pd.read_parquet(ran[0] / patterns.FOLDS.format(experiment=e)).query(
                "fold == 'transfer' and role == 'train'"
            )
            for e in (name, f"{name}_dropped")
        )
        assert set(kept["cohort"]) == {train}
        assert set(kept["patient"]) - set(dropped["patient"]) == set(SHARED)
