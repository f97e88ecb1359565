"""Training on tile pixels: one loop for every model that reads them.

Tiles of a fold lie on the device as uint8 when they fit, else they are read from the packed files batch by batch.
Flips, quarter turns, resizing and normalisation are done on the device, a batch at a time. Lightning Fabric carries
device and precision; the loop owns epochs, selection and checkpoints. A fit that was interrupted and goes on equals an
unbroken one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import histoloom.torch_compat  # noqa: F401 - before lightning, which imports torchvision
from histoloom.checkpoints import Checkpoint, random_state, set_random_state
from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.models.base import FoldData, JobContext, Predictions, Spec
from histoloom.models.selection import choose

if TYPE_CHECKING:
    from lightning.fabric import Fabric

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MEMORY_SHARE = 0.5
"""Share of a GPU's free memory that tiles may take."""
PREDICTION_BATCH = 256


@dataclass(frozen=True)
class PixelSpec(Spec):
    """Keys that every model on pixels has."""

    batch_size: int
    epochs: int
    input_px: int | None = None
    normalise: Literal["train", "imagenet"] = "imagenet"
    augment: bool = True
    precision: str = "32-true"


class Tiles:
    """Tiles of inputs as (b, 3, h, w) uint8 batches on a device.

    Attributes
    ----------
    held
        Whether all lie on the device.
    """

    def __init__(self, inputs: Inputs, device: str, hold: bool = True) -> None:
        self._inputs, self.device = inputs, device
        self._all: Tensor | None = None
        if hold and len(inputs):
            size = inputs.pixels([0]).nbytes * len(inputs)
            # On a CPU the packed file is memory already, shared with other jobs.
            if device.startswith("cuda") and size < MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
                self._all = torch.empty((len(inputs), *inputs.pixels([0]).shape[1:]), dtype=torch.uint8, device=device)
                for start in range(0, len(inputs), PREDICTION_BATCH):
                    rows = np.arange(start, min(start + PREDICTION_BATCH, len(inputs)))
                    self._all[start : start + len(rows)] = torch.from_numpy(inputs.pixels(rows))

    @property
    def held(self) -> bool:
        """Whether all tiles lie on the device."""
        return self._all is not None

    def batch(self, rows: Tensor) -> Tensor:
        """Return the tiles of some rows."""
        if self._all is not None:
            images = self._all[rows.to(self.device)]
        else:
            images = torch.from_numpy(self._inputs.pixels(rows.numpy()))
            if self.device.startswith("cuda"):
                images = images.pin_memory().to(self.device, non_blocking=True)
        return images.permute(0, 3, 1, 2)


def channel_moments(inputs: Inputs) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and SD of the three colours over all tiles, in units of 1 = 255; exact, from sums of integers."""
    total, square, count = np.zeros(3), np.zeros(3), 0
    for start in range(0, len(inputs), PREDICTION_BATCH):
        pixels = inputs.pixels(np.arange(start, min(start + PREDICTION_BATCH, len(inputs)))).reshape(-1, 3)
        total += pixels.sum(axis=0, dtype=np.int64)
        square += np.square(pixels, dtype=np.int64).sum(axis=0)
        count += len(pixels)
    mean = total / count
    sd = np.sqrt(np.maximum(square / count - mean**2, 1e-6))
    return tuple((mean / 255).tolist()), tuple((sd / 255).tolist())


def symmetric(images: Tensor, codes: Tensor) -> Tensor:
    """Return each square image under one of the 8 symmetries: bit 4 flips columns, bit 2 rows, bit 1 turns first.

    In the order of codes 0 to 7 these are those of `histoloom.networks.stnet.eight_symmetries`.
    """
    out = torch.empty_like(images)
    for code in codes.unique().tolist():
        chosen = codes == code
        view = images[chosen.to(images.device)]
        view = torch.rot90(view, 1, (-2, -1)) if code & 1 else view
        view = view.flip(-2) if code & 2 else view
        out[chosen.to(images.device)] = view.flip(-1) if code & 4 else view
    return out


@dataclass(frozen=True)
class Preparation:
    """From uint8 batches to a network's input: symmetry, size, scaling to 0..1, mean and SD by colour."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    input_px: int | None = None

    def __call__(self, images: Tensor, codes: Tensor | None = None) -> Tensor:
        """Return (b, 3, h, w) float32."""
        if codes is not None:
            images = symmetric(images, codes)
        x = images.float() / 255
        if self.input_px is not None and self.input_px != x.shape[-1]:
            x = nn.functional.interpolate(x, size=self.input_px, mode="bilinear", antialias=True)
        mean, sd = (torch.tensor(v, device=x.device)[None, :, None, None] for v in (self.mean, self.sd))
        x = (x - mean) / sd
        return x.contiguous(memory_format=torch.channels_last)


