"""How fast an embedding job runs: what it tells while it runs, and what it leaves in its record."""

from __future__ import annotations

import logging
import platform
import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from histoloom.embeddings.cards import Encoder

logger = logging.getLogger(__name__)

_EVERY_S = 5.0


class Progress:
    """Tiles done, tiles/s and time left, told to the log every few seconds.

    Parameters
    ----------
    name
        What is under way.
    total
        Tiles in all.
    device
        Where the encoder computes; of a GPU, its use is told too where its driver says so.
    """

    def __init__(self, name: str, total: int, device: str = "cpu") -> None:
        self.name, self.total, self.device = name, total, device
        self.done = self.skipped = 0
        self.waited_s = 0.0
        self.started = self._told = time.perf_counter()

    def skip(self, n: int) -> None:
        """Count tiles taken over from an earlier run."""
        self.skipped += n

    def add(self, n: int, waited_s: float = 0.0) -> None:
        """Count encoded tiles; `waited_s` is how long the encoder has waited for pixels in all."""
        self.done += n
        self.waited_s = waited_s
        now = time.perf_counter()
        left = self.total - self.done - self.skipped
        if now - self._told >= _EVERY_S or left == 0:
            self._told = now
            rate = self.done / max(now - self.started, 1e-9)
            finished = self.done + self.skipped
            waited = 100 * self.waited_s / max(now - self.started, 1e-9)
            use = gpu_use(self.device)
            logger.info(
                "%s: %d of %d tiles, %.0f tiles/s, %.0f s left, %.0f %% of the time spent waiting for pixels%s",
                self.name,
                finished,
                self.total,
                rate,
                left / rate,
                waited,
                "" if use is None else f", GPU {use} % busy",
            )


def gpu_use(device: str) -> int | None:
    """Return the percentage of the last second in which a GPU computed; None where that is not known.

    Torch asks the driver (NVML) for it, which needs the package nvidia-ml-py.
    """
    if not device.startswith("cuda"):
        return None
    import torch

    try:
        refusal: type[Exception] = import_module("pynvml").NVMLError
    except ImportError:
        return None
    try:
        return int(torch.cuda.utilization(device))
    except (RuntimeError, refusal) as error:
        # A slice of a GPU (MIG), say, has no such number.
        logger.debug("the GPU's use is not known: %s", error)
        return None


def efficiency_record(encoder: Encoder, progress: Progress, seconds: float, tiles: int) -> dict[str, Any]:
    """Return the efficiency record; `seconds` counts from the loading of the weights, `tiles` are those encoded."""
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 1024**2 if sys.platform == "darwin" else 1024
    encoding = time.perf_counter() - progress.started
    gpu, hardware = None, f"{_cpu_name()}, {platform.system()}"
    if encoder.device.startswith("cuda"):
        import torch

        gpu = torch.cuda.max_memory_allocated(encoder.device) / 1024**2
        hardware = f"{torch.cuda.get_device_name(encoder.device)}; {hardware}"
    return {
        "stage": "embeddings",
        "seconds": round(seconds, 3),
        "encoding_seconds": round(encoding, 3),
        "peak_rss_mb": round(max(own, children) / unit, 1),
        "peak_gpu_mb": gpu if gpu is None else round(gpu, 1),
        "items": tiles,
        "items_resumed": progress.total - tiles,
        "items_per_s": round(tiles / max(encoding, 1e-9), 2),
        "waited_share": round(progress.waited_s / max(encoding, 1e-9), 3),
        "batch_size": getattr(encoder, "batch_size", encoder.chunk),
        "device": encoder.device,
        "precision": encoder.precision,
        "hardware": hardware,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
