"""Read a run's log, or the plan that a dry run prints: both name jobs in the same way."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from histoloom_operations.records import Job, Run, Try

_RULE = re.compile(r"^(\s*)(?:local)?(?:rule|checkpoint) (\w+):$")
_KEY = re.compile(r"^\s+(\w+): (.*)$")
_SUBMITTED = re.compile(r"^Job (\S+) has been submitted with SLURM jobid (\d+)(?: \(log: (.*)\))?")
_DATE = re.compile(r"^\[(\w{3} \w{3} +\d+ [\d:]{8} \d{4})\]")
_FINISHED = re.compile(r"^Finished jobid: (\d+)")
_ERROR = re.compile(r"^Error in (rule|group) (\S+?):?$")
_HEADER = {"Date": "started", "Host": "host", "Command": "command"}


@dataclass
class _Reader:
    """Where in a log the reader is."""

    run: Run
    groups: int = 0
    in_group: bool = False
    fields: dict[str, str] = field(default_factory=dict)
    rule: str = ""
    # Jobs of the group that was named last: its submission follows.
    group_jobs: list[Job] = field(default_factory=list)
    problem: str = ""
    in_error: bool = False

    def close_job(self) -> None:
        """Take over a job whose block has ended."""
        fields, rule, self.fields, self.rule = self.fields, self.rule, {}, ""
        if not rule or "jobid" not in fields:
            return
        number = fields["jobid"]
        job = self.run.jobs.setdefault(number, Job(number, rule))
        job.wildcards, job.log = fields.get("wildcards", ""), fields.get("log", "").split(",")[0].split(" (")[0]
        job.benchmark = fields.get("benchmark", "")
        job.inputs, job.outputs = (_paths(fields.get(key, "")) for key in ("input", "output"))
        job.group = self.groups if self.in_group else None
        job.tries.append(_asked(fields))
        job.state = "planned"  # once more, if this is a retry
        if self.in_group:
            self.group_jobs.append(job)


def _paths(text: str) -> list[str]:
    return [path for path in text.split(", ") if path]


def _asked(fields: dict[str, str]) -> Try:
    resources = dict(re.findall(r"(\w+)=([^,\s]+)", fields.get("resources", "")))

    def number(name: str) -> int | None:
        value = resources.get(name, "")
        return int(value) if value.isdigit() else None

    gpus = number("gpu")
    if gpus is None:
        gpus = int((re.findall(r"gpu(?::\w+)?:(\d+)", resources.get("gres", "")) or ["0"])[0])
    partition, account = (resources.get(f"slurm_{name}", "") for name in ("partition", "account"))
    return Try(number("mem_mb"), number("runtime"), gpus, int(fields.get("threads", "1")), partition, account)


def read_log(path: Path) -> Run:
    """Read the log of a run."""
    text = path.read_text(errors="replace")
    run = read_text(text)
    run.log = str(path)
    run.elapsed = run.elapsed or _so_far(run, text)
    for job in run.jobs.values():
        # A plan knows no other state; in a log, what was named was started.
        if job.state == "planned" and job.rule != "all":
            job.state = "lost"
    return run


def _so_far(run: Run, text: str) -> str:
    """Return the time from a run's start to the last date in its log, which does not yet say how long it took."""
    dates = [match[1] for match in map(_DATE.match, text.splitlines()) if match]
    if not dates or not run.started:
        return ""
    began = datetime.strptime(run.started, "%Y-%m-%d %H:%M:%S")
    return str(datetime.strptime(dates[-1], "%a %b %d %H:%M:%S %Y") - began)


def read_text(text: str) -> Run:
    """Read a run from the text of its log, or a plan from a dry run's text."""
    reader = _Reader(Run())
    for line in text.splitlines():
        _read_line(reader, line)
    reader.close_job()
    return reader.run


def _read_line(reader: _Reader, line: str) -> None:
    run = reader.run
    rule, key = _RULE.match(line), _KEY.match(line)
    if "Group job" in line and line.startswith("["):
        reader.close_job()
        reader.groups, reader.in_group, reader.group_jobs, reader.in_error = reader.groups + 1, True, [], False
    elif rule:
        reader.close_job()
        if not reader.in_error or not rule[1]:
            reader.in_error = False
            reader.in_group = reader.in_group and bool(rule[1])
            reader.rule = rule[2]
    elif key and reader.in_error:
        _read_error(reader, key[1], key[2])
    elif key and not reader.rule and key[1] in _HEADER:
        setattr(run, _HEADER[key[1]], getattr(run, _HEADER[key[1]]) or key[2])
    elif key and reader.rule:
        reader.fields[key[1]] = key[2]
    elif not line.startswith((" ", "\t")):
        reader.close_job()
        _read_event(reader, line)


def _read_error(reader: _Reader, key: str, value: str) -> None:
    if key == "message":
        # The scheduler's advice behind the first sentences is the same for all jobs.
        reader.problem = value.split(" Detailed failure reason")[0].split("For further error details")[0].strip()
    elif key == "jobid" and value in reader.run.jobs:
        job = reader.run.jobs[value]
        if job.tries:
            job.tries[-1].problem = reader.problem or "failed; see its log"
        job.state = "failed"


def _read_event(reader: _Reader, line: str) -> None:
    run = reader.run
    if _ERROR.match(line):
        reader.in_error, reader.problem = True, ""
        return
    # A date line may stand between the lines of an error; anything else ends it.
    if line.strip() and not line.startswith("["):
        reader.in_error = False
    if done := _FINISHED.match(line):
        if done[1] in run.jobs:
            run.jobs[done[1]].state = "finished"
    elif sent := _SUBMITTED.match(line):
        jobs = [run.jobs[sent[1]]] if sent[1] in run.jobs else reader.group_jobs
        for job in jobs:
            if job.tries:
                job.tries[-1].external, job.tries[-1].log = sent[2], (sent[3] or "").rstrip(".")
    elif line.startswith("Elapsed time:"):
        run.elapsed = line.partition(":")[2].strip().split(".")[0]
        run.ended = True
    elif line.startswith(("Complete log", "Nothing to be done")):
        run.ended = True
