"""Worker processes for encoders that compute in Python: threads would wait for each other's interpreter."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

_WATCH_S = 2.0


def worker_pool(workers: int) -> Executor | None:
    """Return a pool of started workers, None for one worker.

    Forked, since a fresh interpreter would run a job's main script again and import for a second; started at once,
    before the caller has threads of its own. Where forking is unsafe (macOS, Windows), threads do.
    """
    if workers <= 1:
        return None
    if sys.platform != "linux":
        return ThreadPoolExecutor(workers)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _follow_parent, (os.getpid(),))
    pool.submit(os.getpid).result()
    return pool


def _follow_parent(parent: int) -> None:
    """End this worker when its parent is gone: a killed job must not leave orphans behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
