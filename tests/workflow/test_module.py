"""The workflow inside another one: under a prefix, from the folder that the workflow catalog looks in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

pytestmark = pytest.mark.workflow

OUTER = f"""
configfile: "tiny.yaml"

module histoloom:
    snakefile: "{ROOT}/workflow/Snakefile"
    config: config
    prefix: "spatial"

use rule * from histoloom as histoloom_*
"""


def outer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for path in (ROOT / "tests" / "workflow").glob("tiny*"):
        shutil.copy(path, folder)
    (folder / "Snakefile").write_text(OUTER)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_all_is_planned_under_the_prefix(tmp_path: Path) -> None:
    result = outer(tmp_path, "-n", "histoloom_all")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "spatial/results/tables/tiny/summary.csv" in result.stdout
    assert " results/" not in result.stdout


def test_jobs_write_under_the_prefix_only(tmp_path: Path) -> None:
    result = outer(tmp_path, "spatial/results/labels/nnls/tiny/P.0")
    assert result.returncode == 0, result.stderr[-3000:]
    written = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.h5ad")}
    assert written == {"spatial"}
    assert (tmp_path / "spatial/results/labels/nnls/tiny/P.0").is_dir()
    # Checkpoints go next to the stages, also under a prefix.
    assert not (tmp_path / "results").exists()


def test_the_catalogs_entry_point_makes_all(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "snakemake", "-n", "--snakefile", str(ROOT / "workflow/Snakefile"), "--directory",
        str(tmp_path), "--configfile", str(ROOT / "tests/workflow/tiny.yaml"),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "results/tables/tiny/summary.csv" in result.stdout, result.stderr[-3000:]
