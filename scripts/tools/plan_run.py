"""Print what a run will do before anything is submitted, and stop what would fail later.

    python scripts/tools/plan_run.py --workflow-profile profiles/slurm [any other option of the run]

takes the options of the run itself. It prints jobs by rule, submissions, GPU-hours and bytes; then it checks the
profile, folders, disk, clocks, other runs in this folder and, for a SLURM profile, whether the cluster would accept the
jobs. Status 1 and a message with a remedy for each thing that is wrong. Nothing is written, nothing is submitted.

Every run calls it for itself when it starts: one on a cluster with ``--from-run``, a local one with ``--quick``, which
leaves out the plan and is told the run's inputs, one per line.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "src"))

import yaml
from clear_run import command, is_run, processes_here, run_elsewhere

from histoloom.errors import InputError
from histoloom.job_resources import growth
from histoloom.sources import registry_entry
from histoloom_operations.records import Job, Run, Try
from histoloom_operations.render import plan_text
from histoloom_operations.run_log import read_text

SKEW_SECONDS = 5
# A results folder with less than this is full for all that matters.
SPARE_BYTES = 500_000_000


class Refused(Exception):
    """What would fail, and its remedy."""


def option(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of an option, however it was written."""
    for i, word in enumerate(arguments):
        if word == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def read_profile(arguments: Sequence[str]) -> tuple[Path | None, dict]:
    """Return the profile of a run; a workflow profile that is missing would be passed over in silence.

    Raises
    ------
    Refused
        If the profile does not exist.
    """
    for name, given in (
        ("--workflow-profile", option(arguments, "--workflow-profile")),
        ("--profile", option(arguments, "--profile") or os.environ.get("SNAKEMAKE_PROFILE")),
    ):
        if given is None or given == "none":
            continue
        places = (Path(given), Path("profiles", given), ROOT / "profiles" / given)
        found = [p.absolute() for p in places if p.exists()]
        if not found and name == "--profile":
            found = site_profile(given)
        files = [p if p.is_file() else p / f for p in found for f in ("config.yaml", "profile.yaml")]
        files = [p for p in files if p.is_file()]
        if not files:
            known = ", ".join(f"profiles/{p.name}" for p in sorted((ROOT / "profiles").iterdir()) if p.is_dir())
            raise Refused(f"{name} {given}: no such profile. Remedy: name one of {known}, or a copy of your own.")
        return files[0].parent, yaml.safe_load(files[0].read_text()) or {}
    return None, {}


def site_profile(name: str) -> list[Path]:
    """Return a profile that a user or a site keeps where Snakemake looks for it."""
    from snakemake.cli import get_profile_dir

    found = get_profile_dir(name)
    return [found[1]] if found else []


def check_profile(arguments: Sequence[str], profile: dict) -> Iterator[str]:
    """Yield the traps of a profile's option.

    Snakemake lays `profiles/default` over what is named with `--profile`; and it looks for a profile's partitions from
    the run's folder, if the profile is named from elsewhere.
    """
    named = option(arguments, "--workflow-profile")
    moved = option(arguments, "--directory") or option(arguments, "-d")
    if (
        named
        and moved
        and profile.get("slurm-partition-config")
        and not Path(named).is_absolute()
        and Path(named).exists()
    ):
        yield (
            f"--workflow-profile {named} with --directory: its {profile['slurm-partition-config']} would be looked for "
            f"below {moved}. Remedy: --workflow-profile {Path(named).absolute()}"
        )
    given = option(arguments, "--profile") or os.environ.get("SNAKEMAKE_PROFILE")
    alone = option(arguments, "--workflow-profile") is None
    if given and given != "none" and alone and profile.get("executor", "local") != "local":
        default = yaml.safe_load((ROOT / "profiles" / "default" / "config.yaml").read_text())
        lent = ", ".join(f"{name}: {amount}" for name, amount in default["resources"].items())
        yield (
            f"--profile {given}: Snakemake lays profiles/default over it, so that a workstation's limits ({lent}) "
            f"would bound the whole cluster. Remedy: --workflow-profile {given} (or both options, each with a profile)."
        )


def plan(arguments: Sequence[str], folder: Path) -> Run:
    """Return the plan of a run, from its dry run."""
    call = [sys.executable, "-m", "snakemake", *arguments, "--dry-run", "--nolock"]
    result = subprocess.run(call, capture_output=True, text=True, check=False, cwd=os.getcwd())
    if result.returncode:
        raise Refused(f"the plan itself fails:\n{result.stderr[-3000:]}")
    return read_text(result.stdout + result.stderr)


