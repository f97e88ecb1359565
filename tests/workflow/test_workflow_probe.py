"""A small task of HEST-bench through the whole workflow, from local copies to the table next to the leaderboard."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from support import run

from bench_layout import FOLDS, SECTIONS, write_sheet, write_task

pytestmark = pytest.mark.workflow
MODELS = ("texture", "texture_inner")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on local copies; the task goes by the name of a real one, to stand next to published rows."""
    folder = tmp_path_factory.mktemp("bench")
    write_task(folder / "mirror/hest_bench", "IDC")
    write_sheet(folder / "toy.tsv")
    bench = {
        "task": "evaluate", "paper": "hest_bench", "title": "HEST-bench, a toy IDC", "cohorts": ["idc"],
        "tiles": "patch", "split": "published", "target": {"kind": "expression", "panel": {"genes": "published"}},
        "models": ["texture", "texture_inner"], "content_guard": "off",
    }  # fmt: skip
    config = {
        "cohorts": {"idc": {"source": "hest_bench", "task": "IDC", "folds": len(FOLDS), "sheet": "toy.tsv"}},
        "tiles": {"patch": {"size_px": 224, "um_per_px": 0.5, "background": {"method": "none"}}},
        "encoders": {"texture": {"card": "stain_texture", "tiles": "patch"}},
        "models": {
            "texture": {"kind": "pca_ridge", "inputs": ["texture"]},
            "texture_inner": {"kind": "pca_ridge", "inputs": ["texture"], "alpha": "inner"},
        },
        "experiments": {"bench": bench},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    run(folder, "--config", "mirror_dir=mirror", config=folder / "c.yaml")
    return folder


def test_a_task_ends_in_a_table_and_a_figure(finished: Path) -> None:
    rows = pd.concat([pd.read_parquet(finished / f"results/metrics/bench/{m}.parquet") for m in MODELS])
    whole = rows[(rows["metric"] == "pcc_bench") & (rows["aggregation"] == "cohort") & (rows["target"] == "")]
    assert sorted(whole["model"]) == sorted(MODELS)
    assert (whole["n"] == len(FOLDS)).all()
    # Half of the genes follow the picture.
    assert (whole["value"] > 0.25).all()
    assert (finished / "results/tables/bench/summary.csv").stat().st_size > 100
    for sample in SECTIONS:
        assert (finished / f"results/figures/samples/idc/{sample}.jpg").stat().st_size > 5000
    taken = finished / "results/sources/hest_bench/IDC"
    assert all(path.is_symlink() for path in taken.rglob("*.h5"))


def test_own_rows_stand_beside_the_leaderboard_and_claim_nothing(finished: Path) -> None:
    table = pd.read_csv(finished / "results/tables/hest_bench/table1.csv")
    own = table[table["experiment"] == "bench"]
    assert set(own["status"]) == {"not comparable"}
    assert len(own) == len(MODELS)
    assert set(own["status"]) == {"not comparable"}
    assert own["details"].str.contains("no such model").all()
    assert own["published"].isna().all()
    theirs = table[table["status"] == "not run"]
    assert len(theirs) == 26 * 10
    assert (theirs.set_index(["row", "column"]).loc[("UNI", "IDC"), "published"]) == 0.5890


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    again = run(finished, "--config", "mirror_dir=mirror", config=finished / "c.yaml")
    assert "Nothing to be done" in again.stdout + again.stderr
