"""Train many small MLPs at once: their weights are stacked to (S, in, out) and multiplied as a batch.

Every model of the stack has its own rows, scaler, labels, random stream and number of epochs, and gets the numbers it
would get alone, to rounding: the loss is a sum over models, the optimiser works element by element, and a model that
has done its epochs leaves the stack. On a GPU all models are in one stack; on a CPU as many as its cache holds.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from histoloom.checkpoints import Checkpoint
from histoloom.devices import device_kind
from histoloom.inputs.scaling import Scaler
from histoloom.models.network import MLPSpec, forward, initial_layers, losses
from histoloom.targets.base import section_score

logger = logging.getLogger(__name__)
_CACHE_BYTES = 32e6


class Rows(NamedTuple):
    """Observations of one part: rows among the features, rows among the labels, sections."""

    x: np.ndarray
    y: np.ndarray
    section: np.ndarray

    def take(self, rows: np.ndarray) -> Rows:
        return Rows(self.x[rows], self.y[rows], self.section[rows])


@dataclass(frozen=True)
class Member:
    """One model of a stack, with the scaling of features and (T,) labels that was fitted on its training rows.

    `stream` is the seed of its start, its shuffles and its dropout, in this order: the same whatever else is in the
    stack. With validation rows the epoch with the best score is kept, without them the last.
    """

    fold: str
    seed: int
    stream: int
    train: Rows
    val: Rows | None
    scaler: Scaler
    y_mean: np.ndarray
    y_scale: np.ndarray
    epochs: int


@dataclass
class Trained:
    """A trained model: ``layers`` of (in, out) weights and (out,) biases, ``epochs`` kept, scores and losses by epoch.

    `train_loss` is the mean over an epoch's batches, `curve` and `val_loss` are of the validation rows after it.
    """

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    epochs: int
    curve: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)


class Runner:
    """A member on its way: its stream, the batches of its epoch, its best so far."""

    def __init__(self, member: Member, sizes: Sequence[int], spec: MLPSpec) -> None:
        self.member = member
        self.generator = torch.Generator().manual_seed(member.stream)
        self.start = initial_layers(sizes, spec.init, self.generator)
        self.per_epoch = -(-len(member.train.x) // spec.batch_size)
        self.steps = self.per_epoch * member.epochs
        self.rows = torch.from_numpy(member.train.x)
        self.label_rows = torch.from_numpy(member.train.y)
        self.batches: list[torch.Tensor] = []
        self.best: Trained | None = None
        self.curve: list[float] = []
        self.train_loss: list[float] = []
        self.val_loss: list[float] = []

    def next_batch(self) -> torch.Tensor:
        """Return the next batch's positions; shuffled, in equal batches, so that none is too small to correlate."""
        if not self.batches:
            order = torch.randperm(len(self.rows), generator=self.generator)
            self.batches = list(torch.tensor_split(order, self.per_epoch))
        return self.batches.pop(0)