def downloads(run: Run) -> dict[str, int | None]:
    """Return the bytes of files that are to be fetched; None where only their host states them."""
    found: dict[str, int | None] = {}
    for job in run.jobs.values():
        # A raw_dir of its own has any name; source and file are the job's wildcards.
        named = re.fullmatch(r"source=([^,]*), file=(.*)", job.wildcards)
        if job.rule != "fetch_file" or not named:
            continue
        try:
            entry = registry_entry(named[1], named[2])
        except InputError:
            entry = {}
        stated = entry.get("bytes") or entry.get("about_bytes")
        found |= dict.fromkeys(job.outputs[:1], int(stated) if stated else None)
    return found


# checks ------------------------------------------------------------------------------------------------------


def nearest(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def check_folders(folder: Path, need: int) -> Iterator[str]:
    """Yield what is wrong with the folders that the run writes to: not writable, full, or on another clock."""
    places = {name: nearest(folder / name) for name in ("results", "logs", "benchmarks", ".snakemake")}
    for place in dict.fromkeys(places.values()):
        what = " and ".join(name for name, found in places.items() if found == place)
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                before = time.time()
                file.write(b"x" * 4096)
                file.flush()
                skew = os.fstat(file.fileno()).st_mtime - before
        except OSError as error:
            yield (
                f"{place}: {what} cannot be written here ({error.strerror}). Remedy: free space, fix permissions or "
                "mount, move away a file that stands there, or run in another folder with --directory."
            )
            continue
        if abs(skew) > SKEW_SECONDS:
            yield (
                f"{place}: its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's, so "
                "that what is new and what is old cannot be told. Remedy: have the clocks of the file server and this "
                "machine synchronised (NTP)."
            )
    free = shutil.disk_usage(nearest(folder / "results")).free
    if free < need + SPARE_BYTES:
        yield (
            f"{folder / 'results'}: {free / 1e9:.1f} GB are free, and {(need + SPARE_BYTES) / 1e9:.1f} GB is the least "
            "that a run needs. Remedy: free space, or set `raw_dir` to a larger disk."
        )


def check_clocks(inputs: Iterable[str], folder: Path) -> Iterator[str]:
    """Yield inputs that claim to be from the future: whatever is made of them would look old at once."""
    now = time.time()
    there = [path for path in (folder / name for name in inputs) if path.exists()]
    late = sorted({str(path) for path in there if path.stat().st_mtime > now + SKEW_SECONDS})
    if late:
        more = f" and {len(late) - 1} more" if len(late) > 1 else ""
        yield (
            f"{late[0]}{more}: modified in the future, so what is made from it would look older than it, and be thrown "
            "away at the end of its job. Remedy: fix the clock that wrote it, then `touch` it."
        )


def check_other_runs(folder: Path) -> Iterator[str]:
    """Yield a run that is alive in the folder, here or on another machine."""
    alive = [process.pid for process in processes_here(folder) if is_run(command(process))]
    if alive:
        yield f"{folder}: a run is alive here (process {alive[0]}). Remedy: let it finish, or use another folder."
    elsewhere = run_elsewhere(folder)
    if elsewhere:
        yield f"{folder}: a run was started here on {elsewhere} and has not ended. Remedy: look after it there."


def check_slurm(run: Run, profile_folder: Path, profile: dict) -> Iterator[str]:
    """Yield what the cluster would refuse: partitions, account, memory, GPUs."""
    if shutil.which("sbatch") is None or shutil.which("sinfo") is None:
        yield "the profile asks for SLURM, and there is no sbatch here. Remedy: start the run on a login node."
        return
    names = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, check=False, timeout=60)
    if names.returncode:
        yield f"SLURM does not answer: {names.stderr.strip()}. Remedy: try again when `sinfo` works."
        return
    there = sorted(set(names.stdout.split()))
    wanted = partitions(profile_folder, profile)
    for name in wanted:
        if name not in there:
            yield f"{profile_folder}: no partition '{name}' on this cluster. Remedy: use one of {', '.join(there)}."
    if all(name in there for name in wanted):
        yield from check_submissions(run, profile_folder, profile)


def partitions(profile_folder: Path, profile: dict) -> list[str]:
    """Return the partitions that a profile names."""
    found = [(profile.get("default-resources") or {}).get("slurm_partition")]
    found += [entry.get("slurm_partition") for entry in (profile.get("set-resources") or {}).values()]
    file = profile.get("slurm-partition-config")
    if file:
        found += list(yaml.safe_load((profile_folder / file).read_text())["partitions"])
    return list(dict.fromkeys(name for name in found if name))


