"""Which device a job computes on, and how many items at once fit there."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from histoloom.errors import InputError

logger = logging.getLogger(__name__)

START, LARGEST = 16, 512
_held: dict[str, int] = {}
"""Locks that this process holds: path -> file descriptor."""


@contextlib.contextmanager
def lease_device(choice: str = "auto", folder: Path | None = None) -> Iterator[str]:
    """Give a device to this process while the block runs: ``"cpu"`` or ``"cuda:<number>"``.

    A CUDA_VISIBLE_DEVICES with one GPU is a scheduler's decision and is followed. Where a process sees several GPUs, or
    no scheduler spoke, it takes the first GPU that no other process of this user has leased; the lease ends with the
    block or the process. A process that leases again gets the same GPU. The choice ``"auto"`` is a free GPU, else the
    CPU; ``"cuda"`` a GPU, a shared one if all are leased; ``"cuda:1"`` and ``"cpu"`` are taken as named.
    """
    kind, _, number = choice.partition(":")
    if kind not in {"auto", "cpu", "cuda"} or not (number.isdecimal() or number == ""):
        raise InputError(f"device {choice}", "is not known.", "use auto, cpu, cuda or cuda:0.", code="device-name")
    gpus = [] if kind == "cpu" else visible_gpus()
    if kind == "cuda" and len(gpus) <= int(number or 0):
        seen = f"torch sees {len(gpus)} GPUs." if gpus else "torch sees no GPU."
        remedy = "use device auto or cpu, or install torch for CUDA."
        raise InputError(f"device {choice}", seen, remedy, code="gpu-none")
    if not gpus:
        yield "cpu"
        return
    scheduled = len(gpus) == 1 and os.environ.get("CUDA_VISIBLE_DEVICES")
    if scheduled or number:
        yield f"cuda:{number or 0}"
        return
    folder = folder or Path(tempfile.gettempdir())
    locks = [str(folder / f"histoloom-gpu-{os.getuid()}-{gpu}.lock") for gpu in gpus]
    with contextlib.ExitStack() as stack:
        for index, path in enumerate(locks):
            if stack.enter_context(_lock(path)):
                yield f"cuda:{index}"
                return
        advice = "set `resources: gpu:` to the number of GPUs, so that jobs wait for one"
        if kind == "cuda":
            index = os.getpid() % len(gpus)
            logger.warning("all %d GPUs are in use; sharing GPU %d (%s)", len(gpus), index, advice)
            yield f"cuda:{index}"
        else:
            logger.warning("all %d GPUs are in use; computing on the CPU (%s)", len(gpus), advice)
            yield "cpu"


def visible_gpus() -> list[str]:
    """Return the identifiers of the GPUs that this process sees, the same for every process that sees them."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]


@contextlib.contextmanager
def _lock(path: str) -> Iterator[bool]:
    """Hold a lock file while the block runs, if no other process holds it; the value says whether it is held."""
    if path in _held:
        yield True
        return
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        yield False
        return
    _held[path] = handle
    try:
        yield True
    finally:
        os.close(_held.pop(path))


def device_kind(device: str) -> str:
    """Return ``"cpu"`` or ``"cuda"``, whichever GPU it is."""
    return device.partition(":")[0]


def find_batch_size(
    used_by: Callable[[int], float], budget: float, *, start: int = START, largest: int = LARGEST
) -> int:
    """Return the largest batch, `start` doubled or halved, whose peak memory by `used_by` is within a budget, bytes."""
    size = start
    while not _fits(used_by, size, budget):
        if size == 1:
            remedy = "use a smaller encoder, a larger GPU or a CPU."
            raise InputError("device memory", "one tile does not fit.", remedy, code="gpu-memory")
        size //= 2
    while size >= start and 2 * size <= largest and _fits(used_by, 2 * size, budget):
        size *= 2
    return size


def _fits(used_by: Callable[[int], float], size: int, budget: float) -> bool:
    import torch

    try:
        return used_by(size) <= budget
    except torch.OutOfMemoryError:
        return False
