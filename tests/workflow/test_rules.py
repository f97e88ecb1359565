"""Mistakes in rules are refused when the workflow is parsed, before any job."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, TINY

pytestmark = pytest.mark.workflow


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a copy of the workflow whose rules may be edited."""
    house = tmp_path / "house"
    shutil.copytree(ROOT / "workflow", house / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", house)
    for name in ("scripts", "config", "resources", "envs"):
        (house / name).symlink_to(ROOT / name)
    return house


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("inputs(PLAN.sections.slide)", "inputs(PLAN.sections.slides)", "no attribute 'slides'"),
        ("inputs(PLAN.sections.slide)", "inputs(PLAN.labels.groups)", "count_nuclei has no wildcard labels"),
        ('sample=paths.SAMPLE', "unpack(inputs(PLAN.labels.inputs))", "count_nuclei has no wildcard group, labels"),
        ('memory(NEEDS["count_nuclei"])', "memory(PLAN.models.kind)", "count_nuclei has no wildcard model"),
        ('code_of("nuclei")', "spec(PLAN.models.spec)", "count_nuclei has no wildcard model"),
        ('code_of("nuclei")', 'code_of("nucleus")', "no such stage"),
        ("paths.NUCLEI", "paths.NUCLEUS", "no attribute 'NUCLEUS'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_rule_are_refused(copied: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    rules = copied / "workflow" / "rules" / "nuclei.smk"
    text = rules.read_text()
    assert old in text
    rules.write_text(text.replace(old, new, 1))
    command = [
        sys.executable, "-m", "snakemake", "-n", "--snakefile", str(copied / "Snakefile"), "--directory", str(tmp_path),
        "--configfile", str(TINY), "--workflow-profile", "none",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr
    assert not (tmp_path / "results").exists()
