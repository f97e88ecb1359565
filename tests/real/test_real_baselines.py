"""Numbers of four real sections stay: the baseline comparison of B4, C2, C3 and C4, as README.md shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.skipif(
    os.environ.get("HISTOLOOM_REAL_RUNS") != "yes", reason="a run of some minutes: HISTOLOOM_REAL_RUNS=yes asks for it"
)
def test_the_baseline_comparison_stays(real_data: Path, repo: Path, tmp_path: Path) -> None:
    target = "results/tables/levels/summary.csv"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(repo / "Snakefile"), "--directory", str(tmp_path)]
    command += ["--workflow-profile", str(repo / "profiles/ci"), target]
    command += ["--configfile", str(repo / "tests/real/reviewer.yaml"), "--config", f"mirror_dir={real_data}"]
    subprocess.run(command, check=True, cwd=tmp_path)
    got = pd.read_csv(tmp_path / target).set_index("model")["cc"]
    expected = pd.read_csv(Path(__file__).with_name("baselines.tsv"), sep="\t", comment="#").set_index("model")["cc"]
    pd.testing.assert_series_equal(got[expected.index], expected, rtol=0, atol=5e-5)
