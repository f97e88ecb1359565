"""Processes and SLURM jobs of a run, as seen from its folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

IN_QUEUE = "PENDING,CONFIGURING,RUNNING,SUSPENDED,COMPLETING,REQUEUED,RESIZING,STOPPED"


def processes_here(folder: Path) -> Iterator[psutil.Process]:
    """Yield processes that work in a folder, but not this one and its parents."""
    me = psutil.Process()
    own = {me.pid, *(parent.pid for parent in me.parents())}
    for process in psutil.process_iter():
        try:
            if process.pid not in own and Path(process.cwd()) == folder:
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


def used_slurm(folder: Path) -> bool:
    """Whether a run in a folder has sent jobs to SLURM."""
    return (folder / ".snakemake" / "slurm_logs").is_dir()
