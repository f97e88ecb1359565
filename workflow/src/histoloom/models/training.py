"""Training a network on one fold: one loop for every model that is trained by steps.

Lightning Fabric carries device and precision; the loop owns epochs, selection and checkpoints. A fit that was
interrupted and goes on equals an unbroken one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

import histoloom.torch_compat  # noqa: F401 - before lightning, which imports torchvision
from histoloom.checkpoints import Checkpoint, random_state, set_random_state
from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.models.base import Arrays, Fitted, FoldData, JobContext, Model, Part, Predictions, Spec
from histoloom.models.selection import choose

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class TrainingSpec(Spec):
    """Keys that every model has that is trained by steps."""

    batch_size: int
    epochs: int
    precision: str = "32-true"
    select_by: Literal["score", "loss"] = "score"

    def network(self, n_outputs: int) -> Any:
        """Return the untrained network, where these settings and its output's width decide it."""
        raise NotImplementedError


class Task:
    """What a model adds to the loop: network, optimiser, loss and, where they differ, batches and schedule.

    `network` is all that is trained, as one module on the CPU; the loop moves it, and wraps it for its precision.
    `memory_format` is that of its weights on a GPU. The loop sets `batch_size`.
    """

    network: Any
    spec: Any
    optimiser_type: ClassVar[Any] = torch.optim.AdamW
    batch_size: int = 32
    memory_format: torch.memory_format | None = None

    def optimiser(self) -> torch.optim.Optimizer:
        """Return `optimiser_type` on every parameter, biases and norms too, with the settings' rate and decay."""
        return self.optimiser_type(self.network.parameters(), lr=self.spec.lr, weight_decay=self.spec.weight_decay)

    def start_epoch(self, optimiser: torch.optim.Optimizer, epoch: int) -> None:
        """Set what changes by epoch (from 0), such as the learning rate."""

    def start_step(self, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Set what changes by step (from 0, over all epochs)."""

    def batches(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Return the epoch's batches of training rows; shuffled, in order of use."""
        return list(torch.randperm(n, generator=generator).split(self.batch_size))

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch, whose rows of the training part are given (on the CPU)."""
        raise NotImplementedError

    def predict_inputs(self, inputs: Inputs) -> Predictions:
        """Return (n, T) of validation observations, in evaluation mode."""
        raise NotImplementedError

    def validation_loss(self, part: Part) -> float:
        """Return the mean loss of validation observations, in evaluation mode, with the same draws at every call."""
        raise NotImplementedError

    def arrays(self) -> Arrays:
        """Return what prediction needs besides the weights; asked for when the kept ones are in the network."""
        return {}


MEMORY_SHARE = 0.5
"""Share of a GPU's free memory that training inputs may take."""


def fits_on_gpu(n_bytes: int, device: str) -> bool:
    """Whether a device is a GPU with room for inputs; on a CPU a mapped file is memory already, shared by jobs."""
    return device.startswith("cuda") and n_bytes < MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def cosine(start: float, end: float, share: float) -> float:
    """Return the value on a half cosine wave between two, at a share of the way."""
    return float(end + (start - end) * (1 + np.cos(np.pi * share)) / 2)


@dataclass
class TrainedNetwork:
    """A trained network's ``state``, the ``epoch`` kept (from 1) and validation scores by epoch."""

    state: dict[str, Tensor]
    epoch: int
    curve: list[float]
    task: Task


def fit_selected(
    make: Callable[[FoldData], Task], data: FoldData, job: JobContext, spec: TrainingSpec
) -> tuple[Arrays, dict[str, Any]]:
    """Fit one fold under the experiment's selection; return what is saved and the choices ``how`` and ``epochs``.

    `make` makes the task of a training part; called once per training, after the global generators are seeded.
    """
    best: list[TrainedNetwork] = []

    def by_score() -> int:
        if data.rule == "val":
            best.append(train(make, data, job, spec, spec.epochs, "fit"))
            return best[0].epoch
        curves = []
        for number, (train_rows, val_rows) in enumerate(data.inner()):
            inner = replace(data, train=data.train.take(train_rows), val=data.train.take(val_rows))
            curves.append(train(make, inner, job, spec, spec.epochs, f"inner{number}").curve)
        return int(np.argmax(np.mean(curves, axis=0))) + 1

    choices = choose(data, "epochs", spec.epochs, by_score)
    trained = best[0] if best else train(make, replace(data, val=None), job, spec, choices["epochs"], "fit")
    trained.task.network.load_state_dict(trained.state)
    weights = {f"network/{name}": value.numpy() for name, value in trained.state.items()}
    return {**weights, **trained.task.arrays()}, choices


class NetworkModel(Model):
    """A model that is trained by steps; a `task_type` is made from spec, training part and device."""

    task_type: ClassVar[Any]

    def fit(self, data: FoldData, job: JobContext) -> Fitted:
        self.check(data)
        arrays, choices = fit_selected(lambda part: self.task_type(self.spec, part, job.device), data, job, self.spec)
        return self.restore(arrays, choices)

    def check(self, data: FoldData) -> None:
        """Refuse, before hours of training, what could not be predicted with."""


class FittedNetwork(Fitted):
    """A trained network; `last_bias` names the array that is as long as its output is wide."""

    last_bias: ClassVar[str]

    def network(self, device: str) -> Any:
        return self.load(self.spec.network(len(self.arrays[self.last_bias])), device)

    def load(self, network: Any, device: str) -> Any:
        """Give an untrained network its weights and move it to a device."""
        parts = ((name.partition("network/"), array) for name, array in self.arrays.items())
        network.load_state_dict({name: torch.from_numpy(np.array(a)) for (_, start, name), a in parts if start})
        return network.to(device)


def open_fabric(device: str, precision: str) -> Fabric:
    """Return Fabric on the leased device; 16-bit precision on a CPU is refused by name."""
    from lightning.fabric import Fabric

    kind, _, number = device.partition(":")
    if kind == "cpu" and precision == "16-mixed":
        raise InputError("precision", "16-mixed needs a GPU.", "use 32-true or bf16-mixed.", code="precision-device")
    accelerator, devices = ("cuda", [int(number or 0)]) if kind == "cuda" else ("cpu", 1)
    return Fabric(accelerator=accelerator, devices=devices, precision=precision)  # type: ignore[arg-type]


def train(
    make: Callable[[FoldData], Task], data: FoldData, job: JobContext, spec: TrainingSpec, epochs: int, word: str
) -> TrainedNetwork:
    """Train for a number of epochs; with validation observations the epoch with the best score is kept.

    A loss that is not finite is an InputError with epoch and batch, at the end of its epoch or when the next checkpoint
    is due; the last checkpoint stays.
    """
    stream = data.stream(word)
    torch.manual_seed(stream)
    torch.backends.cudnn.deterministic = True
    generator = torch.Generator().manual_seed(stream)
    task = make(data)
    task.batch_size = spec.batch_size
    fabric = open_fabric(job.device, spec.precision)
    if job.device.startswith("cuda") and task.memory_format is not None:
        task.network.to(memory_format=task.memory_format)
    network, optimiser = fabric.setup(task.network, task.optimiser())
    task.network = network
    state = _Progress(data.name, network, optimiser, generator, fabric.strategy.precision)
    facts = [word, data.name, data.seed, epochs, len(data.train), 0 if data.val is None else len(data.val)]
    start, seen = time.perf_counter(), 0
    with job.checkpoint(f"{word}-{data.name}-{data.seed}", facts) as checkpoint:
        if checkpoint is not None and (saved := checkpoint.load()) is not None:
            state.restore(saved)
        while state.epoch < epochs:
            network.train()
            if not state.batches:
                state.batches = task.batches(len(data.train), generator)
                state.batch = 0
            task.start_epoch(optimiser, state.epoch)
            while state.batches:
                rows = state.batches.pop(0)
                task.start_step(optimiser, state.step)
                loss = task.loss(rows, generator)
                optimiser.zero_grad()
                fabric.backward(loss)
                optimiser.step()
                state.count(loss)
                seen += len(rows)
                if state.batches:
                    state.tick(checkpoint, epochs)
            state.end_losses()
            state.epoch += 1
            _end_epoch(state, task, data, job, epochs, spec.select_by)
            state.tick(checkpoint, epochs)
    seconds = time.perf_counter() - start
    job.record["epochs"] = job.record.get("epochs", 0) + state.epoch
    job.record["examples"] = job.record.get("examples", 0) + seen
    job.record["examples_per_s"] = round(seen / seconds, 2)
    job.log.info("%s: %d epochs, %.1f examples/s", data.name, state.epoch, seen / seconds)
    scored = {"val_loss": [-v for v in state.curve]} if spec.select_by == "loss" else {"val_score": state.curve}
    job.record_curves(data.name, data.seed, word, train_loss=state.train_loss, **scored)
    return TrainedNetwork(state.best or _weights(network), state.best_epoch or state.epoch, state.curve, task)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _end_epoch(state: _Progress, task: Task, data: FoldData, job: JobContext, epochs: int, select_by: str) -> None:
    if data.val is None:
        return
    if select_by == "loss":
        score = -task.validation_loss(data.val)
    else:
        score = data.target.selection_score(task.predict_inputs(data.val.inputs), data.val.y, data.val.section)
    if not state.curve or score > max(state.curve):
        state.best, state.best_epoch = _weights(task.network), state.epoch
    state.curve.append(score)
    job.log.info("%s: epoch %d of %d, validation score %.4f", data.name, state.epoch, epochs, score)


class _Progress:
    """How far a training is: epochs and steps, batches done and left in this epoch, scores, the best weights so far."""

    def __init__(self, fold: str, network: Any, optimiser: Any, generator: torch.Generator, precision: Any) -> None:
        self._parts = {"network": network, "optimiser": optimiser, "precision": precision}
        self._fold, self._generator = fold, generator
        self._losses: list[Tensor] = []
        self.epoch = 0
        self.step = 0
        self.batch = 0
        self.batches: list[Tensor] = []
        self.curve: list[float] = []
        self.train_loss: list[float] = []
        self.loss_sum = 0.0
        self.best: dict[str, Tensor] | None = None
        self.best_epoch = 0

    def count(self, loss: Tensor) -> None:
        """Note a step that is done. Its loss stays on the device: to read it would make the device wait."""
        self.step += 1
        self.batch += 1
        self._losses.append(loss.detach())

    def check_losses(self) -> None:
        """Raise InputError for the first loss since the last look that is not finite."""
        losses, self._losses = torch.stack(self._losses).float().cpu(), []
        self.loss_sum += float(losses.sum())
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            first = int(bad[0])
            where = f"epoch {self.epoch + 1}, batch {self.batch - len(losses) + first + 1}"
            problem = f"the loss is {float(losses[first])} in {where}."
            remedy = "lower `lr`; `precision: 32-true` where it is less."
            raise InputError(self._fold, problem, remedy, code="loss-not-finite")

    def end_losses(self) -> None:
        """Note an epoch's mean loss over its batches."""
        self.check_losses()
        self.train_loss.append(self.loss_sum / self.batch)
        self.loss_sum = 0.0

    def _state(self) -> dict[str, Any]:
        if self._losses:
            self.check_losses()  # a state that is no number is not saved
        return {
            "progress": {name: value for name, value in vars(self).items() if not name.startswith("_")},
            **{name: part.state_dict() for name, part in self._parts.items()},
            "generator": self._generator.get_state(),
            "random": random_state(),
        }

    def tick(self, checkpoint: Checkpoint | None, epochs: int) -> None:
        """Save when it is time; see `Checkpoint.tick`."""
        if checkpoint is not None:
            checkpoint.tick(self._state, f"epoch {self.epoch} of {epochs}, {len(self.batches)} batches left")

    def restore(self, saved: Mapping[str, Any]) -> None:
        vars(self).update(saved["progress"])
        for name, part in self._parts.items():
            part.load_state_dict(saved[name])
        self._generator.set_state(saved["generator"])
        set_random_state(saved["random"])
