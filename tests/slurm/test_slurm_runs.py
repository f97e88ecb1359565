"""A real SLURM on this machine, the shipped profile, and a bad night: every run ends in the tables of a local run.

Two faults run by default where SLURM can be started; `make test-slurm` runs all.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cluster
import pytest
import yaml
from slurm_runs import ROOT, SNAKEMAKE, TINY, Site, changed_profile, tables

pytestmark = pytest.mark.slurm
RETRIES = 2  # of the profile
GPU_JOB = "results/models/tiny/mlp.pt"
LABELS = 4  # jobs of rule label_groups: three patients by nnls, one table of the truth


def assert_same_tables(site: Site, local: Path) -> None:
    assert site.tables() == tables(local)
    assert site.tables()
    assert not list((site.folder / "results").rglob(".*.part*"))
    assert not site.queued()


def test_a_cancelled_job_is_submitted_again(site: Site, local: Path) -> None:
    site.fault("label_groups", "sleep", 300)
    site.start()
    site.wait("the sleeping job", lambda: site.taken("label_groups"))
    victim = site.sleeper("label_groups").job
    cluster.ask("scancel", victim)
    assert site.finish() == 0, site.text()[-5000:]
    assert site.records()[victim].state == "CANCELLED"
    assert site.starts("label_groups") == LABELS + 1
    assert_same_tables(site, local)


def test_a_job_out_of_memory_gets_more(site: Site, local: Path) -> None:
    """700 MB hold two Snakemakes and the job, but not another 600 MB; twice as much does."""
    site.fault("label_groups", "hold", 600)
    site.start("--set-resources", "label_groups:mem_mb=700*attempt")
    assert site.finish() == 0, site.text()[-5000:]
    asked = sorted(r.tres.split("mem=")[1].split(",")[0] for r in site.records().values())
    assert asked.count("1400M") == 1
    assert site.starts("label_groups") == LABELS + 1
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_a_job_over_its_time_gets_more(site: Site, local: Path) -> None:
    # A job takes ten seconds, on a machine with much else to do a minute.
    site.fault("label_groups", "sleep", 150)
    site.start("--set-resources", "label_groups:runtime=2*attempt")
    assert site.finish() == 0, site.text()[-5000:]
    found = sorted((r.minutes, r.state) for r in site.records().values())
    assert ("2", "TIMEOUT") in found
    assert ("4", "COMPLETED") in found
    assert site.starts("label_groups") == LABELS + 1
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_a_node_that_dies_takes_no_result_with_it(site: Site, local: Path) -> None:
    site.fault("label_groups", "sleep", 300)
    site.start()
    site.wait("the sleeping job", lambda: site.taken("label_groups"))
    victim = site.sleeper("label_groups")
    cluster.crash_node(victim.node)
    assert site.finish() == 0, site.text()[-5000:]
    assert site.records()[victim.job].state == "NODE_FAIL"
    assert {e.node for e in site.ledger("label_groups") if e.seconds > victim.seconds + 5} == {"cpu1", "cpu2"} - {
        victim.node
    }
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_the_controller_may_be_restarted(site: Site, local: Path) -> None:
    site.fault("label_groups", "sleep", 30)
    site.start()
    site.wait("the sleeping job", lambda: site.taken("label_groups"))
    cluster.stop_controller(signal.SIGKILL)
    cluster.start_controller()
    assert site.finish() == 0, site.text()[-5000:]
    assert site.starts("label_groups") == LABELS
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_a_killed_run_resumes_and_never_writes_twice(site: Site, local: Path) -> None:
    site.fault("label_groups", "sleep", 300)
    run = site.start()
    site.wait("the sleeping job", lambda: site.taken("label_groups"))
    orphan = site.sleeper("label_groups")
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
    assert not cluster.alive(orphan.pid)
    subprocess.run([*SNAKEMAKE, "--directory", str(site.folder), "--unlock"], check=True, capture_output=True)
    assert site.run() == 0, site.text()[-5000:]
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_an_interrupted_run_cancels_its_jobs(site: Site, local: Path) -> None:
    site.fault("label_groups", "sleep", 300)
    run = site.start()
    site.wait("the sleeping job", lambda: site.taken("label_groups"))
    run.send_signal(signal.SIGINT)
    assert site.finish(120) != 0
    cluster.wait_for("an empty queue", lambda: not site.queued(), 20)
    assert site.run() == 0, site.text()[-5000:]
    assert_same_tables(site, local)


@pytest.mark.slurm_long
def test_what_always_fails_fails_soon_and_clearly(site: Site) -> None:
    """One job always takes more than it may hold: no more tries than the profile allows, then the end."""
    site.fault("label_groups", "hold", 900, times=40)
    site.start(
        "--set-resources",
        "label_groups:mem_mb=600",
        "--until",
        "label_groups",
        targets=("results/labels/nnls/tiny/P.0",),
    )
    assert site.finish() == 1
    assert site.starts("label_groups") == RETRIES + 1
    assert not (site.folder / "results/labels/nnls/tiny/P.0").exists()
    assert not list((site.folder / "results").rglob(".*.part*"))


@pytest.mark.slurm_long
def test_the_whole_cohort_with_a_drained_gpu_node(slurm: None, whole: Path, tmp_path: Path) -> None:
    """Jobs that ask for the GPU wait while its node is drained; they alone carry it; all tables equal a local run's."""
    site = Site(tmp_path / "run")
    site.take_over(whole, parts=("results/sources", ".snakemake/metadata"))
    cluster.ask("scontrol", "update", "nodename=gpu1", "state=drain", "reason=test")
    try:
        site.start(targets=())
        site.wait("a GPU job in the queue", lambda: bool(site.gpu_jobs()), 900)
        shown = ("scontrol", "-o", "show", "job", site.gpu_jobs()[0])
        site.wait("the reason", lambda: "DRAINED" in cluster.ask(*shown))
        assert "JobState=PENDING" in cluster.ask(*shown)
        cluster.ask("scontrol", "update", "nodename=gpu1", "state=resume")
        assert site.finish() == 0, site.text()[-5000:]
    finally:
        site.stop()
        cluster.start_node("gpu1")
    records, starts = site.records(), [event for event in site.ledger() if event.event == "start"]
    on_gpu = {r.job for r in records.values() if r.partition == "gpu"}
    assert on_gpu == {r.job for r in records.values() if r.nodes == "gpu1"}
    # The controller still knows the jobs of the last five minutes.
    assert {r.job for r in records.values() if site.carries_gpu(r.job)} <= on_gpu
    assert {e.gpu for e in starts if e.job in on_gpu} == {"0"}
    assert {e.gpu for e in starts if e.job not in on_gpu} <= {"-"}
    # The MLP's folds are one job; a pixel model has one for each of three, by the same script. Its predictions go with
    # others, no score waits there.
    held = Counter(e.script for e in starts if e.job in on_gpu)
    assert held.pop("train_model") == 1 + 3
    assert "predict_model" in held
    assert set(held) <= {"predict_model", "summarise_training", "apply_model"}
    # Some seventy jobs of the plan are half as many for the scheduler.
    assert len(records) <= 36
    assert site.tables() == tables(whole)


