"""What a stage cost: for ratios of methods measured in one run, never an input of a result."""

from __future__ import annotations

import json
import platform
import resource
import time
from pathlib import Path


class Meter:
    """Time and memory of a piece of work on a device."""

    def __init__(self, stage: str, device: str) -> None:
        import torch

        self._stage, self._device, self._start = stage, device, time.perf_counter()
        self._cuda = device.startswith("cuda")
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(device)

    def write(self, path: Path, items: int, threads: int) -> None:
        """Write the record.

        Parameters
        ----------
        path
            JSON file.
        items
            Models trained (folds x seeds).
        threads
            Threads granted.
        """
        import torch

        if self._cuda:
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._start
        record = {
            "stage": self._stage,
            "seconds": round(seconds, 3),
            # Linux gives kilobytes.
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "peak_gpu_mb": round(torch.cuda.max_memory_allocated(self._device) / 2**20, 1) if self._cuda else None,
            "items": items,
            "items_per_s": round(items / seconds, 4) if seconds > 0 else None,
            "device": "cuda" if self._cuda else "cpu",
            "hardware": torch.cuda.get_device_name(self._device)
            if self._cuda
            else f"{platform.machine()}, {threads} threads",
        }
        path.write_text(json.dumps(record, indent=1) + "\n")


def pick_device(device: str) -> str:
    """Return ``cuda`` or ``cpu`` for ``auto``, else the device as named."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
