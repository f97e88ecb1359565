"""Training on tile pixels, on the loop of `histoloom.models.training`.

Tiles of a fold lie on the device as uint8 when they fit, else they are read from the packed files batch by batch.
Flips, quarter turns, resizing and normalisation are done on the device, a batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from histoloom.inputs import Inputs
from histoloom.models.base import Arrays, FoldData, Part, Predictions
from histoloom.models.training import FittedNetwork, Task, TrainingSpec, fits_on_gpu

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SCALES = {
    "imagenet": IMAGENET,
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "raw": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
"""Mean and SD by colour, in units of 1 = 255, that an input's scale means; ``raw`` gives 0..255."""
PREDICTION_BATCH = 256


@dataclass(frozen=True)
class PixelSpec(TrainingSpec):
    """Keys that every model on pixels has."""

    input_px: int | None = None
    normalise: Literal["train", "imagenet", "unit", "raw"] = "imagenet"
    augment: bool = True
    channel_order: Literal["rgb", "bgr"] = "rgb"


class Tiles:
    """Tiles of inputs as (b, 3, h, w) uint8 batches on a device."""

    def __init__(self, inputs: Inputs, device: str, hold: bool = True) -> None:
        self._inputs, self.device = inputs, device
        self._all: Tensor | None = None
        if hold and len(inputs):
            size = inputs.pixels([0]).nbytes * len(inputs)
            if fits_on_gpu(size, device):
                self._all = torch.empty((len(inputs), *inputs.pixels([0]).shape[1:]), dtype=torch.uint8, device=device)
                for rows in inputs.blocks(PREDICTION_BATCH):
                    self._all[rows[0] : rows[-1] + 1] = torch.from_numpy(inputs.pixels(rows))

    @property
    def held(self) -> bool:
        return self._all is not None

    def batch(self, rows: Tensor) -> Tensor:
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
    for rows in inputs.blocks(PREDICTION_BATCH):
        pixels = inputs.pixels(rows).reshape(-1, 3)
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
    """From uint8 RGB to a network's input: symmetry, size, scaling to 0..1, order, mean and SD of the colours."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    input_px: int | None = None
    channel_order: Literal["rgb", "bgr"] = "rgb"
    channels_last: bool = True

    def __call__(self, images: Tensor, codes: Tensor | None = None) -> Tensor:
        """Return (b, 3, h, w) float32."""
        if codes is not None:
            images = symmetric(images, codes)
        x = images.float().div_(255)  # in place from here on: large temporaries cost more than the arithmetic
        if self.channel_order == "bgr":
            x = x.flip(1)
        if self.input_px is not None and self.input_px != x.shape[-1]:
            x = nn.functional.interpolate(x, size=self.input_px, mode="bilinear", antialias=True)
        # By rows of pixels as they lie in memory: an innermost loop over three colours is slow on a CPU.
        pixels = x.permute(0, 2, 3, 1).contiguous()
        mean, sd = (torch.tensor(v, device=x.device).repeat(pixels.shape[2]) for v in (self.mean, self.sd))
        pixels.flatten(2).sub_(mean).div_(sd)
        images = pixels.permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()


def preparation_of(data: FoldData, spec: PixelSpec) -> Preparation:
    """Return how tiles are scaled, fitted on training tiles where the spec says so."""
    scale = channel_moments(data.train.inputs) if spec.normalise == "train" else SCALES[spec.normalise]
    return Preparation(*scale, spec.input_px, spec.channel_order)


class FittedPixels(FittedNetwork):
    """A trained network on tile pixels."""

    @property
    def preparation(self) -> Preparation:
        mean, sd = (tuple(self.arrays[name].tolist()) for name in ("pixel_mean", "pixel_sd"))
        return Preparation(mean, sd, self.spec.input_px, self.spec.channel_order)


class PixelTask(Task):
    """A task on the tiles of a training part: what `Task` asks, with a loss of prepared images."""

    memory_format: torch.memory_format | None = torch.channels_last
    summed: ClassVar[bool] = False  # whether the loss is a sum over the batch, and not a mean

    def __init__(self, spec: Any, data: FoldData, device: str) -> None:
        self.spec, self.device = spec, device
        self.preparation = preparation_of(data, spec)
        self.tiles = Tiles(data.train.inputs, device)
        self.y = self.values(data.train)

    def arrays(self) -> Arrays:
        return {"pixel_mean": np.asarray(self.preparation.mean), "pixel_sd": np.asarray(self.preparation.sd)}

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch, its tiles under random symmetries where the spec says so."""
        codes = torch.randint(0, 8, (len(rows),), generator=generator) if self.spec.augment else None
        return self.image_loss(self.images(rows, codes), rows)

    def images(self, rows: Tensor, codes: Tensor | None) -> Tensor:
        """Return prepared images (b, 3, h, w) of the training part's rows."""
        return self.preparation(self.tiles.batch(rows), codes)

    def image_loss(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of prepared images (b, 3, h, w) of the training part's rows."""
        return self.value_loss(images, self.y[rows].to(images.device))

    def value_loss(self, images: Tensor, y: Tensor) -> Tensor:
        """Return the loss of prepared images and their (b, T) values, where a batch is nothing but that."""
        raise NotImplementedError

    def values(self, part: Part) -> Tensor:
        """Return the (n, T) values of a part, as the network is given them."""
        return torch.from_numpy(np.asarray(part.dense, np.float32))

    def validation_loss(self, part: Part) -> float:
        """Return the mean loss over all observations: fixed batches that mix sections, fixed draws."""
        y, tiles, total = self.values(part), Tiles(part.inputs, self.device, hold=False), 0.0
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
        self.network.eval()
        devices = [self.device] if self.device.startswith("cuda") else []
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            for rows in even_batches(order, self.batch_size):
                loss = float(self.value_loss(self.preparation(tiles.batch(rows)), y[rows].to(self.device)))
                total += loss if self.summed else loss * len(rows)
        return total / len(part)

    def predict(self, images: Tensor) -> Tensor:
        """Return (b, T) of prepared images, for validation."""
        output: Tensor = self.network(images)
        return output

    def predict_inputs(self, inputs: Inputs) -> Predictions:
        return run_network(self.network, self.predict, inputs, self.preparation, self.device)


def even_batches(rows: Tensor, size: int) -> list[Tensor]:
    """Return batches of nearly equal size, at most `size`: none is a remainder with few pairs to tell apart."""
    return list(rows.tensor_split(max(1, -(-len(rows) // size))))


def run_network(
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    inputs: Inputs,
    preparation: Preparation,
    device: str,
    symmetries: int = 1,
    augment_seed: int | None = None,
) -> Predictions:
    """Return the (n, T) float32 output of a network in evaluation mode, in full precision.

    With 8 `symmetries` it is the mean over flips and quarter turns; with an `augment_seed` each tile is seen under one
    of them at random.
    """
    network.eval()
    tiles, parts = Tiles(inputs, device, hold=False), []
    codes = [torch.full((len(inputs),), c) for c in range(symmetries)]
    if augment_seed is not None:
        codes = [torch.randint(0, 8, (len(inputs),), generator=torch.Generator().manual_seed(augment_seed))]
    with torch.inference_mode():
        for rows in torch.arange(len(inputs)).split(PREDICTION_BATCH):
            images = tiles.batch(rows)
            views = (forward(preparation(images, code[rows])).float() for code in codes)
            parts.append((sum(views) / len(codes)).cpu())  # type: ignore[union-attr]
    return torch.cat(parts).numpy()


def rows_in_order(parts: Iterable[tuple[npt.NDArray[np.intp], Tensor]]) -> Predictions:
    """Return (n, T) float32 of all rows, in order, from outputs for some rows at a time."""
    rows, values = zip(*((index, output.float().cpu().numpy()) for index, output in parts), strict=True)
    ordered: Predictions = np.concatenate(values)[np.argsort(np.concatenate(rows))]
    return ordered


def pretrained_state(name: str, weights: str, network: nn.Module, head: Sequence[str]) -> None:
    """Give a network its starting weights, but for parameters whose names start with one of `head`.

    `weights` is ``imagenet`` (the hub file of the encoder card of that name), ``random`` (nothing is done) or the path
    of a file with the network's own keys.
    """
    from histoloom.embeddings.cards import load_cards
    from histoloom.embeddings.weights import fetch_from_hub, load_strictly, read_state

    if weights == "random":
        return
    card = load_cards()[name] | {"name": name}
    path = fetch_from_hub(card) if weights == "imagenet" else Path(weights)
    own = {name: value for name, value in network.state_dict().items() if name.startswith(tuple(head))}
    given = {name: value for name, value in read_state(path, card).items() if not name.startswith(tuple(head))}
    load_strictly(network, given | own, str(path))
