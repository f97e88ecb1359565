"""Plans and summaries as text that reads well in a terminal and as markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from histoloom_operations.records import (
    Job,
    Measured,
    Run,
    largest,
    last_lines,
    read_benchmark,
    scheduler_words,
)

_RULES_THAT_ONLY_GATHER = frozenset({"all"})


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a markdown table; the first column stands to the left, numbers to the right."""
    from tabulate import tabulate

    cells = [[str(cell) for cell in row] for row in rows]
    align = ["left", *["right"] * (len(header) - 1)] if cells else None
    return tabulate(cells, headers=header, tablefmt="pipe", colalign=align, disable_numparse=True)


def count_bytes(size: float) -> str:
    """Return a size that a person can read."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def span(values: Iterable[float | None], digits: int = 0) -> str:
    """Return one value, or the smallest and the largest."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return "?"
    low, high = (f"{value:.{digits}f}" for value in (known[0], known[-1]))
    return low if low == high else f"{low}-{high}"


def working(run: Run) -> dict[str, list[Job]]:
    """Return a run's jobs by rule, without rules that only gather."""
    return {rule: jobs for rule, jobs in run.by_rule().items() if rule not in _RULES_THAT_ONLY_GATHER}


def gpu_hours(jobs: Iterable[Job]) -> float:
    """Return the GPU-hours that jobs may take at most: GPUs times the time limit of the first try."""
    first = [job.tries[0] for job in jobs if job.tries]
    return sum(t.gpus * (t.minutes or 0) / 60 for t in first)


def forecast(run: Run, measured: Mapping[str, Sequence[float]]) -> str:
    """Return how long a plan's jobs took before, one after the other, and which were never measured here."""
    jobs = {rule: len(of_rule) for rule, of_rule in working(run).items()}
    known = {rule: count for rule, count in jobs.items() if measured.get(rule)}
    if not known:
        return "Forecast: none, no job of these rules has run in this folder before; `minutes each` are limits."
    seconds = sum(count * mean(measured[rule]) for rule, count in known.items())
    missing = [rule for rule in jobs if rule not in known]
    rest = f" Not measured here: {', '.join(missing)}." if missing else ""
    return (
        f"Forecast: {seconds / 60:.0f} minutes of work on one core for {sum(known.values())} jobs, by jobs of these "
        f"rules that ended here before; `minutes each` are limits.{rest}"
    )


def plan_text(
    run: Run, downloads: Mapping[str, int | None], read: int, free: int, measured: Mapping[str, Sequence[float]]
) -> str:
    """Return what a run will do.

    Parameters
    ----------
    run
        The plan: every job with one try that was never started.
    downloads
        Bytes to fetch, by file; None where only the host states them.
    read
        Bytes of inputs that are there already.
    free
        Bytes that are free where results go.
    measured
        Seconds of jobs that ended before, by rule.
    """
    rows = []
    for rule, jobs in working(run).items():
        asked = [job.tries[0] for job in jobs if job.tries]
        rows.append(
            [
                rule,
                len(jobs),
                len({job.submission for job in jobs}),
                span(t.mem_mb for t in asked),
                span(t.minutes for t in asked),
                span(t.threads for t in asked),
                sum(t.gpus for t in asked) or "",
                f"{gpu_hours(jobs):.1f}" if any(t.gpus for t in asked) else "",
            ]
        )
    jobs = [job for of_rule in working(run).values() for job in of_rule]
    header = ["rule", "jobs", "submissions", "MB each", "minutes each", "threads", "GPUs", "GPU-hours at most"]
    unknown = sum(size is None for size in downloads.values())
    fetched = count_bytes(sum(size or 0 for size in downloads.values()))
    lines = [
        table(header, rows),
        "",
        f"{len(jobs)} jobs in {len({job.submission for job in jobs})} submissions "
        f"(rules of one group share one); at most {gpu_hours(jobs):.1f} GPU-hours.",
        forecast(run, measured),
        f"To fetch: {fetched} in {len(downloads)} files"
        f"{f', and the sizes of {unknown} that only their host states' if unknown else ''}. "
        f"To read: {count_bytes(read)} that are there. Free for results: {count_bytes(free)}.",
    ]
    return "\n".join(lines)


