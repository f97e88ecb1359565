"""After a crash: end what a killed run left behind in this folder, so that a new run is the only writer.

A run that is still alive is left alone and reported. Orphaned workers (a job outlives a `kill -9` of its parent) are
ended; what they wrote under temporary names is removed. `make resume` calls this before it unlocks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

GRACE_SECONDS = 10


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
    return ".snakemake/scripts/" in text or ("snakemake" in text and "--mode subprocess" in text)


def is_run(text: str) -> bool:
    """Whether a command line is that of a run itself."""
    words = text.split()
    called = any(word.endswith("/snakemake") or word == "snakemake" for word in words[:3])
    return called and not is_worker(text)


def main(folder: Path) -> int:
    """End orphaned workers and remove what they left half-written; 1 if a run is alive."""
    found = [(process, command(process)) for process in processes_here(folder)]
    runs = [process.pid for process, text in found if is_run(text)]
    if runs:
        print(f"A run is alive in {folder} (process {runs[0]}): stop it first, or let it finish.", file=sys.stderr)
        return 1
    workers = [process for process, text in found if is_worker(text)]
    for process in workers:
        print(f"ending orphaned job, process {process.pid}")
        process.terminate()
    for process in psutil.wait_procs(workers, timeout=GRACE_SECONDS)[1]:
        process.kill()
    psutil.wait_procs(workers, timeout=GRACE_SECONDS)
    for path in (folder / "results").glob("**/.*.part*"):
        print(f"removing half-written {path.relative_to(folder)}")
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(os.getcwd()).resolve()))
