"""Which device an encoder computes on, and how many tiles at once fit there."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from histoloom.errors import InputError

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.8
"""Share of a GPU's memory that an automatic batch may take."""

START, LARGEST = 16, 512
CPU_BATCH = 32
_held: dict[str, int] = {}


def pick_device(device: str) -> str:
    """Return the device to use: ``"auto"`` is a GPU where there is one, each process of a machine another.

    A scheduler that sets CUDA_VISIBLE_DEVICES to one GPU decides. Where a process sees several, it takes the first that
    no other process of this library has locked, and keeps the lock until it ends.

    Raises
    ------
    InputError
        If a GPU is asked for by name and there is none.
    """
    import torch

    if device == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        return f"cuda:{lease(torch.cuda.device_count())}"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device}", "torch sees no GPU.", "use device auto or cpu, or install torch for CUDA.")
    return device


def lease(count: int, folder: Path | None = None) -> int:
    """Return the number of a GPU that no other process holds; where all are held, one by process id.

    Parameters
    ----------
    count
        GPUs that this process sees.
    folder
        Where the locks lie; the machine's temporary folder unless given.
    """
    if count <= 1:
        return 0
    try:
        import fcntl
    except ImportError:
        return 0
    folder = folder or Path(tempfile.gettempdir())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    for index in range(count):
        # Processes may see the same GPU under different numbers: its name outside is what counts.
        name = visible[index].strip() if len(visible) == count and visible[index].strip() else str(index)
        path = str(folder / f"histoloom-gpu-{os.getuid()}-{name}.lock")
        if path in _held:
            return index
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _held[path] = handle
            return index
        os.close(handle)
    index = os.getpid() % count
    logger.warning("all %d GPUs are taken by other processes; sharing GPU %d", count, index)
    return index


def find_batch_size(
    used_by: Callable[[int], float], budget: float, *, start: int = START, largest: int = LARGEST
) -> int:
    """Return the largest batch, of `start` doubled again and again, that stays within a budget of memory.

    Parameters
    ----------
    used_by
        Runs a batch of so many tiles and returns the bytes it took at its peak; raises torch.OutOfMemoryError.
    budget
        Bytes that it may take.
    start, largest
        First and last batch that are tried; where not even the first fits, it is halved.

    Raises
    ------
    InputError
        If one tile does not fit.
    """
    size = start
    while not _fits(used_by, size, budget):
        if size == 1:
            raise InputError("device memory", "one tile does not fit.", "use a smaller encoder, a larger GPU or a CPU.")
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
