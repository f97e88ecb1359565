"""Train many small MLPs at once: their weights are stacked to (S, in, out) and multiplied as a batch.

Every model of the stack has its own rows, scaler, labels, random stream and number of epochs, and gets the numbers it
would get alone, to rounding: the loss is a sum over models, the optimiser works element by element, and a model that
has done its epochs leaves the stack.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from histoloom.checkpoints import Checkpoint
from histoloom.inputs.scaling import Scaler
from histoloom.models.network import MLPSpec, forward, initial_layers, losses
from histoloom.targets.base import section_score

logger = logging.getLogger(__name__)


class Rows(NamedTuple):
    """Observations of one part: rows among the features, rows among the labels, sections."""

    x: np.ndarray
    y: np.ndarray
    section: np.ndarray

    def take(self, rows: np.ndarray) -> Rows:
        """Return a subset."""
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
    """A trained model: ``layers`` of (in, out) weights and (out,) biases, ``epochs`` kept, scores by epoch."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    epochs: int
    curve: list[float] = field(default_factory=list)


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

    def next_batch(self) -> torch.Tensor:
        """Return the next batch's positions; shuffled, in equal batches, so that none is too small to correlate."""
        if not self.batches:
            order = torch.randperm(len(self.rows), generator=self.generator)
            self.batches = list(torch.tensor_split(order, self.per_epoch))
        return self.batches.pop(0)


