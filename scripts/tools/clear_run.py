"""After a crash: end what a killed run left behind in this folder, so that a new run is the only writer.

A run that is still alive is left alone and reported. Orphaned workers (a job outlives a `kill -9` of its parent) are
ended, jobs of this folder that are still in a SLURM queue are cancelled and waited for; what they wrote under temporary
names is removed. `make resume` calls this before it unlocks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow" / "src"))

from histoloom_operations.processes import (
    command,
    is_run,
    is_worker,
    processes_here,
    queued_jobs,
    run_elsewhere,
    used_slurm,
)

GRACE_SECONDS = 10
# A scheduler may take its time: a cancelled job is first signalled, then killed, and its node cleans up.
QUEUE_SECONDS = 180


def cancel_jobs(folder: Path) -> bool:
    """Cancel a folder's jobs in the queue and wait until the last one has gone; False if one stays."""
    jobs = queued_jobs(folder)
    if not jobs:
        return True
    for job, state in jobs.items():
        print(f"cancelling SLURM job {job} ({state.lower()})")
    subprocess.run(["scancel", *jobs], check=False, timeout=60)
    end = time.monotonic() + QUEUE_SECONDS
    while jobs and time.monotonic() < end:
        time.sleep(1)
        jobs = queued_jobs(folder)
    if jobs:
        print(
            f"SLURM jobs {', '.join(jobs)} were cancelled but have not ended after {QUEUE_SECONDS} s, and may still "
            f"write to {folder}. Remedy: wait until `squeue --me` no longer lists them, then call `make resume` again.",
            file=sys.stderr,
        )
    return not jobs


def end_workers(folder: Path) -> None:
    """End the orphaned jobs of a folder on this machine; one may end by itself meanwhile."""
    workers = [process for process in processes_here(folder) if is_worker(command(process))]
    for process in workers:
        print(f"ending orphaned job, process {process.pid}")
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(workers, timeout=GRACE_SECONDS)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(workers, timeout=GRACE_SECONDS)


def main(folder: Path, *, elsewhere_is_dead: bool = False) -> int:
    """End orphaned workers and jobs, and remove what they left half-written; 1 if a run is alive or a job stays."""
    host = None if elsewhere_is_dead else run_elsewhere(folder)
    if host:
        print(
            f"The last run in {folder} was started on {host} and has not ended, as far as its log says. Remedy: resume "
            f"there; or, if you know that it is dead, call this with --dead.",
            file=sys.stderr,
        )
        return 1
    runs = [process.pid for process in processes_here(folder) if is_run(command(process))]
    if runs:
        print(f"A run is alive in {folder} (process {runs[0]}): stop it first, or let it finish.", file=sys.stderr)
        return 1
    try:
        if not cancel_jobs(folder):
            return 1
    except RuntimeError as error:
        # On a machine that only has SLURM's commands, a local run has nothing in any queue.
        if used_slurm(folder):
            print(
                f"SLURM does not answer ({error}), so jobs of {folder} may still be running. Remedy: try again on a "
                "login node when `squeue --me` works.",
                file=sys.stderr,
            )
            return 1
    end_workers(folder)
    for path in (folder / "results").glob("**/.*.part*"):
        print(f"removing half-written {path.relative_to(folder)}")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(os.getcwd()).resolve(), elsewhere_is_dead="--dead" in sys.argv[1:]))