def resting(partition: str) -> bool:
    """Whether nodes of a partition are away for now: the scheduler then cannot tell what it could do with them."""
    call = ["sinfo", "-h", "-p", partition, "-t", "drain,down", "-o", "%n"]
    return bool(subprocess.run(call, capture_output=True, text=True, check=False, timeout=60).stdout.strip())


def group_width(profile: dict) -> int:
    """Return how many jobs of a group the profile lets run side by side; 0 for all of them."""
    slots = (profile.get("resources") or {}).get("group_slot")
    return int(slots or profile.get("cores") or 0)


def submissions(run: Run, cores: int) -> Iterator[tuple[Job, Try]]:
    """Yield what the scheduler is asked for: each job by itself, and each group with its first job.

    A group runs its rules one after the other, and the jobs of a rule side by side on the profile's cores.
    """
    found: dict[str, list[Job]] = {}
    for job in run.jobs.values():
        if job.rule != "all" and job.tries:
            found.setdefault(job.submission, []).append(job)
    for jobs in found.values():
        if jobs[0].group is None:
            yield jobs[0], jobs[0].tries[0]
            continue
        whole = Try(0, 0, 0, 0, jobs[0].tries[0].partition, jobs[0].tries[0].account)
        for rule in dict.fromkeys(job.rule for job in jobs):
            tries = [job.tries[0] for job in jobs if job.rule == rule]
            beside = min(len(tries), max((cores or len(tries)) // max(t.threads for t in tries), 1))
            layers = -(-len(tries) // beside)
            whole.mem_mb = max(whole.mem_mb or 0, beside * max(t.mem_mb or 0 for t in tries))
            whole.minutes = (whole.minutes or 0) + layers * max(t.minutes or 0 for t in tries)
            whole.threads = max(whole.threads, beside * max(t.threads for t in tries))
            whole.gpus = max(whole.gpus, beside * max(t.gpus for t in tries))
        yield jobs[0], whole


def last_try(profile: dict, rule: str) -> int:
    """Return by how much a rule's last try asks for more time; what the profile itself sets does not grow."""
    fixed = "runtime" in (profile.get("set-resources") or {}).get(rule, {})
    return 1 if fixed else growth(int(profile.get("retries") or 0) + 1)


def check_submissions(run: Run, profile_folder: Path, profile: dict) -> Iterator[str]:
    """Ask the scheduler whether it would take the largest job of each rule; nothing is submitted."""
    import logging

    from snakemake_executor_plugin_slurm.partitions import get_best_partition, read_partition_file

    quiet = logging.getLogger("plan_run")
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


def check_quickly(arguments: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield what is wrong that shows without a plan: the profile, another run, folders."""
    yield from check_profile(arguments, read_profile(arguments)[1])
    yield from check_other_runs(folder)
    yield from check_folders(folder, 0)


def show_plan(arguments: Sequence[str], folder: Path) -> Iterator[str]:
    """Print the plan, and yield what is wrong with it."""
    profile_folder, profile = read_profile(arguments)
    run = plan(arguments, folder)
    to_fetch = downloads(run)
    inputs = {path for job in run.jobs.values() for path in job.inputs}
    read = 0
    for path in inputs:
        with contextlib.suppress(OSError):
            read += (folder / path).stat().st_size
    if not run.jobs:
        print("Nothing to be done.")
        return
    free = shutil.disk_usage(nearest(folder / "results")).free
    print(plan_text(run, to_fetch, read, free))
    yield from check_folders(folder, sum(size or 0 for size in to_fetch.values()))
    yield from check_clocks(inputs, folder)
    if profile_folder is not None and (option(arguments, "--executor") or profile.get("executor")) == "slurm":
        yield from check_slurm(run, profile_folder, profile)


def main(arguments: list[str]) -> int:
    """Print the plan and what is wrong; 1 if anything is."""
    # Called by a run for itself, with its own options (Snakemake's, so these are not theirs).
    quick = "--quick" in arguments
    arguments = [word for word in arguments if word not in {"--from-run", "--quick"}]
    folder = Path(option(arguments, "--directory") or option(arguments, "-d") or ".").resolve()
    problems: list[str] = []
    try:
        problems += check_quickly(arguments, folder)
        # A dry run in a folder that cannot be written would only say the same less clearly.
        if quick:
            problems += check_clocks(sys.stdin.read().splitlines(), folder)
        elif not problems:
            problems += show_plan(arguments, folder)
    except Refused as error:
        problems.append(str(error))
    for problem in problems:
        print(f"\nWill not work: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
