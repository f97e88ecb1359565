"""A small task of HEST-bench through the whole workflow, from local copies to the table next to the leaderboard."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from support import run

from bench_layout import FOLDS, SECTIONS, write_sheet, write_task

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on local copies; the task goes by the name of a real one, to stand next to published rows."""
    folder = tmp_path_factory.mktemp("bench")
    write_task(folder / "mirror/hest_bench", "IDC")
    write_sheet(folder / "toy.tsv")
    probe = {
        "task": "probe", "paper": "hest_bench", "title": "HEST-bench, a toy IDC", "cohorts": ["idc"], "tiles": "patch",
        "encoders": ["texture"], "split": "published", "panel": {"genes": "published"}, "content_guard": "off",
    }  # fmt: skip
    config = {
        "cohorts": {"idc": {"source": "hest_bench", "task": "IDC", "folds": len(FOLDS), "sheet": "toy.tsv"}},
        "tiles": {"patch": {"size_px": 224, "um_per_px": 0.5, "background": {"method": "none"}}},
        "encoders": {"texture": {"card": "stain_texture", "tiles": "patch"}},
        "experiments": {"bench": probe},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    run(folder, "--config", "mirror_dir=mirror", config=folder / "c.yaml")
    return folder


def test_a_task_ends_in_a_table_and_a_figure(finished: Path) -> None:
    table = pd.read_csv(finished / "results/tables/bench/probe.csv").set_index("alpha")
    assert sorted(table.index) == ["inner", "published"]
    assert (table["n_folds"] == len(FOLDS)).all()
    assert (table["n_patients"] == len(set(SECTIONS.values()))).all()
    # Half of the genes follow the picture.
    assert (table["pcc_bench"] > 0.25).all()
    assert (finished / "results/figures/bench/probe.png").stat().st_size > 5000
    for sample in SECTIONS:
        assert (finished / f"results/figures/samples/idc/{sample}.png").stat().st_size > 5000
    taken = finished / "results/sources/hest_bench/IDC"
    assert all(path.is_symlink() for path in taken.rglob("*.h5"))


def test_own_rows_stand_beside_the_leaderboard_and_claim_nothing(finished: Path) -> None:
    table = pd.read_csv(finished / "results/tables/hest_bench/table1.csv")
    own = table[table["experiment"] == "bench"]
    assert own["row"].tolist() == ["texture, published alpha", "texture, inner alpha"]
    assert set(own["status"]) == {"not comparable"}
    assert own["details"].str.contains("no such model").all()
    assert own["published"].isna().all()
    theirs = table[table["status"] == "not run"]
    assert len(theirs) == 26 * 10
    assert (theirs.set_index(["row", "column"]).loc[("UNI", "IDC"), "published"]) == 0.5890


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    again = run(finished, "--config", "mirror_dir=mirror", config=finished / "c.yaml")
    assert "Nothing to be done" in again.stdout + again.stderr
