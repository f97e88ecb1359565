"""An encoder trained further, end to end, with a linear layer: what a frozen one is compared with.

No paper gives a recipe for CTransPath on expression; this one is AdamW with a lower rate for the encoder than for the
new layer, a cosine schedule by epoch, and squared error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from histoloom.embeddings.cards import EncoderSpec
from histoloom.inputs import Inputs
from histoloom.kinds import load
from histoloom.models.base import FoldData, JobContext, Predictions
from histoloom.models.pixel_training import FittedPixels, PixelSpec, PixelTask, Preparation, run_network
from histoloom.models.training import NetworkModel, cosine


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
        return EncoderSpec.from_json(self.encoder or {})

    def preparation(self) -> Preparation:
        """Return the card's own transform, but for its interpolation: tiles are resized on the device."""
        card = self.tuned.card
        return Preparation(tuple(card["mean"]), tuple(card["std"]), card["input_px"])

    def network(self, n_outputs: int) -> Tuned:
        card = self.tuned.card
        return Tuned(load("encoders", card["kind"]).build(card, 0), card, n_outputs)


class Tuned(nn.Module):
    """An encoder, pooled as its card says, and a linear layer: (n, 3, h, w) to (n, T)."""

    def __init__(self, encoder: nn.Module, card: Mapping[str, Any], n_outputs: int) -> None:
        super().__init__()
        self.encoder, self._card = encoder, card
        self.head = nn.Linear(int(card["dim"]), n_outputs)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        features = load("encoders", self._card["kind"]).pool(self.encoder, self._card, images)
        output: Tensor = self.head(features)
        return output


class FineTunedTask(PixelTask):
    """Mean squared error, AdamW with two rates, cosine schedule to zero."""

    def __init__(self, spec: FineTunedSpec, data: FoldData, device: str) -> None:
        super().__init__(spec, data, device)
        self.preparation = spec.preparation()
        tuned = spec.tuned
        encoder, _, _ = load("encoders", tuned.card["kind"]).load(tuned)
        self.network = Tuned(encoder, tuned.card, self.y.shape[1])
        with torch.no_grad():
            self.network.head.bias.copy_(self.y.mean(dim=0))

    def optimiser(self) -> torch.optim.Optimizer:
        """Return AdamW; the encoder and the new layer have rates of their own."""
        spec = self.spec
        parts = [(self.network.encoder, spec.lr), (self.network.head, spec.head_lr)]
        groups = [{"params": list(part.parameters()), "lr": rate, "full": rate} for part, rate in parts]
        return torch.optim.AdamW(groups, weight_decay=spec.weight_decay)

    def start_epoch(self, optimiser: torch.optim.Optimizer, epoch: int) -> None:
        for group in optimiser.param_groups:
            group["lr"] = cosine(group["full"], 0.0, epoch / self.spec.epochs)

    def value_loss(self, images: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.network(images), y)


class FittedFineTuned(FittedPixels):
    """A trained network."""

    last_bias = "network/head.bias"

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T); ``symmetries: 8`` is the mean over flips and quarter turns."""
        network, symmetries = self.network(job.device), int(variant.get("symmetries", 1))
        return run_network(network, network, inputs, self.spec.preparation(), job.device, symmetries)


class FineTuned(NetworkModel):
    """An encoder fine-tuned on any target of values."""

    spec_type: ClassVar[Any] = FineTunedSpec
    fitted_type = FittedFineTuned
    task_type = FineTunedTask
