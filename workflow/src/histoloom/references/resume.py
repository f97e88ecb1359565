"""Saving and going on with a pyro fit that scvi-tools trains through Lightning."""

from __future__ import annotations

import logging
from typing import Any

from histoloom.checkpoints import Checkpoint, random_state, set_random_state

logger = logging.getLogger(__name__)


def resuming(checkpoint: Checkpoint) -> Any:
    """Return a callback that saves a fit's state between epochs, and takes up the state that an earlier try left.

    Saved are pyro's parameters, each parameter's optimiser, all random generators, the history and the epoch, at the
    start of an epoch: before the loader draws its order, after the last epoch's loss is in the history. They are taken
    up at the same point. Lightning's own checkpoints cannot serve: the guide makes its parameters in its first call,
    after Lightning would load them, and their optimisers live in pyro.
    """
    import lightning.pytorch as pl

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
                _restore(self.saved, trainer, pl_module)
                self.saved = None
            elif epoch:
                checkpoint.tick(lambda: _state(trainer, pl_module, epoch), f"epoch {epoch} of {trainer.max_epochs}")

    return Resuming()


def _state(trainer: Any, plan: Any, epoch: int) -> dict[str, Any]:
    import pyro

    history = {
        name: {"axis": frame.index.name, "at": [int(i) for i in frame.index], "values": [float(v) for v in frame[name]]}
        for name, frame in trainer.logger.history.items()
    }
    return {
        "epoch": epoch,
        "parameters": {name: value.detach() for name, value in pyro.get_param_store().named_parameters()},
        "optimisers": plan.optim.get_state(),
        "history": history,
        "random": random_state(),
    }


def _restore(state: dict[str, Any], trainer: Any, plan: Any) -> None:
    """Put a fit where `_state` saved it. Parameters are copied in place: guide, store and optimisers share them."""
    import pandas as pd
    import pyro
    import torch

    with torch.no_grad():
        for name, value in pyro.get_param_store().named_parameters():
            value.copy_(state["parameters"][name])
    plan.optim.set_state(state["optimisers"])
    for name, rows in state["history"].items():
        index = pd.Index(rows["at"], name=rows["axis"])
        trainer.logger.experiment.data[name] = pd.DataFrame({name: rows["values"]}, index=index)
    set_random_state(state["random"])
