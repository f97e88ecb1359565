"""What a job cost. Records feed efficiency tables, are compared within one run only, and enter no identity."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histoloom.devices import device_kind


class Meter:
    """Time and memory of a piece of work on a device, from the meter's making on."""

    def __init__(self, stage: str, device: str = "cpu", threads: int | None = None) -> None:
        self.stage, self.device, self.threads = stage, device, threads
        self._on_gpu = device_kind(device) == "cuda"
        if self._on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        self._start = time.perf_counter()

    def record(self, items: int, **more: Any) -> dict[str, Any]:
        """Return seconds, peak memory (MiB), items per second, device and hardware; keys of `more` go over them."""
        gpu_mb, hardware = None, f"{cpu_name()}, {platform.system()}"
        if self._on_gpu:
            import torch

            torch.cuda.synchronize(self.device)
            gpu_mb = round(torch.cuda.max_memory_allocated(self.device) / 2**20, 1)
            hardware = f"{torch.cuda.get_device_name(self.device)}; {hardware}"
        seconds = time.perf_counter() - self._start
        return {
            "stage": self.stage,
            "seconds": round(seconds, 3),
            "peak_rss_mb": peak_rss_mb(),
            "peak_gpu_mb": gpu_mb,
            "items": items,
            "items_per_s": round(items / max(seconds, 1e-9), 4),
            "device": device_kind(self.device),
            "hardware": hardware,
            "threads": self.threads,
            **more,
        }

    def write(self, path: Path, items: int, **more: Any) -> None:
        Path(path).write_text(json.dumps(self.record(items, **more), indent=1, sort_keys=True) + "\n")


def peak_rss_mb() -> float:
    """Return the peak host memory of this process or of its largest finished child, MiB."""
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # Linux counts in KiB, macOS in bytes.
    return round(max(peaks) / (2**20 if sys.platform == "darwin" else 2**10), 1)


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def gather(paths: Sequence[Path], out: Path) -> None:
    """Write one record of several jobs: seconds and items added up, peaks of memory the largest of all."""
    records = [json.loads(Path(path).read_text()) for path in paths]
    gathered = dict(records[0])
    for key in ("seconds", "items", "epochs", "examples"):
        if all(key in record for record in records):
            gathered[key] = round(sum(record[key] for record in records), 3)
    if "curves" in gathered:
        gathered["curves"] = [curve for record in records for curve in record["curves"]]
    for key in ("peak_rss_mb", "peak_gpu_mb"):
        gathered[key] = max((record[key] for record in records if record[key] is not None), default=None)
    gathered["items_per_s"] = round(gathered["items"] / max(gathered["seconds"], 1e-9), 4)
    if "examples" in gathered:
        gathered["examples_per_s"] = round(gathered["examples"] / max(gathered["seconds"], 1e-9), 2)
    Path(out).write_text(json.dumps(gathered, indent=1, sort_keys=True) + "\n")