class Stack:
    """Features and labels on the device, the members that train now, their weights and optimiser.

    `done` holds trained members by their number among `runners`.
    """

    def __init__(
        self,
        features: np.ndarray,
        values: np.ndarray,
        members: Sequence[Member],
        spec: MLPSpec,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.spec, self.device, self.dtype, self.raw_values = spec, device, dtype, values
        self.features = torch.from_numpy(np.ascontiguousarray(features)).to(device, dtype)
        self.values = torch.from_numpy(values).to(device, dtype)
        sizes = [features.shape[1], *[spec.width] * spec.hidden_layers, values.shape[1]]
        self.everyone = [Runner(member, sizes, spec) for member in members]
        self.done: dict[int, Trained] = {}
        self.runners: list[Runner] = []
        self.parameters: list[torch.Tensor] = []
        weights = dtype.itemsize * sum(a * b for a, b in itertools.pairwise(sizes))
        self.most = len(members) if device_kind(device) == "cuda" else max(1, int(_CACHE_BYTES / weights))

    def start_next(self) -> None:
        """Take up members that wait."""
        waiting = [runner for i, runner in enumerate(self.everyone) if i not in self.done][: self.most]
        layers = zip(*(runner.start for runner in waiting), strict=True)
        parts = [[torch.stack(part) for part in zip(*layer, strict=True)] for layer in layers]
        self.take(waiting, [*(weight for weight, _ in parts), *(bias[:, None] for _, bias in parts)])

    def take(
        self, runners: list[Runner], tensors: Sequence[torch.Tensor], memory: Sequence[Mapping[str, torch.Tensor]] = ()
    ) -> None:
        """Train these members, with these weights and biases and the optimiser's memory of each."""
        self.runners = runners
        tensors = [tensor.to(self.device, self.dtype) for tensor in tensors]
        self.parameters = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        self.epoch_loss = torch.zeros(len(runners), dtype=self.dtype, device=self.device)
        # Fused: one pass over weights, gradients and memory instead of one for each operation.
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=self.spec.lr, weight_decay=self.spec.weight_decay, fused=True
        )
        for parameter, state in zip(self.parameters, memory, strict=False):
            self.optimiser.state[parameter] = {name: value.to(self.device).clone() for name, value in state.items()}
        scales = [(m.scaler.mean, m.scaler.scale, m.y_mean, m.y_scale) for m in (runner.member for runner in runners)]
        self.mean, self.scale, self.y_mean, self.y_scale = (
            torch.from_numpy(np.stack(column)).to(self.device, self.dtype)[:, None]
            for column in zip(*scales, strict=True)
        )

    @property
    def layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the (S, in, out) weights and (S, 1, out) biases."""
        depth = len(self.parameters) // 2
        return list(zip(self.parameters[:depth], self.parameters[depth:], strict=True))

    def keep(self, positions: list[int]) -> None:
        """Go on with some members only, their optimiser's memory included."""
        if not positions:
            self.runners, self.parameters = [], []
            return
        old = [self.optimiser.state[p] for p in self.parameters]
        index = torch.tensor(positions, device=self.device)
        # The count of steps is one number for all members.
        memory = [{name: value[index] if value.ndim else value for name, value in state.items()} for state in old]
        losses = self.epoch_loss[index]
        self.take([self.runners[i] for i in positions], [p[index] for p in self.parameters], memory)
        self.epoch_loss = losses

    def step(self, step: int) -> None:
        """Train every member on its next batch; `step` counts from 1."""
        each = [(runner, runner.next_batch()) for runner in self.runners]
        rows = torch.nn.utils.rnn.pad_sequence([r.rows[batch] for r, batch in each], batch_first=True)
        label_rows = torch.nn.utils.rnn.pad_sequence([r.label_rows[batch] for r, batch in each], batch_first=True)
        sizes = torch.tensor([len(batch) for _, batch in each])
        mask = (torch.arange(rows.shape[1]) < sizes[:, None]).to(self.device, self.dtype)
        x = (self.features[rows.to(self.device)] - self.mean) / self.scale
        y = (self.values[label_rows.to(self.device)] - self.y_mean) / self.y_scale
        dropout = self.spec.dropout

        def draw(width: int) -> torch.Tensor:
            # On the CPU: the same on any device. For its own rows: a member's draws do not depend on others' batches.
            kept = [
                (torch.rand((len(batch), width), generator=runner.generator) >= dropout).float() / (1 - dropout)
                for runner, batch in each
            ]
            return torch.nn.utils.rnn.pad_sequence(kept, batch_first=True).to(self.device, self.dtype)

        prediction = forward(x, self.layers, draw if dropout else None, norm=self.spec.norm)
        for group in self.optimiser.param_groups:
            group["lr"] = self.spec.lr * min(1.0, step / max(self.spec.warmup_steps, 1))
        self.optimiser.zero_grad(set_to_none=True)
        loss = losses(prediction, y, mask, self.spec)
        loss.sum().backward()
        self.optimiser.step()
        # Read at the end of an epoch only: to look at every step would make a GPU wait.
        self.epoch_loss += loss.detach()

    def end_epochs(self, step: int) -> None:
        """Validate members at the end of their epoch; those that have done all leave the stack."""
        ending = [position for position, runner in enumerate(self.runners) if not runner.batches]
        sums, leaving = self.epoch_loss[ending].tolist() if ending else [], []
        for position, total in zip(ending, sums, strict=True):
            runner = self.runners[position]
            runner.train_loss.append(total / runner.per_epoch)
            self.epoch_loss[position] = 0
            if runner.member.val is not None:
                score, loss = self.validate(position)
                if runner.best is None or score > max(runner.curve):
                    runner.best = Trained(self.member_layers(position), step // runner.per_epoch)
                runner.curve.append(score)
                runner.val_loss.append(loss)
            if step >= runner.steps:
                trained = runner.best or Trained(self.member_layers(position), runner.member.epochs)
                trained.curve, trained.train_loss, trained.val_loss = runner.curve, runner.train_loss, runner.val_loss
                self.done[self.everyone.index(runner)] = trained
                leaving.append(position)
        if leaving:
            self.keep([i for i in range(len(self.runners)) if i not in leaving])

    def member_layers(self, position: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return a copy of one member's (in, out) weights and (out,) biases."""
        return [(w[position].detach().clone(), b[position, 0].detach().clone()) for w, b in self.layers]

    def validate(self, position: int) -> tuple[float, float]:
        """Return the member's validation score, a correlation, which needs no scaling back, and its loss."""
        val = self.runners[position].member.val
        assert val is not None
        x = (self.features[torch.from_numpy(val.x)] - self.mean[position]) / self.scale[position]
        with torch.no_grad():
            one = [(w[position : position + 1], b[position : position + 1]) for w, b in self.layers]
            prediction = forward(x[None], one, norm=self.spec.norm)
            y = (self.values[torch.from_numpy(val.y)] - self.y_mean[position]) / self.y_scale[position]
            loss = float(losses(prediction, y[None], torch.ones_like(prediction[..., 0]), self.spec))
        plain = prediction[0].double().cpu().numpy()
        return section_score(plain, self.raw_values[val.y], val.section), loss

    def state(self, step: int) -> dict[str, Any]:
        """Return all that the rest of the training depends on."""
        return {
            "step": step,
            "alive": [self.everyone.index(runner) for runner in self.runners],
            "parameters": [p.detach() for p in self.parameters],
            "optimiser": [dict(self.optimiser.state[p]) for p in self.parameters],
            "epoch_loss": self.epoch_loss,
            "runners": [
                {
                    "generator": runner.generator.get_state(),
                    "batches": list(runner.batches),
                    "best": None if runner.best is None else asdict(runner.best),
                    "curves": [list(curve) for curve in (runner.curve, runner.train_loss, runner.val_loss)],
                }
                for runner in self.everyone
            ],
            "done": {number: asdict(trained) for number, trained in self.done.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> int:
        """Put a training where `state` found it; return the steps that its members have done."""
        for runner, saved in zip(self.everyone, state["runners"], strict=True):
            runner.generator.set_state(saved["generator"])
            runner.batches = list(saved["batches"])
            runner.curve, runner.train_loss, runner.val_loss = map(list, saved["curves"])
            runner.best = None if saved["best"] is None else self._trained(saved["best"])
        self.done = {number: self._trained(trained) for number, trained in state["done"].items()}
        if state["alive"]:
            self.take([self.everyone[i] for i in state["alive"]], state["parameters"], state["optimiser"])
            self.epoch_loss = state["epoch_loss"].to(self.device)
        return int(state["step"])

    def _trained(self, saved: Mapping[str, Any]) -> Trained:
        layers = [(weight.to(self.device), bias.to(self.device)) for weight, bias in saved["layers"]]
        curves = (list(saved[name]) for name in ("curve", "train_loss", "val_loss"))
        return Trained(layers, int(saved["epochs"]), *curves)


def train_stack(
    features: np.ndarray,
    values: np.ndarray,
    members: Sequence[Member],
    spec: MLPSpec,
    device: str,
    dtype: torch.dtype = torch.float32,
    checkpoint: Checkpoint | None = None,
) -> list[Trained]:
    """Train members together on (n, D) unscaled features and (m, T) labels; return them in order.

    The state is kept in the checkpoint, and taken from it if an earlier try left one.
    """
    if not members:
        return []
    stack = Stack(features, values, members, spec, device, dtype)
    saved = checkpoint.load() if checkpoint is not None else None
    step = stack.restore(saved) if saved is not None else 0
    logged = start = time.monotonic()
    with checkpoint or contextlib.nullcontext():
        while len(stack.done) < len(members):
            if not stack.runners:
                stack.start_next()
                step = 0
            step += 1
            stack.step(step)
            stack.end_epochs(step)
            progress = f"step {step}, {len(stack.done)} of {len(members)} models trained"
            if checkpoint is not None:
                checkpoint.tick(partial(stack.state, step), progress)
            if time.monotonic() - logged > 10:
                logged = time.monotonic()
                logger.info("%s, %.0f s", progress, logged - start)
    return [stack.done[number] for number in range(len(members))]


def member_facts(members: Sequence[Member]) -> list[list[Any]]:
    """Return what tells the members of a stack from those of another: a checkpoint of others is not used."""
    return [
        [m.fold, m.seed, m.stream, m.epochs, len(m.train.x), -1 if m.val is None else len(m.val.x)] for m in members
    ]
