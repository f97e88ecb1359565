"""What is wrong is said before anything is submitted."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "tools"))

import clear_run  # noqa: E402

from histoloom_operations import run_checks, slurm  # noqa: E402
from histoloom_operations.processes import run_elsewhere  # noqa: E402
from histoloom_operations.records import Job, Run, Try  # noqa: E402


def test_a_profile_that_is_missing_is_named_with_those_that_exist() -> None:
    with pytest.raises(run_checks.Refused, match=r"profiles/nope: no such profile.*profiles/slurm"):
        run_checks.read_profile(["--workflow-profile", "profiles/nope"])
    folder, profile = run_checks.read_profile(["--workflow-profile=slurm"])
    assert folder == ROOT / "profiles" / "slurm"
    assert profile["executor"] == "slurm"


def test_a_profile_kept_for_snakemake_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's own profiles lie where only Snakemake looks; what it does not find it names itself."""
    monkeypatch.setattr(run_checks, "site_profile", lambda name: [tmp_path] if name == "mysite" else [])
    (tmp_path / "config.yaml").write_text("executor: slurm\n")
    assert run_checks.read_profile(["--profile", "mysite"]) == (tmp_path, {"executor": "slurm"})
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "mysite")
    assert run_checks.read_profile([])[0] == tmp_path
    with pytest.raises(run_checks.Refused, match="no such profile"):
        run_checks.read_profile(["--profile", "myslurm"])


@pytest.mark.parametrize(
    ("arguments", "profile", "trapped"),
    [
        (["--profile", "profiles/slurm"], {"executor": "slurm"}, True),
        (["--profile=profiles/slurm"], {"executor": "slurm"}, True),
        (["--profile", "mine", "--workflow-profile", "profiles/slurm"], {"executor": "slurm"}, False),
        (["--workflow-profile", "profiles/slurm"], {"executor": "slurm"}, False),
        (["--profile", "profiles/ci"], {"cores": 2}, False),
    ],
)
def test_the_trap_of_the_wrong_option(
    arguments: list[str], profile: dict, trapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    said = list(run_checks.check_profile(arguments, profile))
    assert bool(said) is trapped
    assert not said or "Remedy: --workflow-profile profiles/slurm" in said[0]


def test_a_profile_named_from_elsewhere_would_lose_its_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    profile = {"executor": "slurm", "slurm-partition-config": "partitions.yaml"}
    (said,) = run_checks.check_profile(["--workflow-profile", "profiles/slurm", "--directory", "/scratch/me"], profile)
    assert f"Remedy: --workflow-profile {ROOT / 'profiles' / 'slurm'}" in said
    for fine in ([], ["--directory", "/scratch/me"]):
        path = "profiles/slurm" if not fine else str(ROOT / "profiles" / "slurm")
        assert not list(run_checks.check_profile(["--workflow-profile", path, *fine], profile))


def test_the_last_try_asks_for_more_unless_the_profile_says_how_much() -> None:
    profile = {"retries": 2, "set-resources": {"fetch_file": {"runtime": 30}, "embed_batch": {"mem_mb": 9000}}}
    assert [slurm.last_try(profile, rule) for rule in ("fetch_file", "embed_batch", "cut_tiles")] == [1, 3, 3]
    assert slurm.last_try({}, "cut_tiles") == 1


def test_what_is_to_be_fetched_is_counted_and_what_is_unknown_said() -> None:
    def fetch(source: str, file: str) -> Job:
        return Job(file, "fetch_file", f"source={source}, file={file}", outputs=[f"raw/{source}/{file}"])

    jobs = [fetch("hbca", "hbca_all_cells.h5ad"), fetch("her2st", "data/ST-cnts/A1.tsv.gz"), fetch("nobody", "x")]
    found = run_checks.downloads(Run(jobs={job.number: job for job in jobs}))
    assert found == {
        "raw/hbca/hbca_all_cells.h5ad": 7_211_362_715,
        "raw/her2st/data/ST-cnts/A1.tsv.gz": 1_033_376,
        "raw/nobody/x": None,
    }


def test_a_folder_that_cannot_be_written() -> None:
    said = list(run_checks.check_folders(Path("/proc/self"), 0))
    text = said[0]
    assert "results and logs and benchmarks and .snakemake cannot be written here" in text
    assert "Remedy" in text


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 10**6))
    assert any("0.0 GB are free" in text for text in run_checks.check_folders(tmp_path, 10**9))


