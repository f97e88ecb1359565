"""Runs of the real workflow on the test cluster, with the shipped profile, and what is known of them afterwards."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cluster

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "workflow" / "tiny.yaml"
PROFILE = ROOT / "profiles" / "slurm"
SNAKEMAKE = (sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(TINY))


def run_locally(folder: Path, *targets: str) -> None:
    """Finish a run in a folder without SLURM."""
    words = [
        *SNAKEMAKE,
        "--directory",
        str(folder),
        "--workflow-profile",
        str(ROOT / "profiles" / "ci"),
        "--cores",
        "2",
    ]
    result = subprocess.run([*words, *targets], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]


@dataclass(frozen=True)
class Event:
    """One start or end of a script, from the ledger that the jobs keep."""

    event: str
    script: str
    seconds: float
    pid: int
    job: str
    node: str
    gpu: str


@dataclass(frozen=True)
class Record:
    """One finished SLURM job, as the controller wrote it down."""

    job: str
    state: str
    partition: str
    minutes: str
    nodes: str
    tres: str


class Site:
    """A folder in which a run takes place on the cluster."""

    LIGHT = "results/metrics/checks/nnls_truth.parquet"

    def __init__(self, folder: Path) -> None:
        self.folder, self.faults = folder, folder.parent / "faults"
        self.faults.mkdir(parents=True)
        folder.mkdir()
        self.log = folder / "run.log"
        self.running: subprocess.Popen[bytes] | None = None

    def take_over(self, finished: Path, parts: tuple[str, ...] = ("results", ".snakemake/metadata")) -> None:
        """Start from another run's sections, without its labels."""
        for part in parts:
            shutil.copytree(finished / part, self.folder / part, symlinks=True)
        for part in ("labels", "metrics", "efficiency"):
            shutil.rmtree(self.folder / "results" / part, ignore_errors=True)

    def fault(self, script: str, what: str, amount: int, times: int = 1) -> None:
        """Let the next jobs of a script sleep for seconds or hold megabytes."""
        for _ in range(times):
            (self.faults / f"{len(list(self.faults.iterdir()))}.{script}.{what}.{amount}").touch()

    def taken(self, script: str) -> bool:
        """Whether a job has taken a fault."""
        return any(self.faults.glob(f"taken-*-{script}-*"))

    # runs ----------------------------------------------------------------------------------------------------

    def start(
        self, *arguments: str, targets: tuple[str, ...] = (LIGHT,), profile: Path = PROFILE
    ) -> subprocess.Popen[bytes]:
        """Start a run on the cluster with the shipped profile; only the polling is faster (a light job takes ten seconds)."""
        # Targets stand behind an option that takes one value.
        words = [*SNAKEMAKE, "--directory", str(self.folder), *targets, "--workflow-profile", str(profile)]
        words += ["--slurm-init-seconds-before-status-checks", "11", *arguments]
        surroundings = os.environ | {
            "PYTHONPATH": str(ROOT / "tests/slurm/faults"),
            "HISTOLOOM_FAULTS": str(self.faults),
        }
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=surroundings, start_new_session=True
            )
        return self.running

    def finish(self, seconds: float = 900) -> int:
        """Wait for the run's end and return its status."""
        assert self.running is not None
        return self.running.wait(timeout=seconds)

    def run(self, *arguments: str, targets: tuple[str, ...] = (LIGHT,)) -> int:
        """Run on the cluster to the end and return the status."""
        self.start(*arguments, targets=targets)
        return self.finish()

    def stop(self) -> None:
        """End a run that is still alive, and its jobs."""
        if self.running and self.running.poll() is None:
            self.running.send_signal(signal.SIGINT)
            try:
                self.running.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.running.kill()
        for job in self.queued():
            cluster.ask("scancel", job)

    def text(self) -> str:
        """Return what the runs in this folder have printed."""
        return self.log.read_text()

    def wait(self, what: str, done: Callable[[], bool], seconds: float = 240) -> None:
        """Wait until something holds while the run is alive."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end or (self.running and self.running.poll() is not None):
                raise AssertionError(f"{what} did not come:\n{self.text()[-5000:]}")
            time.sleep(0.2)

    # what is known afterwards --------------------------------------------------------------------------------

    def queued(self, state: str = "PENDING,RUNNING,COMPLETING") -> list[str]:
        """Return this folder's jobs in the queue."""
        lines = cluster.ask("squeue", "-h", "-t", state, "-o", "%A %Z").splitlines()
        return [line.split()[0] for line in lines if line.split()[-1] == str(self.folder)]

    def gpu_jobs(self) -> list[str]:
        """Return this folder's jobs in the queue that ask for a GPU."""
        return [job for job in self.queued() if self.carries_gpu(job)]

    @staticmethod
    def carries_gpu(job: str) -> bool:
        """Whether the controller says that a job carries a GPU."""
        return "TresPerJob=gres:gpu:1" in cluster.ask("scontrol", "-o", "show", "job", job)

    def ledger(self, script: str | None = None) -> list[Event]:
        """Return starts and ends of scripts, in order."""
        path = self.faults / "ledger.tsv"
        rows = [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []
        events = [Event(e, s, float(t), int(p), j, n, g) for e, s, t, p, j, n, g in rows]
        return [event for event in events if script in {None, event.script}]

    def sleeper(self, script: str) -> Event:
        """Return the start of the job that took the first fault: it has started and not ended."""
        ended = {event.pid for event in self.ledger(script) if event.event == "end"}
        return next(e for e in self.ledger(script) if e.event == "start" and e.pid not in ended)

    def records(self) -> dict[str, Record]:
        """Return the finished SLURM jobs of this folder, by id."""
        found = {}
        for line in (cluster.BASE / "log" / "jobs.txt").read_text().splitlines():
            row = dict(re.findall(r"(\w+)=(\S*)", line))
            if row["WorkDir"] == str(self.folder):
                found[row["JobId"]] = Record(
                    row["JobId"], row["JobState"], row["Partition"], row["TimeLimit"], row["NodeList"],
                    re.findall(r"Tres=(\S+)", line)[0],
                )  # fmt: skip
        return found

    def starts(self, script: str) -> int:
        """Return how often a script was started."""
        return sum(event.event == "start" for event in self.ledger(script))

    def tables(self) -> dict[str, bytes]:
        """Return the bytes of metrics and tables; Table 3 is about seconds and memory, which no two runs share."""
        return tables(self.folder)


def changed_profile(tmp_path: Path, edits: dict[str, tuple[str, str]]) -> Path:
    """Copy the shipped profile with texts replaced, by file."""
    copy = tmp_path / "profile"
    shutil.copytree(PROFILE, copy)
    for name, (old, new) in edits.items():
        text = (copy / name).read_text()
        assert old in text
        (copy / name).write_text(text.replace(old, new))
    return copy


def tables(folder: Path) -> dict[str, bytes]:
    """Return the bytes of a folder's labels, metrics and tables."""
    found = [p for part in ("metrics", "tables") for p in sorted((folder / "results" / part).rglob("*"))]
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.is_file() and "table3" not in p.name}
