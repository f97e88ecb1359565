"""What every job does around its work: a log, a seed, threads, temporary names, and an error a person can read."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import sys
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from histoloom.checkpoints import EXIT_STATUS, Stopped
from histoloom.errors import InputError
from histoloom.redaction import Redacting

logger = logging.getLogger("histoloom")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Outputs:
    """Temporary names for a job's outputs, renamed to the final ones only when the job has succeeded."""

    def __init__(self, final: Mapping[str, str | Path]) -> None:
        self.final = {role: Path(path) for role, path in final.items()}
        token = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        # The suffix stays last, for writers that choose the format by it.
        self._temporary = {
            role: path.with_name(f".{path.stem}.{token}.part{path.suffix}") for role, path in self.final.items()
        }
        for path in self.final.values():
            path.parent.mkdir(parents=True, exist_ok=True)

    def __getitem__(self, role: str) -> Path:
        """Return the temporary path to write for a role."""
        return self._temporary[role]

    def commit(self) -> None:
        """Rename every output, and the ``.json`` next to it where there is one, to its final name."""
        for role, temporary in self._temporary.items():
            if not temporary.exists():
                raise FileNotFoundError(f"output '{role}' ({self.final[role]}) was not written")
        for role, temporary in self._temporary.items():
            side, final = temporary.with_name(temporary.name + ".json"), self.final[role]
            if side.exists():
                os.replace(side, final.with_name(final.name + ".json"))
            if final.is_dir() and not final.is_symlink():
                shutil.rmtree(final)
            os.replace(temporary, final)

    def discard(self) -> None:
        """Remove what was written under temporary names."""
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


def _place(error: BaseException) -> str:
    """Return module and line that raised an error: an `InputError` is about the user's files, not about our code."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return " < ".join(f"{frame.f_globals.get('__name__')}:{frame.f_lineno}" for frame in reversed(frames))


@contextlib.contextmanager
def job(
    log: str | Path,
    outputs: Mapping[str, str | Path] | Iterable[tuple[str, str | Path]],
    *,
    seed: int | None = None,
    threads: int = 1,
    scratch: str | Path | None = None,
) -> Iterator[Outputs]:
    """Surround a job's work; the block writes to the temporary names that the yielded object gives.

    An `InputError` ends the job with status 1, its message in the log and on stderr without a traceback; a job that was
    asked to end and has saved what it had done ends with `histoloom.checkpoints.EXIT_STATUS`. Outputs get their names
    on success and are removed on failure; ``scratch``, the job's folder of checkpoints, is removed on success.
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
    out = Outputs(dict(outputs))
    try:
        yield out
        out.commit()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    except Stopped as stopped:
        logger.error("%s", stopped)
        raise SystemExit(EXIT_STATUS) from None
    except InputError as error:
        logger.error("%s", error)
        logger.info("raised in %s", _place(error))
        raise SystemExit(1) from None
    except Exception:
        logger.exception("the job failed")
        # Python would print it once more, and without `Redacting`.
        raise SystemExit(1) from None
    finally:
        out.discard()
        logging.captureWarnings(False)
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
