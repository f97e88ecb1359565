"""Progress of an embedding job, for its log."""

from __future__ import annotations

import logging
import time
from importlib import import_module

logger = logging.getLogger(__name__)

_EVERY_S = 5.0


class Progress:
    """Tiles done, tiles/s, time left and a GPU's use (where its driver gives it), logged every few seconds."""

    def __init__(self, name: str, total: int, device: str = "cpu") -> None:
        self.name, self.total, self.device = name, total, device
        self.done = self.skipped = 0
        self.waited_s = 0.0
        self.started = self._reported = time.perf_counter()

    def skip(self, n: int) -> None:
        """Count tiles taken over from an earlier run."""
        self.skipped += n

    def add(self, n: int, waited_s: float = 0.0) -> None:
        """Count encoded tiles; `waited_s` is how long the encoder has waited for pixels in all."""
        self.done += n
        self.waited_s = waited_s
        now = time.perf_counter()
        left = self.total - self.done - self.skipped
        if now - self._reported >= _EVERY_S or left == 0:
            self._reported = now
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
    """Return the percentage of the last second in which a GPU computed (needs nvidia-ml-py); None if not known."""
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
