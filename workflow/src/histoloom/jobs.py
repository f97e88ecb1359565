"""What every job does around its work: a log, a seed, threads, temporary names, and an error a person can read."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import shutil
import sys
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from histoloom import content
from histoloom.checkpoints import EXIT_STATUS, Stopped
from histoloom.errors import InputError
from histoloom.redaction import Redacting

logger = logging.getLogger("histoloom")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_BYTES = 64 << 10
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Outputs:
    """Temporary names for a job's outputs, renamed to the final ones only when the job has succeeded."""

    def __init__(self, final: Mapping[str, str | Path], record: bool = True) -> None:
        self.record = record
        self.final = {role: Path(path) for role, path in final.items()}
        token = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        # The suffix stays last, for writers that choose the format by it.
        self._temporary = {
            role: path.with_name(f".{path.stem}.{token}.part{path.suffix}") for role, path in self.final.items()
        }
        for path in self.final.values():
            path.parent.mkdir(parents=True, exist_ok=True)

    def __getitem__(self, role: str) -> Path:
        return self._temporary[role]

    def commit(self) -> None:
        """Rename every output, and the ``.json`` next to it where there is one, to its final name."""
        for role, temporary in self._temporary.items():
            if not temporary.exists():
                raise FileNotFoundError(f"output '{role}' ({self.final[role]}) was not written")
        for role, temporary in self._temporary.items():
            side, final = temporary.with_name(temporary.name + ".json"), self.final[role]
            # A job that is killed from here on leaves a file without a record, never one with an old record.
            content.forget(final)
            if side.exists():
                os.replace(side, final.with_name(final.name + ".json"))
            if final.is_dir() and not final.is_symlink():
                shutil.rmtree(final)
            os.replace(temporary, final)
            if self.record:
                content.remember(final)

    def discard(self) -> None:
        for temporary in self._temporary.values():
            for path in (temporary, temporary.with_name(temporary.name + ".json")):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def paths_by_role(items: Iterable[tuple[str, str | Iterable[str]]], prefix: str = "") -> dict[str, list[Path]]:
    """Return lists of paths by role, of the roles that start with a prefix, which is cut off."""
    return {
        role.removeprefix(prefix): [Path(p) for p in ([paths] if isinstance(paths, str) else paths)]
        for role, paths in items
        if role.startswith(prefix)
    }


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and, where it is loaded already, torch. The one place seeds are set."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries that draw from the global generator
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(seed)


def set_threads(threads: int) -> None:
    """Bound the threads of BLAS, OpenMP, numba and torch: what is loaded already, and what a job loads later."""
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
    if "numba" not in sys.modules:
        # Once it runs, numba refuses another value at its next compilation.
        names.append("NUMBA_NUM_THREADS")
    for name in names:
        os.environ[name] = str(threads)
    import threadpoolctl

    threadpoolctl.threadpool_limits(threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
    if "numba" in sys.modules:
        import numba

        # It cannot have more than it was loaded with; its config gets attributes at import, which mypy does not see.
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]


def _explain(error: Exception, out: Outputs, read: Iterable[Path]) -> InputError | None:
    """Return what a user can do about an exception of a library; None where it is a fault of the code."""
    chain, current = [error], error.__cause__ or error.__context__
    while isinstance(current, Exception) and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    folders = [path.parent for path in out.final.values()]
    full = [folder for folder in folders if shutil.disk_usage(folder).free < _FULL_BYTES]
    # HDF5, Parquet and torch tell of a full disk in words of their own, or not at all.
    if any(isinstance(e, OSError) and e.errno in _FULL for e in chain) or full:
        problem = "the disk (or its quota) is full."
        return InputError((full or folders or [Path.cwd()])[0], problem, "free space, then run again.", "disk-full")
    if any(isinstance(e, MemoryError) for e in chain):
        problem = f"there is not enough memory ({str(error) or type(error).__name__})."
        remedy = "give the job more (`--set-resources RULE:mem_mb=...`), or look for an input of absurd size."
        return InputError("this job", problem, remedy, "memory")
    return content.find_unreadable(read)


def _place(error: BaseException) -> str:
    """Return module and line that raised an error: an `InputError` is about the user's files, not about our code."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)][:0:-1]
    return " < ".join(f"{frame.f_globals.get('__name__')}:{line}" for frame, line in frames[:4])


@contextlib.contextmanager
def job(
    log: str | Path,
    outputs: Mapping[str, str | Path] | Iterable[tuple[str, str | Path]],
    inputs: Iterable[str | Path] = (),
    *,
    seed: int | None = None,
    threads: int = 1,
    scratch: str | Path | None = None,
    record: bool = True,
) -> Iterator[Outputs]:
    """Surround a job's work; the block writes to the temporary names that the yielded object gives.

    An `InputError` ends the job with status 1, its message in the log and on stderr without a traceback; a full disk,
    too little memory and an artefact that a library cannot read become one. A job that was asked to end and has saved
    what it had done ends with `histoloom.checkpoints.EXIT_STATUS`. Outputs get their names on success and are removed
    on failure; ``scratch``, the job's folder of checkpoints, is removed on success. ``inputs`` are compared with what
    was written, and ``record`` says what outputs hold (`histoloom.content`).
    """
    log = Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.FileHandler(log, mode="w"), logging.StreamHandler(sys.stderr)]
    handlers[1].setLevel(logging.WARNING)
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(Redacting(_FORMAT))
        root.addHandler(handler)
    level, root_level = root.level, logging.INFO
    root.setLevel(root_level)
    logging.captureWarnings(True)
    set_threads(threads)
    if seed is not None:
        seed_everything(seed)
    out, read = Outputs(dict(outputs), record), [Path(path) for path in inputs]
    try:
        content.verify(read)
        yield out
        out.commit()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    except Stopped as stopped:
        logger.error("%s", stopped)
        raise SystemExit(EXIT_STATUS) from None
    except Exception as error:
        cause = error if isinstance(error, InputError) else _explain(error, out, read)
        if cause is None:
            logger.exception("the job failed")
        else:
            logger.error("%s", cause)
            logger.info("raised in %s", _place(error))
        # Python would print it once more, and without `Redacting`.
        raise SystemExit(1) from None
    finally:
        out.discard()
        logging.captureWarnings(False)
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
