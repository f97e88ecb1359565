"""What every fit of scvi-tools needs around it: seed, threads, quiet trainer, checkpoints, history."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from histoloom.checkpoints import Checkpoint, resume_identity
from histoloom.devices import device_kind

logger = logging.getLogger(__name__)


def import_cell2location() -> Any:
    """Import ``cell2location.models`` with whatever torchvision is installed."""
    import_module("histoloom.torch_compat")
    import matplotlib

    matplotlib.use("Agg")  # cell2location imports pyplot; a job has no screen
    return import_module("cell2location.models")


def import_scvi() -> Any:
    """Import scvi-tools with whatever torchvision is installed."""
    import_module("histoloom.torch_compat")
    for name in ("scvi.external", "scvi.model"):
        import_module(name)
    return import_module("scvi")


@contextlib.contextmanager
def _no_srun() -> Iterator[None]:
    """Keep Lightning from taking this process for one that srun started.

    scvi-tools asks Lightning for a device before any plugin is looked at, and that alone fails in a job of several
    tasks. A job name of "interactive" is the way out that Lightning documents (`SLURMEnvironment.detect`).
    """
    name = os.environ.get("SLURM_JOB_NAME")
    if name is not None:
        os.environ["SLURM_JOB_NAME"] = "interactive"
    try:
        yield
    finally:
        if name is not None:
            os.environ["SLURM_JOB_NAME"] = name


def device_options(device: str) -> dict[str, Any]:
    """Return the arguments of scvi-tools for a device of `histoloom.devices.lease_device`."""
    kind, _, number = device.partition(":")
    return {"accelerator": "gpu", "device": int(number)} if kind == "cuda" else {"accelerator": "cpu"}


@contextlib.contextmanager
def trained(
    make: Callable[[], Any],
    *,
    seed: int,
    threads: int,
    epochs: int,
    scratch: Path,
    name: str,
    artefact: str,
    stages: Iterable[str],
    device: str,
    what: str,
    pyro: bool = True,
    **options: Any,
) -> Iterator[Any]:
    """Make and train a model with seed and threads of its own, and yield it, for sampling under the same settings.

    A fit called `name` that an earlier try has begun in `scratch`, for the same artefact by the same code of `stages`,
    goes on from its checkpoint. No progress bar, the epoch log, and a plain environment: Lightning otherwise detects
    SLURM from the job's variables, expects to be started by srun and installs a requeue handler; one job is one task.
    `pyro`: the model is one of pyro, as cell2location is. `options` are those of ``train``.
    """
    import scvi
    import torch
    from lightning.pytorch.callbacks import LambdaCallback
    from lightning.pytorch.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]

    from histoloom.references.resume import resuming

    def log_epoch(trainer: Any, module: Any) -> None:
        done = trainer.current_epoch + 1
        if done % max(epochs // 10, 1) == 0:
            loss = trainer.callback_metrics.get("elbo_train")
            text = "" if loss is None else f", ELBO loss {float(loss):.6g}"
            logger.info("%s: epoch %d of %d%s", what, done, epochs, text)

    checkpoint = Checkpoint(
        scratch, name, resume_identity(artefact, stages, device=device_kind(device), threads=threads)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for library in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    scvi.settings.seed = seed
    scvi.settings.dl_num_workers = 0
    try:
        with _no_srun(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # Stdout gets the bars of posterior sampling, which have no switch. The warnings are hints
            # about data loaders and srun that no one can act on here.
            warnings.filterwarnings("ignore", module=r"lightning\.")
            model = make()
            with checkpoint:
                model.train(
                    max_epochs=epochs,
                    plugins=[LightningEnvironment()],
                    callbacks=[LambdaCallback(on_train_epoch_end=log_epoch), resuming(checkpoint, pyro)],
                    enable_progress_bar=False,
                    default_root_dir=str(checkpoint.folder),
                    **device_options(device),
                    **options,
                )
            yield model
    finally:
        torch.set_num_threads(before)


def relative_fall(loss: np.ndarray, share: float = 0.1) -> float:
    """Return by how much a loss still falls over the last `share` of its epochs: (first - last) / abs(last).

    The points are those of a straight line fitted to these epochs, which noise from step to step does not move. Greater
    than 0 while the fit improves, NaN under 3 epochs.
    """
    tail = loss[-max(round(len(loss) * share), 3) :]
    if len(tail) < 3:
        return float("nan")
    slope, start = np.polyfit(np.arange(len(tail)), tail, 1)
    end = start + slope * (len(tail) - 1)
    return float((start - end) / abs(end)) if end else float("nan")


def history_summary(loss: np.ndarray, tolerance: float = 0.01) -> dict[str, Any]:
    """Summarise a fit's history as JSON: epochs, loss at 21 of them, fall over the last tenth, whether it passed."""
    fall = relative_fall(loss)
    steps = np.unique(np.linspace(0, len(loss) - 1, 21).astype(int))
    return {
        "epochs": len(loss),
        "loss": [[int(s) + 1, float(loss[s])] for s in steps],
        "fall_last_tenth": None if np.isnan(fall) else fall,
        "tolerance": tolerance,
        "converged": bool(fall <= tolerance),
    }
