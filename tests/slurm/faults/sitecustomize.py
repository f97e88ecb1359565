"""Loaded by every Python of a test run (through PYTHONPATH): keeps a ledger of jobs, and makes chosen ones misbehave.

The ledger has one line per start and end of a script: what ran, when, in which SLURM job, with which GPU. A fault is a
file ``<n>.<script>.<what>.<amount>`` in the faults folder: one job of that script takes it (by renaming it) and then
sleeps for so many seconds, holds so many MB, or hangs in its fit until it is signalled. A sleeping job first writes what it goes on to
write, so that a second writer would be seen.
"""

import atexit
import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path

_FOLDER = os.environ.get("HISTOLOOM_FAULTS")
_FOUND = [re.search(r"\.snakemake/scripts/\w+\.(\w+)\.py$", word) for word in sys.orig_argv]
_SCRIPT = next((match.group(1) for match in _FOUND if match), None)


def _note(folder, event):
    words = (
        event, _SCRIPT, f"{time.time():.2f}", os.getpid(), os.environ.get("SLURM_JOB_ID", "-"),
        os.environ.get("SLURMD_NODENAME", "-"), os.environ.get("CUDA_VISIBLE_DEVICES", "-"),
    )  # fmt: skip
    with (folder / "ledger.tsv").open("a") as file:
        file.write("\t".join(map(str, words)) + "\n")


def _take(folder):
    for path in sorted(folder.glob(f"*.{_SCRIPT}.*.*")):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, path.with_name(f"taken-{path.name}".replace(".", "-")))
            return path.name.split(".")[2:]
    return None


if _FOLDER and _SCRIPT:
    _folder = Path(_FOLDER)
    _note(_folder, "start")
    atexit.register(_note, _folder, "end")
    _fault = _take(_folder)
    if _fault and _fault[0] == "sleep":
        time.sleep(float(_fault[1]))
    elif _fault and _fault[0] == "hold":
        _held = bytearray(int(_fault[1]) * 2**20)
        _held[::4096] = b"\1" * len(_held[::4096])
        time.sleep(15)
        del _held
    elif _fault and _fault[0] == "stall":
        # A fit that hangs after so many tenths of a second of its work, until a scheduler's SIGTERM wakes it.
        _ticks = []

        def _stall(*_):
            if "histoloom.references.resume" not in sys.modules:
                return
            _ticks.append(None)
            if len(_ticks) != int(_fault[1]):
                return
            signal.setitimer(signal.ITIMER_PROF, 0)
            woken, listener = [], signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda *received: woken.append(received))
            (_folder / "stalled").touch()
            while not woken:
                time.sleep(0.1)
            signal.signal(signal.SIGTERM, listener)
            listener(*woken[0])

        signal.signal(signal.SIGPROF, _stall)
        signal.setitimer(signal.ITIMER_PROF, 0.1, 0.1)
