"""What a long fit keeps on disk, so that it goes on after a kill, a time-out or a preemption as if nothing had been.

A fit calls `Checkpoint.tick` after every step. Now and then, and when the job is asked to end (SIGUSR1 or SIGTERM,
which schedulers send some time before they kill), the state goes to ``results/checkpoints/{stage}/{id}/`` under a
scratch name and is renamed; the one before is kept. A checkpoint is used only if it was made from the same parameters,
inputs, code, libraries, device and threads, and is whole. A save that fails (a full disk) is logged and never ends a
fit. Whoever declares the job's outputs removes the folder when they are in place (`histoloom.jobs.job`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, Self

from histoloom.identity import canonical_json, sha256_text, source_hash

logger = logging.getLogger(__name__)

# The exit status of a job that saved and ended because it was asked to: "try again" of sysexits.h.
EXIT_STATUS = 75
# Seconds between two checkpoints: a fit shorter than this never writes. A fact of the machine, not of the science.
INTERVAL_VARIABLE = "HISTOLOOM_CHECKPOINT_SECONDS"
_INTERVAL_S = 300.0
_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
_LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "lightning", "pyro-ppl", "scvi-tools", "cell2location")


class Stopped(Exception):
    """The job was asked to end, and what it had done is saved as far as it could be."""


def resume_identity(artefact: str, sources: Iterable[str], *, device: str, threads: int) -> str:
    """Return a hash of what a fit's state depends on: its artefact's identity, code of stages, libraries, machine."""
    libraries = {}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            libraries[name] = version(name)
    code = {name: source_hash(name) for name in sorted({*sources, "checkpoints"})}
    facts = {"artefact": artefact, "code": code, "libraries": libraries, "device": device, "threads": threads}
    return sha256_text(canonical_json(facts))


class Checkpoint:
    """The checkpoint of one of a job's fits (`name`, `facts`), listening to signals while its steps run."""

    def __init__(self, folder: Path, name: str, identity: str, facts: Any = None) -> None:
        self.identity = sha256_text(canonical_json([identity, name, facts]))
        self.folder, self.name = Path(folder), name
        self.path = self.folder / f"{name}.{self.identity[:16]}.ckpt"
        self.previous = self.path.with_suffix(".previous.ckpt")
        self._interval = float(os.environ.get(INTERVAL_VARIABLE, _INTERVAL_S))
        self._next = time.monotonic() + self._interval
        self._asked: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._next = time.monotonic() + self._interval
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def listen(self) -> None:
        """Take the signals, also from a library that has taken them in between."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may; a fit elsewhere ends as its process does
        for number in _SIGNALS:
            self._before.setdefault(number, signal.signal(number, self._take))

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._asked = signal.Signals(number).name

    def tick(self, state: Callable[[], Mapping[str, Any]], progress: str) -> None:
        """Say that a step is done: saves when it is time, raises `Stopped` when the job was asked to end.

        The state (tensors, texts, numbers, containers of them) is asked for only when it is saved; ``progress`` is for
        the log.
        """
        asked = self._asked
        if asked is None and time.monotonic() < self._next:
            return
        saved = self.save(state(), progress)
        if asked is not None:
            words = f"saved at {progress}; run again to go on from there" if saved else "the state could not be saved"
            raise Stopped(f"asked to end by {asked}: {words}")

    def save(self, state: Mapping[str, Any], progress: str) -> bool:
        """Write the state; return whether that went well."""
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        payload = buffer.getbuffer()
        header = {"identity": self.identity, "sha256": hashlib.sha256(payload).hexdigest(), "progress": progress}
        temporary = self.folder / f".{self.path.stem}.{os.getpid()}.part"
        begin = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as handle:
                handle.write(canonical_json(header).encode() + b"\n")
                handle.write(payload)
                handle.flush()
                os.fsync(handle.fileno())
            if self.path.exists():
                os.replace(self.path, self.previous)
            os.replace(temporary, self.path)
        except OSError as error:
            logger.warning("%s: no checkpoint at %s (%s); the fit goes on", self.path, progress, error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            return False
        finally:
            self._next = time.monotonic() + self._interval
        logger.info("checkpoint at %s: %.1f MB in %.2f s", progress, len(payload) / 1e6, time.monotonic() - begin)
        return True

    def load(self) -> dict[str, Any] | None:
        """Return the state to go on from, on the CPU; None where there is none that fits and is whole."""
        for path in sorted(self.folder.glob(f"{self.name}.*.ckpt")):
            if path not in {self.path, self.previous}:
                logger.info("%s is of other parameters, inputs or code: not used", path)
        for path in self.folder.glob(f".{self.path.stem}.*.part"):
            path.unlink(missing_ok=True)
        states = (self._read(path) for path in (self.path, self.previous) if path.is_file())
        return next((state for state in states if state is not None), None)

    def _read(self, path: Path) -> dict[str, Any] | None:
        import torch

        try:
            head, _, payload = path.read_bytes().partition(b"\n")
            header = json.loads(head)
            if header["identity"] != self.identity:
                logger.info("%s is of other parameters, inputs or code: not used", path)
                return None
            if header["sha256"] != hashlib.sha256(payload).hexdigest():
                raise ValueError("its bytes have changed")
            state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
            said = type(error).__name__ if isinstance(error, pickle.UnpicklingError) else error
            logger.warning("%s is damaged (%s): not used", path, said)
            return None
        logger.info("%s: going on from %s", path, header["progress"])
        return state


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a job that makes several fits."""

    folder: Path
    identity: str

    def of(self, name: str, facts: Any = None) -> Checkpoint:
        return Checkpoint(self.folder, name, self.identity, facts)


def random_state() -> dict[str, Any]:
    """Return the state of the global generators of Python, NumPy and torch, CUDA's included."""
    import numpy as np
    import torch

    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - libraries that draw from the global generator
    return {
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *[float(x) for x in rest]],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the global generators where `random_state` found them."""
    import numpy as np
    import torch

    kind, numbers, gauss = state["python"]
    random.setstate((kind, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