class Stack:
    """Weights of the members still training, and their optimiser."""

    def __init__(self, runners: Sequence[Runner], spec: MLPSpec, data: _Data) -> None:
        self.spec, self.data = spec, data
        depth = len(runners[0].start)
        weights = [torch.stack([r.start[i][0] for r in runners]) for i in range(depth)]
        biases = [torch.stack([r.start[i][1] for r in runners])[:, None] for i in range(depth)]
        self.take(list(runners), (*weights, *biases))

    def take(
        self, runners: list[Runner], tensors: Sequence[torch.Tensor], memory: Sequence[Mapping[str, torch.Tensor]] = ()
    ) -> None:
        """Train these members, with these weights and biases and the optimiser's memory of each."""
        self.runners = runners
        tensors = [tensor.to(self.data.device, self.data.dtype) for tensor in tensors]
        self.parameters = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=self.spec.lr, weight_decay=self.spec.weight_decay)
        members = [runner.member for runner in runners]
        put = self.data.put
        self.mean = put([m.scaler.mean for m in members])[:, None]
        self.scale = put([m.scaler.scale for m in members])[:, None]
        self.y_mean = put([m.y_mean for m in members])[:, None]
        self.y_scale = put([m.y_scale for m in members])[:, None]
        for parameter, state in zip(self.parameters, memory, strict=False):
            # The count of steps stays on the CPU, where the optimiser has it.
            self.optimiser.state[parameter] = {
                k: v.clone() if k == "step" else v.to(self.data.device, self.data.dtype).clone()
                for k, v in state.items()
            }

    @property
    def layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the (S, in, out) weights and (S, 1, out) biases."""
        depth = len(self.parameters) // 2
        return list(zip(self.parameters[:depth], self.parameters[depth:], strict=True))

    def keep(self, positions: list[int]) -> None:
        """Go on with some members only, their optimiser's memory included."""
        old = [self.optimiser.state[p] for p in self.parameters]
        index = torch.tensor(positions, device=self.data.device)
        memory = [{k: v.clone() if k == "step" else v[index] for k, v in state.items()} for state in old]
        self.take([self.runners[i] for i in positions], [p[index] for p in self.parameters], memory)

    def step(self) -> None:
        """Train every member on its next batch."""
        batches = [runner.next_batch() for runner in self.runners]
        each = list(zip(self.runners, batches, strict=True))
        rows = torch.nn.utils.rnn.pad_sequence([r.rows[batch] for r, batch in each], batch_first=True)
        label_rows = torch.nn.utils.rnn.pad_sequence([r.label_rows[batch] for r, batch in each], batch_first=True)
        sizes = torch.tensor([len(batch) for batch in batches])
        mask = (torch.arange(rows.shape[1]) < sizes[:, None]).to(self.data.device, self.data.dtype)
        x = (self.data.features[rows.to(self.data.device)] - self.mean) / self.scale
        y = self.data.values[label_rows.to(self.data.device)]
        y = (y - self.y_mean) / self.y_scale
        dropout = self.spec.dropout

        def draw(width: int) -> torch.Tensor:
            # On the CPU: the same on any device. For its own rows: a member's draws do not depend on others' batches.
            kept = [
                (torch.rand((len(batch), width), generator=runner.generator) >= dropout).float() / (1 - dropout)
                for runner, batch in each
            ]
            return torch.nn.utils.rnn.pad_sequence(kept, batch_first=True).to(self.data.device, self.data.dtype)

        prediction = forward(x, self.layers, draw if dropout else None)
        self.optimiser.zero_grad(set_to_none=True)
        losses(prediction, y, mask, self.spec).sum().backward()
        self.optimiser.step()

    def member_layers(self, position: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return a copy of one member's (in, out) weights and (out,) biases."""
        return [(w[position].detach().clone(), b[position, 0].detach().clone()) for w, b in self.layers]

    def validate(self, position: int) -> float:
        """Return the member's validation score, a correlation, which needs no scaling back."""
        val = self.runners[position].member.val
        assert val is not None
        x = (self.data.features[torch.from_numpy(val.x)] - self.mean[position]) / self.scale[position]
        with torch.no_grad():
            one = [(w[position : position + 1], b[position : position + 1]) for w, b in self.layers]
            prediction = forward(x[None], one)[0].double().cpu().numpy()
        return section_score(prediction, self.data.raw_values[val.y], val.section)


class _Data:
    """Features and labels on the device."""

    def __init__(self, features: np.ndarray, values: np.ndarray, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.features = torch.from_numpy(np.ascontiguousarray(features)).to(device, dtype)
        self.values = torch.from_numpy(values).to(device, dtype)
        self.raw_values = values

    def put(self, arrays: Sequence[np.ndarray]) -> torch.Tensor:
        """Return stacked arrays on the device."""
        return torch.from_numpy(np.stack(arrays)).to(self.device, self.dtype)


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
    sizes = [features.shape[1], *[spec.width] * spec.hidden_layers, values.shape[1]]
    runners = [Runner(member, sizes, spec) for member in members]
    stack = Stack(runners, spec, _Data(features, values, device, dtype))
    done: dict[int, Trained] = {}
    saved = checkpoint.load() if checkpoint is not None else None
    first = restore_state(saved, stack, runners, done) if saved is not None else 0
    total = max(r.steps for r in runners)
    with checkpoint or contextlib.nullcontext():
        for step in _log_progress(range(first + 1, total + 1), total, stack):
            stack.step()
            leaving = _end_epochs(stack, step)
            for position in leaving:
                runner = stack.runners[position]
                trained = runner.best or Trained(stack.member_layers(position), runner.member.epochs)
                trained.curve = runner.curve
                done[runners.index(runner)] = trained
            if leaving and len(leaving) < len(stack.runners):
                stack.keep([i for i in range(len(stack.runners)) if i not in leaving])
            if checkpoint is not None:
                checkpoint.tick(partial(stack_state, stack, runners, done, step), f"step {step} of {total}")
    return [done[position] for position in range(len(runners))]


def _log_progress(steps: Iterable[int], total: int, stack: Stack) -> Iterator[int]:
    """Yield steps, and write to the log every ten seconds how far they are."""
    logged = start = time.monotonic()
    for step in steps:
        yield step
        if time.monotonic() - logged > 10:
            logged = time.monotonic()
            logger.info("step %d of %d, %d models, %.0f s", step, total, len(stack.runners), logged - start)


def _end_epochs(stack: Stack, step: int) -> list[int]:
    """Validate members at the end of an epoch; return the positions of those that have done all."""
    leaving = []
    for position, runner in enumerate(stack.runners):
        if runner.batches:  # of this epoch
            continue
        if runner.member.val is not None:
            score = stack.validate(position)
            if runner.best is None or score > max(runner.curve):
                runner.best = Trained(stack.member_layers(position), step // runner.per_epoch)
            runner.curve.append(score)
        if step >= runner.steps:
            leaving.append(position)
    return leaving


def member_facts(members: Sequence[Member]) -> list[list[Any]]:
    """Return what tells the members of a stack from those of another: a checkpoint of others is not used."""
    return [
        [m.fold, m.seed, m.stream, m.epochs, len(m.train.x), -1 if m.val is None else len(m.val.x)] for m in members
    ]


def stack_state(stack: Stack, runners: Sequence[Runner], done: Mapping[int, Trained], step: int) -> dict[str, Any]:
    """Return all that the rest of a training depends on; `done` has members that are finished, by position."""
    return {
        "step": step,
        "alive": [runners.index(runner) for runner in stack.runners],
        "parameters": [p.detach() for p in stack.parameters],
        "optimiser": [dict(stack.optimiser.state[p]) for p in stack.parameters],
        "runners": [
            {
                "generator": runner.generator.get_state(),
                "batches": list(runner.batches),
                "best": None if runner.best is None else asdict(runner.best),
                "curve": list(runner.curve),
            }
            for runner in runners
        ],
        "done": {position: asdict(trained) for position, trained in done.items()},
    }


def restore_state(state: Mapping[str, Any], stack: Stack, runners: Sequence[Runner], done: dict[int, Trained]) -> int:
    """Put a training where `stack_state` found it; return the steps done."""
    for runner, saved in zip(runners, state["runners"], strict=True):
        runner.generator.set_state(saved["generator"])
        runner.batches = list(saved["batches"])
        runner.best = None if saved["best"] is None else _trained(saved["best"], stack)
        runner.curve = list(saved["curve"])
    stack.take([runners[i] for i in state["alive"]], state["parameters"], state["optimiser"])
    done.update({position: _trained(trained, stack) for position, trained in state["done"].items()})
    return int(state["step"])


def _trained(saved: Mapping[str, Any], stack: Stack) -> Trained:
    layers = [(weight.to(stack.data.device), bias.to(stack.data.device)) for weight, bias in saved["layers"]]
    return Trained(layers, int(saved["epochs"]), list(saved["curve"]))
