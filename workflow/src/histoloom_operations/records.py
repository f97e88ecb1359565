"""Jobs of a run, as a log names them, and what the benchmark files add."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path


@dataclass
class Try:
    """One start of a job.

    Attributes
    ----------
    mem_mb, minutes, gpus, threads
        What was asked for; None where it is not known.
    partition, account
        As the job names them; empty where the scheduler's or the profile's choice holds.
    external
        The scheduler's job number; empty on one machine.
    problem
        Why it failed; empty otherwise.
    log
        The scheduler's log; empty on one machine.
    """

    mem_mb: int | None = None
    minutes: int | None = None
    gpus: int = 0
    threads: int = 1
    partition: str = ""
    account: str = ""
    external: str = ""
    problem: str = ""
    log: str = ""


@dataclass
class Job:
    """One job: a rule and its wildcards, with all its tries.

    Attributes
    ----------
    group
        Number of the group that it is submitted with; None for a job by itself.
    log, benchmark
        Paths, as the run wrote them.
    state
        ``planned``, ``finished``, ``failed``; a job that was started and neither ended well nor badly is ``lost``.
    """

    number: str
    rule: str
    wildcards: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    log: str = ""
    benchmark: str = ""
    group: int | None = None
    tries: list[Try] = field(default_factory=list)
    state: str = "planned"

    @property
    def name(self) -> str:
        """Rule and wildcards."""
        return f"{self.rule} ({self.wildcards})" if self.wildcards else self.rule

    @property
    def submission(self) -> str:
        """What identifies the job's submission: jobs of one group share it."""
        return f"job {self.number}" if self.group is None else f"group {self.group}"


@dataclass
class Run:
    """A run, read from its log.

    Attributes
    ----------
    ended
        Whether the log says that the run came to an end by itself; a run that was killed says nothing.
    planned
        How many jobs of each rule the run began with (`write_planned`); empty where it left no note of it.
    """

    log: str = ""
    started: str = ""
    host: str = ""
    command: str = ""
    elapsed: str = ""
    ended: bool = False
    jobs: dict[str, Job] = field(default_factory=dict)
    planned: dict[str, int] = field(default_factory=dict)

    def by_rule(self) -> dict[str, list[Job]]:
        """Return the jobs of each rule, in the order they were named."""
        by_rule: dict[str, list[Job]] = {}
        for job in self.jobs.values():
            by_rule.setdefault(job.rule, []).append(job)
        return by_rule

    def submissions(self) -> int:
        """Return how many jobs a scheduler sees."""
        return len({job.submission for job in self.jobs.values()})


@dataclass(frozen=True)
class Measured:
    """Seconds and peak memory (MB) of a finished job."""

    seconds: float
    peak_mb: float | None


def read_benchmark(path: Path) -> Measured | None:
    """Read a benchmark file; None where there is none or it cannot be read."""
    try:
        with path.open() as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        seconds, peak = row["s"], row["max_rss"]
        return Measured(float(seconds), None if peak in {"", "-", "NA"} else float(peak))
    except (OSError, StopIteration, KeyError, ValueError):
        return None


def last_lines(path: Path, count: int = 8) -> list[str]:
    """Return the last lines of a log; none where it does not exist or is empty."""
    try:
        with path.open(errors="replace") as file:
            lines = [line.rstrip() for line in file if line.strip()]
    except OSError:
        return []
    return lines[-count:]


def scheduler_words(path: Path, count: int = 2) -> list[str]:
    """Return what a scheduler's log says of a job's end (SLURM's own lines), each once; none where it says nothing."""
    words: dict[str, None] = {}
    for line in last_lines(path, 200):
        who, sep, said = line.partition(": error: ")
        if sep and who.startswith(("slurmstepd", "srun", "sbatch")):
            words.setdefault(said.strip("* "))
    return list(words)[:count]


def largest(values: Iterable[float | None]) -> float | None:
    """Return the largest known value, or None."""
    known = [value for value in values if value is not None]
    return max(known) if known else None


PLANNED = Path("logs", "runs", "planned.json")
"""Where a run notes, when it begins, how many jobs of each rule it wants: its log names only those that start."""


def write_planned(counts: Mapping[str, int], folder: Path) -> None:
    """Note how many jobs of each rule a run wants."""
    path = folder / PLANNED
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(counts)))


def read_planned(run: Run, folder: Path) -> dict[str, int]:
    """Return what the run noted; empty where the note is not this run's, which is written after its log begins."""
    path = folder / PLANNED
    if not path.is_file() or not run.started:
        return {}
    began = datetime.strptime(run.started, "%Y-%m-%d %H:%M:%S").timestamp()
    counts: dict[str, int] = json.loads(path.read_text()) if path.stat().st_mtime >= began else {}
    return counts


def settle(run: Run, folder: Path) -> None:
    """Take jobs that left a benchmark file in this run as finished: the log of a quiet run does not name them."""
    if not run.started:
        return
    began = datetime.strptime(run.started, "%Y-%m-%d %H:%M:%S").timestamp()
    for job in run.jobs.values():
        path = folder / job.benchmark
        if job.state == "lost" and job.benchmark and path.is_file() and path.stat().st_mtime >= began:
            job.state = "finished"


def measured_seconds(folder: Path) -> dict[str, list[float]]:
    """Return the seconds of the jobs of each rule that ended in a folder before, from their benchmark files."""
    seconds: dict[str, list[float]] = {}
    for path in (folder / "benchmarks").glob("*/*/**/*.tsv"):
        rule = path.relative_to(folder / "benchmarks").parts[1]
        if measured := read_benchmark(path):
            seconds.setdefault(rule, []).append(measured.seconds)
    return seconds
