"""Where a run cannot work, it says so in a sentence with a remedy, and no job is started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, TINY, command, run

pytestmark = pytest.mark.workflow
# A job that needs no input.
ANY = "results/tables/exclusions.tiny.csv"
TINY_RAW = "results/sources/simulated/tiny"


def refused(result: subprocess.CompletedProcess[str], *says: str) -> None:
    """Assert that a run was refused in a few clear words, before its first job."""
    said = result.stdout + result.stderr
    assert result.returncode == 1
    for text in says:
        assert text in said, said[-3000:]
    assert "Remedy:" in said
    assert "Traceback" not in said
    assert "rule list_exclusions" not in said


def mounted(folder: Path, *options: str) -> None:
    """Mount memory on a folder."""
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(folder)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"a disk of its own needs the right to mount: {done.stderr.decode().strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted(place, "-o", "size=512k")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_read_only_disk(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    refused(run(disk, ANY, check=False), f"{disk}: cannot be written")


def test_a_disk_with_too_little_left(disk: Path) -> None:
    refused(run(disk, ANY, check=False), f"{disk}/results: 0.0 GB are free")
    assert not (disk / "results").exists()


def test_a_log_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file stands where the folder should be")
    refused(run(tmp_path, ANY, check=False), f"{tmp_path}/logs: logs cannot be written here (Not a directory)")


def launch(folder: Path, *profile: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(TINY)]
    words += ["--cores", "1", *profile, "--directory", str(folder), ANY]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_profile_that_does_not_exist(tmp_path: Path) -> None:
    """Snakemake passes over it in silence, and would run here what was meant for a cluster."""
    result = launch(tmp_path, "--workflow-profile", "profiles/slrum")
    refused(result, "--workflow-profile profiles/slrum: no such profile", "profiles/slurm")


def test_a_cluster_s_profile_under_the_wrong_option(tmp_path: Path) -> None:
    result = launch(tmp_path, "--profile", str(ROOT / "profiles" / "slurm"))
    refused(result, "lays profiles/default over it", f"--workflow-profile {ROOT / 'profiles' / 'slurm'}")


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """The second stops at once, touches nothing, and the plan tells the same; the first goes on to its end."""
    target = f"{TINY_RAW}/data/ST-spotfiles/P1_selection.tsv"
    first = subprocess.Popen(command(tmp_path, target), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    locks = tmp_path / ".snakemake" / "locks"
    while not (locks.is_dir() and any(locks.iterdir())):
        assert first.poll() is None
        time.sleep(0.05)
    # It must not end before the second begins.
    first.send_signal(signal.SIGSTOP)
    plan = [sys.executable, str(ROOT / "scripts/tools/plan_run.py"), *command(tmp_path, target)[3:]]
    told = subprocess.run(plan, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert f"a run is alive here (process {first.pid})" in told.stderr
    refused(run(tmp_path, target, check=False), f"a run is alive here (process {first.pid})")
    assert run(tmp_path, "--dry-run", target).returncode == 0
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=300) == 0
    assert (tmp_path / target).is_file()


def test_a_folder_that_a_crash_left_locked(tmp_path: Path) -> None:
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("")
    (locks / "0.output.lock").write_text(f"{tmp_path}/{ANY}\n")
    refused(run(tmp_path, ANY, check=False), "make resume", "--unlock")
    run(tmp_path, "--unlock")
    run(tmp_path, ANY)


def test_an_input_from_the_future_is_named_before_work_is_thrown_away(tmp_path: Path) -> None:
    """Snakemake removes what a job made when its input is newer: after the work."""
    names = ["ST-cnts/P1.tsv.gz", "ST-spotfiles/P1_selection.tsv", "ST-imgs/P1/P1_HE.jpg"]
    raw = [tmp_path / TINY_RAW / "data" / name for name in [*names, "ST-pat/lbl/P1_labeled_coordinates.tsv"]]
    for path in raw:
        path.parent.mkdir(parents=True)
        path.touch()
    os.utime(raw[1], (time.time() + 3600,) * 2)
    result = run(tmp_path, "results/samples/tiny/P1.h5ad", check=False)
    refused(result, f"{raw[1]}: modified in the future")
    assert "rule read_section" not in result.stdout + result.stderr
