"""The training loop: a loss that is not finite is named, and nothing is read from the device step by step."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch

from error_codes import has_code
from histoloom.checkpoints import Checkpoints
from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.models.training import Task, TrainingSpec, train
from histoloom.targets import kind_of

N, BATCH = 24, 4


def fold() -> FoldData:
    obs = pd.DataFrame({"cohort": "c", "sample": "s", "patient": "p", "obs_id": np.arange(N).astype(str)})
    zeros = np.zeros(N, np.intp)
    part = Part(Inputs(obs, {}, np.arange(N)), np.zeros((N, 1), np.float32), zeros, zeros)
    return FoldData("patient-A", part, None, kind_of("abundance"), ("t",), seed=0)


class Toy(Task):
    """One weight; its loss is not a number at one step."""

    def __init__(self, bad: int | None) -> None:
        self.network, self.bad, self.done = torch.nn.Linear(1, 1, bias=False), bad, 0

    def optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), lr=0.1)

    def loss(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        loss = self.network(torch.ones(len(rows), 1)).square().mean()
        self.done += 1
        return loss * float("nan") if self.done - 1 == self.bad else loss


def fit(bad: int | None, batch: int = BATCH, **job) -> None:
    train(lambda data: Toy(bad), fold(), JobContext(**job), TrainingSpec(batch, 3), 3, "fit")


def numbers(stopped: pytest.ExceptionInfo[InputError]) -> list[int]:
    """Epoch and batch that an error names."""
    return [int(word) for word in re.findall(r"\d+", stopped.value.problem)]


@pytest.mark.parametrize("bad", [0, 2, 5, 6, 9])
def test_the_first_loss_that_is_not_finite_is_named(bad):
    epoch, batch = divmod(bad, N // BATCH)
    with pytest.raises(InputError, check=has_code("loss-not-finite")) as stopped:
        fit(bad)
    assert (stopped.value.where, numbers(stopped)) == ("patient-A", [epoch + 1, batch + 1])


def test_a_loss_is_not_read_at_every_step(monkeypatch):
    """On a GPU each look would wait for the step to end."""
    looks = []
    for name in ("item", "__float__", "__bool__", "cpu", "tolist"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda t, *a, own=own, **k: (looks.append(t.shape), own(t, *a, **k))[1])
    counts = []
    for batch in (2, 12):
        looks.clear()
        fit(None, batch)
        counts.append(len(looks))
    assert counts[0] == counts[1] > 0


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps_also_after_an_interruption(tmp_path, monkeypatch):
    steps = []
    own = Toy.loss
    monkeypatch.setattr(Toy, "loss", lambda self, *a: steps.append(own(self, *a)) or steps[-1])
    whole, resumed = {}, {}
    fit(None, record=whole)
    (curve,) = whole["curves"]
    expected = np.reshape([float(loss.detach()) for loss in steps], (3, N // BATCH)).mean(axis=1)
    np.testing.assert_allclose(curve["train_loss"], expected, atol=1e-5)
    monkeypatch.setenv("HISTOLOOM_CHECKPOINT_SECONDS", "0")
    with pytest.raises(InputError, check=has_code("loss-not-finite")):
        fit(8, checkpoints=Checkpoints(tmp_path, "a"))
    fit(None, checkpoints=Checkpoints(tmp_path, "a"), record=resumed)
    assert resumed["curves"] == whole["curves"]


def test_weights_that_are_not_numbers_are_never_kept(tmp_path, monkeypatch):
    """A try that goes on from a checkpoint counts the epoch's batches from its start."""
    monkeypatch.setenv("HISTOLOOM_CHECKPOINT_SECONDS", "0")
    with pytest.raises(InputError, check=has_code("loss-not-finite")) as stopped:
        fit(2, checkpoints=Checkpoints(tmp_path, "a"))
    assert numbers(stopped) == [1, 3]
    assert list(tmp_path.glob("*.ckpt"))
    # The kept state is that after two batches; the next try meets its third step at batch 5.
    with pytest.raises(InputError, check=has_code("loss-not-finite")) as stopped:
        fit(2, checkpoints=Checkpoints(tmp_path, "a"))
    assert numbers(stopped) == [1, 5]
