"""A real SLURM on this machine, the shipped profile, and a bad night: every run ends in the tables of a local run.

Two faults run by default where SLURM can be started; `make test-slurm` runs all.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import cluster
import pytest
from slurm_runs import ROOT, SNAKEMAKE, Site, tables

pytestmark = pytest.mark.slurm
RETRIES = 2  # of the profile
LABELS = 4  # jobs of rule label_group: three patients by nnls, one table of the truth


def assert_same_tables(site: Site, local: Path) -> None:
    assert site.tables() == tables(local)
    assert site.tables()
    assert not list((site.folder / "results").rglob(".*.part*"))
    assert not site.queued()


def test_a_cancelled_job_is_submitted_again(site: Site, local: Path) -> None:
    site.fault("label_group", "sleep", 300)
    site.start()
    site.wait("the sleeping job", lambda: site.taken("label_group"))
    victim = site.sleeper("label_group").job
    cluster.ask("scancel", victim)
    assert site.finish() == 0, site.text()[-5000:]
    assert site.records()[victim].state == "CANCELLED"
    assert site.starts("label_group") == LABELS + 1
    assert_same_tables(site, local)


def test_a_job_out_of_memory_gets_more(site: Site, local: Path) -> None:
    """700 MB hold two Snakemakes and the job, but not another 600 MB; twice as much does."""
    site.fault("label_group", "hold", 600)
    site.start("--set-resources", "label_group:mem_mb=700*attempt")
    assert site.finish() == 0, site.text()[-5000:]
    asked = sorted(r.tres.split("mem=")[1].split(",")[0] for r in site.records().values())
    assert asked.count("1400M") == 1
    assert site.starts("label_group") == LABELS + 1
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_a_job_over_its_time_gets_more(site: Site, local: Path) -> None:
    site.fault("label_group", "sleep", 75)
    site.start("--set-resources", "label_group:runtime=attempt")
    assert site.finish() == 0, site.text()[-5000:]
    found = sorted((r.minutes, r.state) for r in site.records().values())
    assert ("1", "TIMEOUT") in found
    assert ("2", "COMPLETED") in found
    assert site.starts("label_group") == LABELS + 1
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_a_node_that_dies_takes_no_result_with_it(site: Site, local: Path) -> None:
    site.fault("label_group", "sleep", 300)
    site.start()
    site.wait("the sleeping job", lambda: site.taken("label_group"))
    victim = site.sleeper("label_group")
    cluster.crash_node(victim.node)
    assert site.finish() == 0, site.text()[-5000:]
    assert site.records()[victim.job].state == "NODE_FAIL"
    assert {e.node for e in site.ledger("label_group") if e.seconds > victim.seconds + 5} == {"cpu1", "cpu2"} - {
        victim.node
    }
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_the_controller_may_be_restarted(site: Site, local: Path) -> None:
    site.fault("label_group", "sleep", 30)
    site.start()
    site.wait("the sleeping job", lambda: site.taken("label_group"))
    cluster.stop_controller(signal.SIGKILL)
    cluster.start_controller()
    assert site.finish() == 0, site.text()[-5000:]
    assert site.starts("label_group") == LABELS
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_a_killed_run_resumes_and_never_writes_twice(site: Site, local: Path) -> None:
    site.fault("label_group", "sleep", 300)
    run = site.start()
    site.wait("the sleeping job", lambda: site.taken("label_group"))
    orphan = site.sleeper("label_group")
    run.kill()
    run.wait()
    assert orphan.job in site.queued("RUNNING")
    clear = subprocess.run(
        [sys.executable, str(ROOT / "scripts/tools/clear_run.py")],
        cwd=site.folder,
        check=False,
        capture_output=True,
        text=True,
    )
    assert clear.returncode == 0, clear.stderr
    assert orphan.job in clear.stdout
    assert not site.queued()
    assert not Path(f"/proc/{orphan.pid}").exists()
    subprocess.run([*SNAKEMAKE, "--directory", str(site.folder), "--unlock"], check=True, capture_output=True)
    assert site.run() == 0, site.text()[-5000:]
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_an_interrupted_run_cancels_its_jobs(site: Site, local: Path) -> None:
    site.fault("label_group", "sleep", 300)
    run = site.start()
    site.wait("the sleeping job", lambda: site.taken("label_group"))
    run.send_signal(signal.SIGINT)
    assert site.finish(60) != 0
    cluster.wait_for("an empty queue", lambda: not site.queued(), 20)
    assert site.run() == 0, site.text()[-5000:]
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_what_always_fails_fails_soon_and_clearly(site: Site) -> None:
    """One job always takes more than it may hold: no more tries than the profile allows, then the end."""
    site.fault("label_group", "hold", 900, times=40)
    site.start(
        "--set-resources",
        "label_group:mem_mb=600",
        "--until",
        "label_group",
        targets=("results/labels/nnls/tiny/P.0.h5ad",),
    )
    assert site.finish() == 1
    assert site.starts("label_group") == RETRIES + 1
    assert not (site.folder / "results/labels/nnls/tiny/P.0.h5ad").exists()
    assert not list((site.folder / "results").rglob(".*.part*"))
