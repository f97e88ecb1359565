"""Accounts, on a cluster that keeps them: slurmdbd and its database, started for this file alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import accounting
import cluster
import pytest
from slurm_runs import ROOT, SNAKEMAKE, Site, changed_profile, tables

pytestmark = [pytest.mark.slurm, pytest.mark.slurm_long]
SAYS = "Invalid account or account/partition combination"


@pytest.fixture(scope="module")
def accounts() -> Iterator[None]:
    """A running cluster on which this user has one account, that of the shipped profile."""
    reason = cluster.why_not() or accounting.why_not()
    if reason:
        pytest.skip(f"no SLURM cluster with accounts can be started here: {reason}")
    with cluster.cluster(accounting.SLURM_CONF, accounting.start):
        yield


@pytest.fixture
def site(accounts: None, local: Path, tmp_path: Path) -> Iterator[Site]:
    place = Site(tmp_path / "run")
    place.take_over(local)
    try:
        yield place
    finally:
        place.stop()


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """The shipped profile with an account that nobody has."""
    return changed_profile(tmp_path, {"config.yaml": ("slurm_account: lab", "slurm_account: nobodys")})


def test_a_wrong_account_shows_in_the_plan(site: Site, wrong: Path) -> None:
    words = [sys.executable, str(ROOT / "scripts/tools/plan_run.py"), *SNAKEMAKE[3:], "--directory", str(site.folder)]
    result = subprocess.run(
        [*words, Site.LIGHT, "--workflow-profile", str(wrong)], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 1
    assert SAYS in result.stderr
    assert "account nobodys" in result.stderr
    assert "Remedy" in result.stderr


def test_a_run_on_a_wrong_account_stops_before_its_first_submission(site: Site, wrong: Path) -> None:
    """Left to the executor, a grouped job would hang the run for ever."""
    site.start(profile=wrong)
    assert site.finish() == 1
    assert SAYS in site.text()
    assert "nothing was started" in site.text()
    assert not site.records()
    assert not site.queued()


def test_a_run_on_the_right_account_ends_in_the_same_tables(site: Site, local: Path) -> None:
    assert site.run() == 0, site.text()[-5000:]
    assert site.tables() == tables(local)
    job = next(iter(site.records()))
    assert f"Account={cluster.ACCOUNT}" in cluster.ask("scontrol", "-o", "show", "job", job)
