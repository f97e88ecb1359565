"""What would make a run fail later: its profile, folders, disk, clocks, and other runs in its folder."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from histoloom.errors import InputError
from histoloom.sources import registry_entry
from histoloom_operations.processes import command, is_run, processes_here, run_elsewhere
from histoloom_operations.records import Run

ROOT = Path(__file__).resolve().parents[3]
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


def read_profile(arguments: Sequence[str]) -> tuple[Path | None, dict[str, Any]]:
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
        existing = [p.absolute() for p in places if p.exists()]
        if not existing and name == "--profile":
            existing = site_profile(given)
        files = [p if p.is_file() else p / f for p in existing for f in ("config.yaml", "profile.yaml")]
        files = [p for p in files if p.is_file()]
        if not files:
            known = ", ".join(f"profiles/{p.name}" for p in sorted((ROOT / "profiles").iterdir()) if p.is_dir())
            raise Refused(f"{name} {given}: no such profile. Remedy: name one of {known}, or a copy of your own.")
        return files[0].parent, yaml.safe_load(files[0].read_text()) or {}
    return None, {}


def site_profile(name: str) -> list[Path]:
    """Return a profile that a user or a site keeps where Snakemake looks for it."""
    from snakemake.cli import get_profile_dir

    profile = get_profile_dir(name)
    return [profile[1]] if profile else []


def check_profile(arguments: Sequence[str], profile: dict[str, Any]) -> Iterator[str]:
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


def downloads(run: Run) -> dict[str, int | None]:
    """Return the bytes of files that are to be fetched; None where only their host states them."""
    sizes: dict[str, int | None] = {}
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
        sizes |= dict.fromkeys(job.outputs[:1], int(stated) if stated else None)
    return sizes


def nearest(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def check_folders(folder: Path, need: int) -> Iterator[str]:
    """Yield what is wrong with the folders that the run writes to: not writable, full, or on another clock."""
    places = {name: nearest(folder / name) for name in ("results", "logs", "benchmarks", ".snakemake")}
    for place in dict.fromkeys(places.values()):
        names = " and ".join(name for name, existing in places.items() if existing == place)
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                before = time.time()
                file.write(b"x" * 4096)
                file.flush()
                skew = os.fstat(file.fileno()).st_mtime - before
        except OSError as error:
            yield (
                f"{place}: {names} cannot be written here ({error.strerror}). Remedy: free space, fix permissions or "
                "mount, move away a file that stands in its place, or run in another folder with --directory."
            )
            continue
        if abs(skew) > SKEW_SECONDS:
            yield (
                f"{place}: its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's, so "
                "that what is new and what is old cannot be said. Remedy: have the clocks of the file server and this "
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
    existing = [path for path in (folder / name for name in inputs) if path.exists()]
    late = sorted({str(path) for path in existing if path.stat().st_mtime > now + SKEW_SECONDS})
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


# Which of them is meant is not known while a Snakefile is parsed; none of them takes the lock.
LOCK_FREE = re.compile(
    r"--(no-?lock|unlock|report|lint|(detailed-)?summary|list\S*|dag|d3dag|rulegraph|filegraph|archive|cleanup-\S+)"
    r"(=.*)?|-[SDl]"
)


def check_lock(folder: Path, arguments: Sequence[str]) -> Iterator[str]:
    """Yield why a run cannot begin in a folder that another run has locked: it is alive, or it crashed."""
    locks = folder / ".snakemake" / "locks"
    if not locks.is_dir() or not any(locks.iterdir()) or any(LOCK_FREE.fullmatch(word) for word in arguments):
        return
    alive = list(check_other_runs(folder))
    yield from alive[:1]
    if not alive:
        yield (
            f"{folder}: an earlier run was killed here, or the machine went down: it is still locked. Remedy: "
            "`make resume` (ends orphaned jobs, unlocks, runs on), or `snakemake --unlock` and the same command again."
        )