def test_a_good_folder_has_nothing_to_say(tmp_path: Path) -> None:
    assert list(run_checks.check_folders(tmp_path, 0)) == []
    assert not list(tmp_path.iterdir())


def test_the_clock_of_a_file_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(run_checks.time, "time", lambda: now - 600)
    assert "clock is 600 s ahead" in next(iter(run_checks.check_folders(tmp_path, 0)))


def test_inputs_from_the_future(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").touch()
    inputs = ["a.tsv", "absent.tsv"]
    assert list(run_checks.check_clocks(inputs, tmp_path)) == []
    os.utime(tmp_path / "a.tsv", (time.time() + 3600,) * 2)
    (said,) = run_checks.check_clocks(inputs, tmp_path)
    assert "a.tsv: modified in the future" in said


def test_a_group_asks_for_what_its_layers_need() -> None:
    jobs = {str(i): Job(str(i), "read_section", group=1, tries=[Try(1000, 30, 0, 1)]) for i in range(6)}
    jobs |= {str(i + 10): Job(str(i + 10), "cut_tiles", group=1, tries=[Try(1500, 20, 0, 1)]) for i in range(6)}
    jobs["99"] = Job("99", "label_groups", tries=[Try(8000, 60, 1, 2)])
    found = {job.rule: t for job, t in slurm.submissions(Run(jobs=jobs), cores=4)}
    whole = found["read_section"]
    assert (whole.mem_mb, whole.minutes, whole.threads, whole.gpus) == (6000, 2 * 30 + 2 * 20, 4, 0)
    assert found["label_groups"] is jobs["99"].tries[0]


@pytest.fixture
def other_host(tmp_path: Path) -> Path:
    """A folder that a run on another machine has locked."""
    log = tmp_path / ".snakemake" / "log" / "1.snakemake.log"
    log.parent.mkdir(parents=True)
    log.write_text("\nSNAKEMAKE\n  Host: login9\n")
    (tmp_path / ".snakemake" / "locks").mkdir()
    (tmp_path / ".snakemake" / "locks" / "0.input.lock").touch()
    return tmp_path


def test_a_run_on_another_machine_is_not_resumed_over(other_host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clear_run.main(other_host) == 1
    assert "started on login9" in capsys.readouterr().err
    assert any("login9" in text for text in run_checks.check_other_runs(other_host))
    assert clear_run.main(other_host, elsewhere_is_dead=True) == 0


def test_a_run_that_ended_elsewhere_is_over(other_host: Path) -> None:
    log = other_host / ".snakemake" / "log" / "1.snakemake.log"
    log.write_text(log.read_text() + "Elapsed time: 0:01:00\n")
    assert run_elsewhere(other_host) is None


def fake_slurm(folder: Path, squeue: str) -> None:
    for name, text in {"squeue": squeue, "scancel": f'echo "$@" >> {folder}/cancelled; rm -f {folder}/queue'}.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


def test_only_this_folder_s_jobs_are_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "my run"
    run.mkdir()
    (tmp_path / "queue").write_text(f"7|RUNNING|{run}\n8|PENDING|{tmp_path}/other\n9|PENDING|{run}\n")
    fake_slurm(tmp_path, f"cat {tmp_path}/queue 2>/dev/null; true")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert clear_run.main(run) == 0
    assert (tmp_path / "cancelled").read_text().split() == ["7", "9"]


def test_a_silent_controller_stops_the_clearing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".snakemake" / "slurm_logs").mkdir(parents=True)
    fake_slurm(tmp_path, "echo 'Unable to contact slurm controller' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert clear_run.main(tmp_path) == 1
