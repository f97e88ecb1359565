"""Saving and going on with a fit that scvi-tools trains through Lightning."""

from __future__ import annotations

import logging
from typing import Any

from histoloom.checkpoints import Checkpoint, random_state, set_random_state

logger = logging.getLogger(__name__)


def resuming(checkpoint: Checkpoint, pyro: bool) -> Any:
    """Return a callback that saves a fit's state between epochs, and takes up the state that an earlier try left.

    Saved are the parameters, their optimisers, all random generators, the history and the epoch, at the start of an
    epoch: before the loader draws its order, after the last epoch's loss is in the history. They are taken up at the
    same point. Lightning's own checkpoints cannot serve models of `pyro`: the guide makes its parameters in its first
    call, after Lightning would load them, and their optimisers live in pyro.
    """
    import lightning.pytorch as pl

    fit = _PyroFit() if pyro else _TorchFit()

    class Resuming(pl.Callback):
        """See `resuming`."""

        saved: dict[str, Any] | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Look for a state; it is taken up later, when the guide has its parameters."""
            del pl_module
            checkpoint.listen()  # Lightning's own handler of SIGTERM would end the fit unsaved
            self.saved = checkpoint.load()
            if self.saved is not None:
                progress = trainer.fit_loop.epoch_progress.current
                progress.ready = progress.started = progress.processed = progress.completed = self.saved["epoch"]

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            """Take up the state before the first epoch, save before the others."""
            epoch = int(trainer.current_epoch)
            if self.saved is not None:
                _restore(self.saved, trainer, pl_module, fit)
                self.saved = None
            elif epoch:
                checkpoint.tick(
                    lambda: _state(trainer, pl_module, epoch, fit), f"epoch {epoch} of {trainer.max_epochs}"
                )

    return Resuming()


class _PyroFit:
    """A fit whose parameters and optimisers live in pyro."""

    def state(self, trainer: Any, plan: Any) -> dict[str, Any]:
        import pyro

        parameters = {name: value.detach() for name, value in pyro.get_param_store().named_parameters()}
        return {"parameters": parameters, "optimisers": plan.optim.get_state()}

    def restore(self, state: dict[str, Any], trainer: Any, plan: Any) -> None:
        """Copy parameters in place: guide, store and optimisers share them."""
        import pyro
        import torch

        with torch.no_grad():
            for name, value in pyro.get_param_store().named_parameters():
                value.copy_(state["parameters"][name])
        plan.optim.set_state(state["optimisers"])


class _TorchFit:
    """A fit of a torch module by optimisers of Lightning's trainer."""

    def state(self, trainer: Any, plan: Any) -> dict[str, Any]:
        optimisers = [optimiser.state_dict() for optimiser in trainer.optimizers]
        return {"parameters": plan.module.state_dict(), "optimisers": optimisers}

    def restore(self, state: dict[str, Any], trainer: Any, plan: Any) -> None:
        import torch

        # In place: `load_state_dict` of scvi-tools' embeddings makes new parameters, which no optimiser knows.
        with torch.no_grad():
            for name, value in plan.module.state_dict().items():
                value.copy_(state["parameters"][name])
        for optimiser, saved in zip(trainer.optimizers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def _state(trainer: Any, plan: Any, epoch: int, fit: _PyroFit | _TorchFit) -> dict[str, Any]:
    history = {
        name: {"axis": frame.index.name, "at": [int(i) for i in frame.index], "values": [float(v) for v in frame[name]]}
        for name, frame in trainer.logger.history.items()
    }
    return {"epoch": epoch, **fit.state(trainer, plan), "history": history, "random": random_state()}


def _restore(state: dict[str, Any], trainer: Any, plan: Any, fit: _PyroFit | _TorchFit) -> None:
    """Put a fit where `_state` saved it."""
    import pandas as pd

    fit.restore(state, trainer, plan)
    for name, rows in state["history"].items():
        index = pd.Index(rows["at"], name=rows["axis"])
        trainer.logger.experiment.data[name] = pd.DataFrame({name: rows["values"]}, index=index)
    set_random_state(state["random"])