def summary_text(run: Run, folder: Path) -> str:
    """Return what a run did; benchmark files and logs are looked up in its folder."""
    rows = [summary_row(rule, jobs, folder) for rule, jobs in working(run).items()]
    jobs = [job for of_rule in working(run).values() for job in of_rule]
    count = {state: sum(job.state == state for job in jobs) for state in ("finished", "failed", "lost", "planned")}
    count["planned"] += sum(max(wanted - len(run.by_rule().get(rule, [])), 0) for rule, wanted in run.planned.items())
    total = len(jobs) + count["planned"] - sum(job.state == "planned" for job in jobs)
    retried = sum(max(len(job.tries) - 1, 0) for job in jobs)
    verdict = "ended well" if run.ended and count["finished"] == total else "ended with failures"
    if not run.ended and count["finished"] == total:
        verdict = "has finished every job"
    elif not run.ended:
        verdict = "has failures, or has not ended: it is alive, or it was killed"
    lines = [
        f"# Run of {run.started or 'unknown date'}",
        "",
        f"The run {verdict}. {total} jobs: {count['finished']} finished, {count['failed']} failed, "
        f"{count['lost']} lost, {count['planned']} never started; {retried} started again. "
        f"Elapsed: {run.elapsed or 'unknown'}. Host: {run.host}.",
        "",
        table(["rule", "jobs", "done", "tries", "seconds", "peak MB", "MB asked", "GPUs", "problems"], rows),
    ]
    slow = sorted(((time_of(jobs, folder), rule) for rule, jobs in working(run).items()), reverse=True)[:5]
    if named := [f"{rule} {seconds:.0f} s" for seconds, rule in slow if seconds]:
        lines += ["", f"Most time went into: {', '.join(named)}."]
    bad = [job for job in jobs if any(t.problem for t in job.tries) or job.state in {"failed", "lost"}]
    if bad:
        lines += ["", "## Problems", *(line for job in bad for line in problem_lines(job, folder))]
    return "\n".join(lines) + "\n"


def time_of(jobs: Sequence[Job], folder: Path) -> float:
    """Return the seconds of jobs, one after the other."""
    return sum(measured.seconds for job in jobs if (measured := benchmark_of(job, folder)))


def summary_row(rule: str, jobs: Sequence[Job], folder: Path) -> list[object]:
    """Return a rule's row of the summary."""
    measured = [benchmark_of(job, folder) for job in jobs]
    tries = [t for job in jobs for t in job.tries]
    peak = largest(m.peak_mb for m in measured if m)
    seconds = time_of(jobs, folder)
    return [
        rule,
        len(jobs),
        sum(job.state == "finished" for job in jobs),
        len(tries),
        f"{seconds:.0f}" if any(measured) else "?",
        "?" if peak is None else f"{peak:.0f}",
        span(t.mem_mb for t in tries),
        sum(t.gpus for t in tries) or "",
        sum(bool(t.problem) for t in tries) or "",
    ]


def benchmark_of(job: Job, folder: Path) -> Measured | None:
    """Return what a finished job took."""
    return read_benchmark(folder / job.benchmark) if job.benchmark and job.state == "finished" else None


def problem_lines(job: Job, folder: Path) -> list[str]:
    """Return what went wrong with a job, and the last lines of its log where it never went well."""
    lines = ["", f"### {job.name}: {job.state} after {len(job.tries)} tries", ""]
    for number, attempt in enumerate(job.tries, start=1):
        where = f", SLURM job {attempt.external}" if attempt.external else ""
        asked = f"{attempt.mem_mb or '?'} MB, {attempt.minutes or '?'} min"
        lines.append(f"* try {number} ({asked}{where}): {attempt.problem or 'no problem noted'}")
        if attempt.problem and attempt.log:
            lines += [f"  * SLURM: {said}" for said in scheduler_words(folder / attempt.log)]
    if job.state != "finished":
        logs = [path for path in (job.log, job.tries[-1].log if job.tries else "") if path]
        # A job that was killed had no time for words of its own; its scheduler's log may hold some.
        path, last = next(((p, tail) for p in logs if (tail := last_lines(folder / p))), (job.log, []))
        named = path.removeprefix(f"{folder}/") or "no log"
        lines += ["", f"Last lines of {named}:", "", *(f"    {line}" for line in last or ["(empty)"])]
    return lines
