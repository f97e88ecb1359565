"""Whether a SLURM cluster would accept a run's jobs; nothing is submitted."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from histoloom.job_resources import growth
from histoloom_operations.records import Job, Run, Try


def check_slurm(run: Run, profile_folder: Path, profile: dict[str, Any]) -> Iterator[str]:
    """Yield what the cluster would refuse: partitions, account, memory, GPUs."""
    if shutil.which("sbatch") is None or shutil.which("sinfo") is None:
        yield "the profile asks for SLURM, and there is no sbatch here. Remedy: start the run on a login node."
        return
    names = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, check=False, timeout=60)
    if names.returncode:
        yield f"SLURM does not answer: {names.stderr.strip()}. Remedy: try again when `sinfo` works."
        return
    known = sorted(set(names.stdout.split()))
    wanted = partitions(profile_folder, profile)
    for name in wanted:
        if name not in known:
            yield f"{profile_folder}: no partition '{name}' on this cluster. Remedy: use one of {', '.join(known)}."
    if all(name in known for name in wanted):
        yield from check_submissions(run, profile_folder, profile)


def partitions(profile_folder: Path, profile: dict[str, Any]) -> list[str]:
    """Return the partitions that a profile names."""
    names = [(profile.get("default-resources") or {}).get("slurm_partition")]
    names += [entry.get("slurm_partition") for entry in (profile.get("set-resources") or {}).values()]
    file = profile.get("slurm-partition-config")
    if file:
        names += list(yaml.safe_load((profile_folder / file).read_text())["partitions"])
    return list(dict.fromkeys(name for name in names if name))


def resting(partition: str) -> bool:
    """Whether nodes of a partition are away for now: the scheduler then cannot tell what it could do with them."""
    call = ["sinfo", "-h", "-p", partition, "-t", "drain,down", "-o", "%n"]
    return bool(subprocess.run(call, capture_output=True, text=True, check=False, timeout=60).stdout.strip())


def group_width(profile: dict[str, Any]) -> int:
    """Return how many jobs of a group the profile lets run side by side; 0 for all of them."""
    slots = (profile.get("resources") or {}).get("group_slot")
    return int(slots or profile.get("cores") or 0)


def submissions(run: Run, cores: int) -> Iterator[tuple[Job, Try]]:
    """Yield what the scheduler is asked for: each job by itself, and each group with its first job.

    A group runs its rules one after the other, and the jobs of a rule side by side on the profile's cores.
    """
    by_submission: dict[str, list[Job]] = {}
    for job in run.jobs.values():
        if job.rule != "all" and job.tries:
            by_submission.setdefault(job.submission, []).append(job)
    for jobs in by_submission.values():
        if jobs[0].group is None:
            yield jobs[0], jobs[0].tries[0]
            continue
        whole = Try(0, 0, 0, 0, jobs[0].tries[0].partition, jobs[0].tries[0].account)
        for rule in dict.fromkeys(job.rule for job in jobs):
            tries = [job.tries[0] for job in jobs if job.rule == rule]
            at_once = min(len(tries), max((cores or len(tries)) // max(t.threads for t in tries), 1))
            layers = -(-len(tries) // at_once)
            whole.mem_mb = max(whole.mem_mb or 0, at_once * max(t.mem_mb or 0 for t in tries))
            whole.minutes = (whole.minutes or 0) + layers * max(t.minutes or 0 for t in tries)
            whole.threads = max(whole.threads, at_once * max(t.threads for t in tries))
            whole.gpus = max(whole.gpus, at_once * max(t.gpus for t in tries))
        yield jobs[0], whole


def last_try(profile: dict[str, Any], rule: str) -> int:
    """Return by how much a rule's last try asks for more time; what the profile itself sets does not grow."""
    fixed = "runtime" in (profile.get("set-resources") or {}).get(rule, {})
    return 1 if fixed else growth(int(profile.get("retries") or 0) + 1)


def check_submissions(run: Run, profile_folder: Path, profile: dict[str, Any]) -> Iterator[str]:
    """Ask the scheduler whether it would take the largest job of each rule; nothing is submitted."""
    from snakemake_executor_plugin_slurm.partitions import get_best_partition, read_partition_file

    quiet = logging.getLogger("histoloom.slurm")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    file = profile.get("slurm-partition-config")
    asked: dict[tuple, Job] = {}
    notes: dict[str, int] = {}
    for job, t in submissions(run, group_width(profile)):
        partition: str | None = t.partition
        if not partition and file:
            known = read_partition_file(profile_folder / file)
            resources = {"mem_mb": t.mem_mb or 0, "runtime": t.minutes or 0, "gpu": t.gpus}
            like = SimpleNamespace(name=job.rule, threads=t.threads, resources=resources)
            partition = get_best_partition(known, like, quiet)
            resources["runtime"] *= last_try(profile, job.rule)
            if partition and get_best_partition(known, like, quiet) is None:
                notes[job.rule] = resources["runtime"]
            if partition is None:
                group = " and its group" if job.group is not None else ""
                yield (
                    f"{profile_folder / file}: no partition takes rule {job.rule}{group} ({t.mem_mb} MB, "
                    f"{t.minutes} min, {t.threads} threads, {t.gpus} GPUs). Remedy: raise a partition's limits to what "
                    "the cluster has; or lower the rule's in `set-resources`"
                    f"{' (gpu: 0 runs it on CPUs)' if t.gpus else ''}, or the size of its group in `group-components`."
                )
                continue
        asked.setdefault((partition, t.account, t.mem_mb, t.gpus, t.threads, t.minutes), job)
    for rule, minutes in notes.items():
        print(
            f"Note: the last try of rule {rule} and what is grouped with it would ask for {minutes} minutes, more than "
            "any partition gives. Fewer in `group-components` help."
        )
    said: set[str] = set()
    for (partition, account, memory, gpus, threads, minutes), job in asked.items():
        call = ["sbatch", "--test-only", f"--cpus-per-task={threads}", "--wrap", "true"]
        call += [f"--account={account}"] if account else []
        call += [f"--partition={partition}"] if partition else []
        call += [f"--mem={memory}"] if memory else []
        call += [f"--time={minutes}"] if minutes else []
        call += [f"--gpus={gpus}"] if gpus else []
        result = subprocess.run(call, capture_output=True, text=True, check=False, timeout=60)
        problem = result.stderr.strip().splitlines()[-1:] if result.returncode else []
        if problem and problem[0] not in said:
            said.add(problem[0])
            if "not available" in problem[0] and partition and resting(partition):
                print(f"Note: nodes of partition {partition} are drained or down; jobs will wait for them.")
                continue
            yield (
                f"{profile_folder}: the cluster would refuse rule {job.rule} (partition {partition}, account "
                f"{account or 'of no name'}, {memory} MB, {gpus} GPUs, {minutes} min): {problem[0]}. Remedy: "
                "fix the account and partitions in the profile, or the rule's resources in its `set-resources`."
            )