@pytest.mark.slurm_long
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("slurm_partition=nowhere",), "Invalid partition name"),
        (("slurm_partition=cpu", "mem_mb=2000", "constraint=moon"), "Invalid feature specification"),
    ],
    ids=["partition", "constraint"],
)
def test_refused_submissions_end_in_a_clear_failure(site: Site, arguments: tuple[str, ...], says: str) -> None:
    assert site.run("--default-resources", *arguments, "--retries", "0") == 1
    assert says in site.text()
    assert not site.records()


@pytest.mark.slurm_long
def test_more_memory_than_any_node_has_is_refused(site: Site) -> None:
    assert site.run("--set-resources", "label_groups:mem_mb=900000", "--retries", "0") == 1
    assert "no partition takes rule label_groups (900000 MB" in site.text()
    assert not site.records()


def plan(site: Site, profile: Path, target: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / "scripts/tools/plan_run.py"), *SNAKEMAKE[3:], "--directory", str(site.folder)]
    words += [target, "--workflow-profile", str(profile)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slurm_long
@pytest.mark.parametrize(
    ("edits", "target", "says"),
    [
        ({}, Site.LIGHT, None),
        (
            {"partitions.yaml": ("  cpu:", "  nowhere:")},
            Site.LIGHT,
            "no partition 'nowhere' on this cluster. Remedy: use one of cpu, gpu",
        ),
        ({"partitions.yaml": ("max_mem_mb: 64000", "max_mem_mb: 100")}, Site.LIGHT, "no partition takes rule"),
        ({"partitions.yaml": ("max_gpu: 1", "max_gpu: 0")}, GPU_JOB, "(gpu: 0 runs it on CPUs)"),
        (
            {"config.yaml": ("  train_model:\n", "  train_model:\n    slurm_partition: cpu\n")},
            GPU_JOB,
            "would refuse rule train_model (partition cpu",
        ),
    ],
    ids=["good", "partition", "memory", "no-gpu-lent", "no-gpu-there"],
)
def test_the_plan_says_what_the_cluster_would_refuse(
    site: Site, tmp_path: Path, edits: dict, target: str, says: str | None
) -> None:
    result = plan(site, changed_profile(tmp_path, edits), target)
    assert (result.returncode == 0) is (says is None), result.stderr
    assert says is None or says in result.stderr
    assert "submissions" in result.stdout
    assert not site.queued()


@pytest.mark.slurm_long
def test_cell2location_trains_inside_a_job(slurm: None, tmp_path: Path) -> None:
    """Lightning takes a SLURM job for a cluster of its own; the fit must not."""
    config = cell2location_config(tmp_path)
    site = Site(tmp_path / "run")
    site.start("--configfile", str(config), targets=("results/labels/c2l/tiny/P.0",))
    assert site.finish() == 0, site.text()[-5000:]
    (fit,) = {e.job for e in site.ledger("label_groups")}
    assert site.carries_gpu(fit)
    assert site.records()[fit].nodes == "gpu1"


def cell2location_config(folder: Path) -> Path:
    raw = yaml.safe_load(TINY.read_text())
    for cohort in raw["cohorts"].values():
        cohort["sheet"] = str(TINY.parent / cohort["sheet"])
    raw["labels"]["c2l"] = {
        "method": "cell2location", "reference": "sim", "group_by": "patient", "seeds": [0],
        "n_cells_per_location": 15, "max_epochs": 20, "posterior_samples": 20, "fits_per_job": 1,
    }  # fmt: skip
    raw["experiments"]["tiny"]["labels"] = "c2l"
    path = folder / "c2l.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path
