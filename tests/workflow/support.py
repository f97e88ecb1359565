"""Run the real workflow in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "workflow" / "tiny.yaml"


def command(folder: Path, *arguments: str, config: Path | None = TINY, cores: int = 2) -> list[str]:
    """Return the command line of a run in a folder."""
    chosen = [] if config is None else ["--configfile", str(config)]
    # Targets may follow, so an option that takes one value stands last.
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
        "--workflow-profile", str(ROOT / "profiles" / "ci"), "--quiet", "progress", *chosen, "--cores", str(cores),
        *arguments,
    ]  # fmt: skip


def run(
    folder: Path, *arguments: str, config: Path | None = TINY, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run and return what was printed; with `check` a failing run fails the test with its output."""
    result = subprocess.run(
        command(folder, *arguments, config=config), capture_output=True, text=True, check=False, env={**os.environ}
    )
    if check and result.returncode:
        raise AssertionError(f"run failed:\n{result.stdout[-4000:]}\n{result.stderr[-6000:]}")
    return result


def tables(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every table that is no efficiency record."""
    found = sorted((folder / "results" / "tables").rglob("*.csv"))
    # Table 3 of the decomposition paper is about seconds and memory, which no two runs share.
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.name != "table3.csv"}