class PixelTask:
    """What a model adds to the loop: network, optimiser, loss and, where they differ, batches and prediction.

    Attributes
    ----------
    network
        All that is trained, as one module on the CPU; the loop moves it.
    """

    network: nn.Module

    def optimiser(self) -> torch.optim.Optimizer:
        """Return the optimiser of the network's parameters."""
        raise NotImplementedError

    def start_epoch(self, optimiser: torch.optim.Optimizer, epoch: int) -> None:
        """Set what changes by epoch (from 0), such as the learning rate."""

    def batches(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Return the epoch's batches of training rows; shuffled, in order of use."""
        return list(torch.randperm(n, generator=generator).split(self.batch_size))

    batch_size: int = 32

    def loss(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of a batch, whose rows of the training part are given (on the CPU)."""
        raise NotImplementedError

    def predict(self, images: Tensor) -> Tensor:
        """Return (b, T) of a batch, for validation."""
        output: Tensor = self.network(images)
        return output


@dataclass
class TrainedNetwork:
    """A trained network's ``state``, the ``epoch`` kept (from 1) and validation scores by epoch."""

    state: dict[str, Tensor]
    epoch: int
    curve: list[float]


def fit_selected(
    make: Callable[[FoldData], PixelTask], data: FoldData, job: JobContext, spec: PixelSpec
) -> tuple[TrainedNetwork, Preparation, dict[str, Any]]:
    """Fit one fold under the experiment's selection.

    Parameters
    ----------
    make
        Makes the task of a training part; called once per training, after the global generators are seeded.

    Returns
    -------
    network, preparation
        What prediction needs.
    choices
        ``how`` and ``epochs``.
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
    return trained, preparation_of(data, spec), choices


def preparation_of(data: FoldData, spec: PixelSpec) -> Preparation:
    """Return how tiles are scaled, fitted on training tiles where the spec says so."""
    return Preparation(*(channel_moments(data.train.inputs) if spec.normalise == "train" else IMAGENET), spec.input_px)


def open_fabric(device: str, precision: str) -> Fabric:
    """Return Fabric on the leased device; 16-bit precision on a CPU is refused by name."""
    from lightning.fabric import Fabric

    kind, _, number = device.partition(":")
    if kind == "cpu" and precision == "16-mixed":
        raise InputError("precision", "16-mixed needs a GPU.", "use 32-true or bf16-mixed.", code="precision-device")
    accelerator, devices = ("cuda", [int(number or 0)]) if kind == "cuda" else ("cpu", 1)
    return Fabric(accelerator=accelerator, devices=devices, precision=precision)  # type: ignore[arg-type]


def train(
    make: Callable[[FoldData], PixelTask], data: FoldData, job: JobContext, spec: PixelSpec, epochs: int, word: str
) -> TrainedNetwork:
    """Train for a number of epochs; with validation observations the epoch with the best score is kept.

    Raises
    ------
    FloatingPointError
        At a loss that is not finite, with epoch and batch; the last checkpoint stays.
    """
    stream = data.stream(word)
    torch.manual_seed(stream)
    torch.backends.cudnn.deterministic = True
    generator = torch.Generator().manual_seed(stream)
    preparation = preparation_of(data, spec)
    task = make(data)
    task.batch_size = spec.batch_size
    fabric = open_fabric(job.device, spec.precision)
    if job.device.startswith("cuda"):
        task.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network, optimiser = fabric.setup(task.network, task.optimiser())
    task.network = network
    tiles, state = Tiles(data.train.inputs, job.device), _Progress()
    facts = [word, data.name, data.seed, epochs, len(data.train), 0 if data.val is None else len(data.val)]
    start = time.perf_counter()
    with job.checkpoint(f"{word}-{data.name}-{data.seed}", facts) as checkpoint:
        if checkpoint is not None and (saved := checkpoint.load()) is not None:
            state.restore(saved, network, optimiser, generator, fabric)
        seen = 0
        while state.epoch < epochs:
            network.train()
            if not state.batches:
                task.start_epoch(optimiser, state.epoch)
                state.batches = task.batches(len(data.train), generator)
            total = len(state.batches)
            while state.batches:
                rows = state.batches.pop(0)
                codes = torch.randint(0, 8, (len(rows),), generator=generator) if spec.augment else None
                loss = task.loss(preparation(tiles.batch(rows), codes), rows)
                if not math.isfinite(loss.item()):
                    done = total - len(state.batches)
                    raise FloatingPointError(
                        f"{data.name}: the loss is {loss.item()} in epoch {state.epoch + 1}, batch {done}; lower the "
                        "learning rate"
                    )
                optimiser.zero_grad()
                fabric.backward(loss)
                optimiser.step()
                seen += len(rows)
                if state.batches:
                    state.tick(checkpoint, network, optimiser, generator, fabric, epochs)
            state.epoch += 1
            _end_epoch(state, task, data, preparation, job, network, epochs)
            state.tick(checkpoint, network, optimiser, generator, fabric, epochs)
    seconds = time.perf_counter() - start
    job.record["epochs"] = job.record.get("epochs", 0) + state.epoch
    job.record["images"] = job.record.get("images", 0) + seen
    job.record["images_per_s"] = round(seen / seconds, 2)
    job.record["tiles_on_device"] = tiles.held
    job.log.info("%s: %d epochs, %.1f images/s", data.name, state.epoch, seen / seconds)
    return TrainedNetwork(state.best or _weights(network), state.best_epoch or state.epoch, state.curve)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _end_epoch(
    state: _Progress,
    task: PixelTask,
    data: FoldData,
    preparation: Preparation,
    job: JobContext,
    network: nn.Module,
    epochs: int,
) -> None:
    if data.val is None:
        return
    prediction = run_network(network, task.predict, data.val.inputs, preparation, job.device)
    score = data.target.selection_score(prediction, data.val.y, data.val.section)
    if not state.curve or score > max(state.curve):
        state.best, state.best_epoch = _weights(network), state.epoch
    state.curve.append(score)
    job.log.info("%s: epoch %d of %d, validation score %.4f", data.name, state.epoch, epochs, score)


class _Progress:
    """How far a training is: epochs done, batches left in this one, validation scores, the best weights so far."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batches: list[Tensor] = []
        self.curve: list[float] = []
        self.best: dict[str, Tensor] | None = None
        self.best_epoch = 0

    def tick(
        self,
        checkpoint: Checkpoint | None,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        generator: torch.Generator,
        fabric: Fabric,
        epochs: int,
    ) -> None:
        """Save when it is time; see `Checkpoint.tick`."""
        if checkpoint is None:
            return

        def state() -> dict[str, Any]:
            return {
                "progress": vars(self),
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "precision": fabric.strategy.precision.state_dict(),
                "generator": generator.get_state(),
                "random": random_state(),
            }

        checkpoint.tick(state, f"epoch {self.epoch} of {epochs}, {len(self.batches)} batches left")

    def restore(
        self,
        saved: Mapping[str, Any],
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        generator: torch.Generator,
        fabric: Fabric,
    ) -> None:
        """Go on from a saved state."""
        vars(self).update(saved["progress"])
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        fabric.strategy.precision.load_state_dict(saved["precision"])
        generator.set_state(saved["generator"])
        set_random_state(saved["random"])


def run_network(
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    inputs: Inputs,
    preparation: Preparation,
    device: str,
    symmetries: int = 1,
) -> Predictions:
    """Return the (n, T) float32 output of a network in evaluation mode, in full precision.

    Parameters
    ----------
    symmetries
        1, or 8 for the mean over flips and quarter turns.
    """
    network.eval()
    tiles, parts = Tiles(inputs, device, hold=False), []
    with torch.inference_mode():
        for rows in torch.arange(len(inputs)).split(PREDICTION_BATCH):
            images = tiles.batch(rows)
            views = (forward(preparation(images, torch.full((len(rows),), c))).float() for c in range(symmetries))
            parts.append((sum(views) / symmetries).cpu())  # type: ignore[union-attr]
    return torch.cat(parts).numpy()


def pretrained_state(card: Mapping[str, Any], weights: str, network: nn.Module, head: Sequence[str]) -> None:
    """Give a network its starting weights.

    Parameters
    ----------
    card
        Card of the encoder whose hub file ``imagenet`` means.
    weights
        ``imagenet``, ``random`` (nothing is done) or the path of a file with the network's own keys.
    head
        Prefixes of parameters that stay as they are.

    Raises
    ------
    InputError
        The file is not available (names what to copy where), or is of another architecture.
    """
    from histoloom.embeddings.hub import fetch_from_hub
    from histoloom.embeddings.weights import load_strictly, read_state

    if weights == "random":
        return
    path = fetch_from_hub(card) if weights == "imagenet" else Path(weights)
    own = {name: value for name, value in network.state_dict().items() if name.startswith(tuple(head))}
    given = {name: value for name, value in read_state(path, card).items() if not name.startswith(tuple(head))}
    load_strictly(network, given | own, str(path))


def as_arrays(state: Mapping[str, Tensor], prefix: str = "network/") -> dict[str, npt.NDArray[Any]]:
    """Return a state dict as arrays to save."""
    return {prefix + name: value.detach().cpu().numpy() for name, value in state.items()}


def as_state(arrays: Mapping[str, npt.NDArray[Any]], prefix: str = "network/") -> dict[str, Tensor]:
    """Return the state dict of saved arrays."""
    return {n.removeprefix(prefix): torch.from_numpy(np.array(a)) for n, a in arrays.items() if n.startswith(prefix)}
