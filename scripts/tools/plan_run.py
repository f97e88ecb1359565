"""Print what a run will do before anything is submitted, and stop what would fail later.

    python scripts/tools/plan_run.py --workflow-profile profiles/slurm [any other option of the run]

takes the options of the run itself. It prints jobs by rule, submissions, GPU-hours and bytes; then it checks the
profile, folders, disk, clocks, other runs in this folder and, for a SLURM profile, whether the cluster would accept the
jobs. Status 1 and a message with a remedy for each thing that is wrong. Nothing is written, nothing is submitted.

Every run calls it for itself when it starts: one on a cluster with ``--from-run``, a local one with ``--quick``, which
leaves out the plan and reads the run's inputs from its standard input, one per line.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "src"))

from histoloom_operations import run_checks
from histoloom_operations.records import Run, measured_seconds
from histoloom_operations.render import plan_text
from histoloom_operations.run_log import read_text
from histoloom_operations.slurm import check_slurm


def plan(arguments: Sequence[str], folder: Path) -> Run:
    """Return the plan of a run, from its dry run."""
    call = [sys.executable, "-m", "snakemake", *arguments, "--dry-run", "--nolock"]
    result = subprocess.run(call, capture_output=True, text=True, check=False, cwd=os.getcwd())
    if result.returncode:
        raise run_checks.Refused(f"the plan itself fails:\n{result.stderr[-3000:]}")
    return read_text(result.stdout + result.stderr)


def check_quickly(arguments: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield what is wrong that shows without a plan: the profile, another run, folders."""
    yield from run_checks.check_profile(arguments, run_checks.read_profile(arguments)[1])
    yield from run_checks.check_other_runs(folder)
    yield from run_checks.check_folders(folder, 0)


def show_plan(arguments: Sequence[str], folder: Path) -> Iterator[str]:
    """Print the plan, and yield what is wrong with it."""
    profile_folder, profile = run_checks.read_profile(arguments)
    run = plan(arguments, folder)
    to_fetch = run_checks.downloads(run)
    inputs = {path for job in run.jobs.values() for path in job.inputs}
    read = 0
    for path in inputs:
        with contextlib.suppress(OSError):
            read += (folder / path).stat().st_size
    if not run.jobs:
        print("Nothing to be done.")
        return
    free = shutil.disk_usage(run_checks.nearest(folder / "results")).free
    print(plan_text(run, to_fetch, read, free, measured_seconds(folder)))
    yield from run_checks.check_folders(folder, sum(size or 0 for size in to_fetch.values()))
    yield from run_checks.check_clocks(inputs, folder)
    if (
        profile_folder is not None
        and (run_checks.option(arguments, "--executor") or profile.get("executor")) == "slurm"
    ):
        yield from check_slurm(run, profile_folder, profile)


def main(arguments: list[str]) -> int:
    """Print the plan and what is wrong; 1 if anything is."""
    # Called by a run for itself: these two are no options of Snakemake.
    quick = "--quick" in arguments
    arguments = [word for word in arguments if word not in {"--from-run", "--quick"}]
    folder = Path(run_checks.option(arguments, "--directory") or run_checks.option(arguments, "-d") or ".").resolve()
    problems: list[str] = []
    try:
        problems += check_quickly(arguments, folder)
        # A dry run in a folder that cannot be written would only say the same less clearly.
        if quick:
            problems += run_checks.check_clocks(sys.stdin.read().splitlines(), folder)
        elif not problems:
            problems += show_plan(arguments, folder)
    except run_checks.Refused as error:
        problems.append(str(error))
    for problem in problems:
        print(f"\nWill not work: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
