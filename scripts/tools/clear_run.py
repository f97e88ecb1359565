"""After a crash: end what a killed run left behind in this folder, so that a new run is the only writer.

A run that is still alive is left alone and reported. Orphaned workers (a job outlives a `kill -9` of its parent) are
ended, jobs of this folder that are still in a SLURM queue are cancelled and waited for; what they wrote under temporary
names is removed. `make resume` calls this before it unlocks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

GRACE_SECONDS = 10
# A scheduler may take its time: a cancelled job is first signalled, then killed, and its node cleans up.
QUEUE_SECONDS = 180
IN_QUEUE = "PENDING,CONFIGURING,RUNNING,SUSPENDED,COMPLETING,REQUEUED,RESIZING,STOPPED"


def processes_here(folder: Path) -> Iterator[psutil.Process]:
    """Yield processes that work in a folder, but not this one and its parents."""
    me = psutil.Process()
    mine = {me.pid, *(parent.pid for parent in me.parents())}
    for process in psutil.process_iter():
        try:
            if process.pid not in mine and Path(process.cwd()) == folder:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue


def command(process: psutil.Process) -> str:
    """Return a process's command line; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return ""


def is_worker(text: str) -> bool:
    """Whether a command line is that of a job started by a run."""
    inner = "snakemake" in text and any(f"--mode {mode}" in text for mode in ("subprocess", "remote", "'remote'"))
    return ".snakemake/scripts/" in text or inner


def is_run(text: str) -> bool:
    """Whether a command line is that of a run itself."""
    words = text.split()
    called = any(word.endswith("/snakemake") or word == "snakemake" for word in words[:3])
    return called and not is_worker(text)


def run_elsewhere(folder: Path) -> str | None:
    """Return the other machine on which the last run in a folder was started, if its log does not say that it ended.

    Processes of another login node cannot be seen from here; its log names the machine in its first lines.
    """
    logs = sorted((folder / ".snakemake" / "log").glob("*.snakemake.log"))
    locks = folder / ".snakemake" / "locks"
    if not logs or not locks.is_dir() or not any(locks.iterdir()):
        return None
    lines = logs[-1].read_text(errors="replace").splitlines()
    host = next((line.partition(":")[2].strip() for line in lines[:30] if line.strip().startswith("Host:")), "")
    ended = any(line.startswith("Elapsed time:") for line in lines[-10:])
    return host if host and not ended and host != socket.gethostname() else None


def queued_jobs(folder: Path) -> dict[str, str]:
    """Return the SLURM jobs that were submitted from a folder and have not left the queue: id and state.

    Every job of a run has the run's folder as its working directory.

    Raises
    ------
    RuntimeError
        If the controller does not answer: then it is unknown whether a job still writes here.
    """
    if shutil.which("squeue") is None:
        return {}
    # The user's own jobs only; %Z comes last, for a folder's name may hold anything.
    call = ["squeue", "--me", "--noheader", f"--states={IN_QUEUE}", "--format=%i|%T|%Z"]
    try:
        answer = subprocess.run(call, capture_output=True, text=True, check=True, timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (getattr(error, "stderr", "") or "no answer within a minute").strip()
        raise RuntimeError(said) from error
    rows = [line.split("|", 2) for line in answer.stdout.splitlines()]
    return {job: state for job, state, place in rows if Path(place).resolve() == folder}


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


def used_slurm(folder: Path) -> bool:
    """Whether a run in a folder has sent jobs to SLURM."""
    return (folder / ".snakemake" / "slurm_logs").is_dir()


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
