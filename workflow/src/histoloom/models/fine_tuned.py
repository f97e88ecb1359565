"""An encoder trained further, end to end, with a linear layer: what a frozen one is compared with.

No paper gives a recipe for CTransPath on expression; this one is AdamW with a lower rate for the encoder than for the
new layer, a cosine schedule by epoch, and squared error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from histoloom.embeddings.cards import EncoderSpec
from histoloom.inputs import Inputs
from histoloom.kinds import load
from histoloom.models.base import Arrays, Fitted, FoldData, JobContext, Model, Predictions
from histoloom.models.pixel_training import (
    PixelSpec,
    PixelTask,
    Preparation,
    fit_pixels,
    run_network,
    saved_preparation,
)
from histoloom.models.training import as_state


@dataclass(frozen=True)
class FineTunedSpec(PixelSpec):
    """Keys of ``model.fine_tuned``; `encoder` is the encoder's entry with its card."""

    batch_size: int = 32
    epochs: int = 20
    encoder: Mapping[str, Any] | None = None
    lr: float = 1e-5
    head_lr: float = 1e-3
    weight_decay: float = 0.05

    @property
    def tuned(self) -> EncoderSpec:
        """Return the encoder."""
        return EncoderSpec.from_json(self.encoder or {})

    def preparation(self) -> Preparation:
        """Return the card's own transform, but for its interpolation: tiles are resized on the device."""
        card = self.tuned.card
        return Preparation(tuple(card["mean"]), tuple(card["std"]), card["input_px"])


class Tuned(nn.Module):
    """An encoder, pooled as its card says, and a linear layer: (n, 3, h, w) to (n, T)."""

    def __init__(self, encoder: nn.Module, card: Mapping[str, Any], n_outputs: int) -> None:
        super().__init__()
        self.encoder, self._card = encoder, card
        self.head = nn.Linear(int(card["dim"]), n_outputs)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, T)."""
        features = load("encoders", self._card["kind"]).pool(self.encoder, self._card, images)
        output: Tensor = self.head(features)
        return output


class FineTunedTask(PixelTask):
    """Mean squared error, AdamW with two rates, cosine schedule to zero."""

    def __init__(self, spec: FineTunedSpec, data: FoldData, device: str) -> None:
        super().__init__(spec, data, device)
        self.spec, self.preparation = spec, spec.preparation()
        self.y = self.values(data.train)
        tuned = spec.tuned
        encoder, _, _ = load("encoders", tuned.card["kind"]).load(tuned)
        self.network: Any = Tuned(encoder, tuned.card, self.y.shape[1])
        with torch.no_grad():
            self.network.head.bias.copy_(self.y.mean(dim=0))

    def optimiser(self) -> torch.optim.Optimizer:
        """Return AdamW; the encoder and the new layer have rates of their own."""
        spec = self.spec
        parts = [(self.network.encoder, spec.lr), (self.network.head, spec.head_lr)]
        groups = [{"params": list(part.parameters()), "lr": rate, "full": rate} for part, rate in parts]
        return torch.optim.AdamW(groups, weight_decay=spec.weight_decay)

    def start_epoch(self, optimiser: torch.optim.Optimizer, epoch: int) -> None:
        """Set both rates."""
        for group in optimiser.param_groups:
            group["lr"] = group["full"] * (1 + math.cos(math.pi * epoch / self.spec.epochs)) / 2

    def value_loss(self, images: Tensor, y: Tensor) -> Tensor:
        """Return the mean squared error."""
        return nn.functional.mse_loss(self.network(images), y)


class FittedFineTuned(Fitted):
    """A trained network."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T); ``symmetries: 8`` is the mean over flips and quarter turns."""
        card = self.spec.tuned.card
        encoder = load("encoders", card["kind"]).build(card, 0)
        network = Tuned(encoder, card, len(self.arrays["network/head.bias"]))
        network.load_state_dict(as_state(self.arrays))
        network.to(job.device)
        preparation = saved_preparation(self.arrays, self.spec)
        preparation = Preparation(preparation.mean, preparation.sd, card["input_px"])
        return run_network(network, network, inputs, preparation, job.device, int(variant.get("symmetries", 1)))


class FineTuned(Model):
    """An encoder fine-tuned on any target of values."""

    spec_type: ClassVar[Any] = FineTunedSpec
    fitted_type = FittedFineTuned

    def fit(self, data: FoldData, job: JobContext) -> Fitted:
        """Fit one fold for one training seed."""
        spec: FineTunedSpec = self.spec
        _, arrays, choices = fit_pixels(lambda part: FineTunedTask(spec, part, job.device), data, job, spec)
        scale = spec.preparation()
        own: Arrays = {"pixel_mean": np.asarray(scale.mean), "pixel_sd": np.asarray(scale.sd)}
        return self.restore({**arrays, **own}, choices)
