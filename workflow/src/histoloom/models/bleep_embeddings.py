"""BLEEP's alignment and retrieval on frozen embeddings: projection heads only, no training on pixels.

The heads and the loss are those of `histoloom.models.bleep` (Xie et al. 2023, arXiv:2306.01859, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from histoloom.inputs import Inputs
from histoloom.inputs.features import BLOCK
from histoloom.models.base import Arrays, FoldData, Part, Predictions
from histoloom.models.pixel_training import even_batches
from histoloom.models.retrieval import (
    FittedRetrieval,
    Method,
    RetrievalModel,
    embed_profiles,
    keys_with_values,
    retrieve,
)
from histoloom.models.training import Task, TrainingSpec
from histoloom.networks.contrastive import ProjectionHead, contrastive_losses


@dataclass(frozen=True)
class BleepEmbeddingsSpec(TrainingSpec):
    """Keys of ``model.bleep_embeddings``."""

    batch_size: int = 128
    epochs: int = 30
    lr: float = 1e-3
    weight_decay: float = 1e-3
    dropout: float = 0.1
    width: int = 256
    temperature: float = 1.0
    keys: Literal["train", "train_and_val"] = "train"
    k: int = 50
    method: Method = "average"
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Heads(nn.Module):
    """Projections of features (n, D) and of profiles (n, T) into one space (n, width)."""

    def __init__(self, n_features: int, n_outputs: int, spec: BleepEmbeddingsSpec) -> None:
        super().__init__()
        self.image_projection = ProjectionHead(n_features, spec.width, spec.dropout)
        self.spot_projection = ProjectionHead(n_outputs, spec.width, spec.dropout)

    def embed_spots(self, profiles: Tensor) -> Tensor:
        """Map profiles (n, T) to (n, width)."""
        embedded: Tensor = self.spot_projection(profiles)
        return embedded

    def forward(self, features: Tensor, profiles: Tensor) -> tuple[Tensor, Tensor]:
        """Return both embeddings, each (n, width)."""
        return self.image_projection(features), self.spot_projection(profiles)


class HeadsTask(Task):
    """Contrastive loss of features and profiles, AdamW; validation predicts by retrieval from that epoch's keys."""

    def __init__(self, spec: BleepEmbeddingsSpec, data: FoldData, device: str) -> None:
        features = data.train.inputs.features()
        self.spec, self.device, self.data, self.scaler = spec, device, data, data.scaler(features)
        self.x = torch.from_numpy(self.scaler(features)).to(device)
        self.y = torch.from_numpy(np.asarray(data.train.dense, np.float32)).to(device)
        self._raw = Heads(self.x.shape[1], self.y.shape[1], spec)
        self.network = self._raw

    def batches(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Return shuffled batches of nearly equal size: the loss of a small one has fewer negatives."""
        return even_batches(torch.randperm(n, generator=generator), self.batch_size)

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        del generator  # nothing is drawn
        rows = rows.to(self.device)
        return self._loss(self.x[rows], self.y[rows])

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        images, profiles = self.network(x, y)
        return contrastive_losses(images, profiles, self.spec.temperature, "divide").mean()

    def _scaled(self, inputs: Inputs) -> Tensor:
        return torch.from_numpy(self.scaler(inputs.features())).to(self.device)

    def validation_loss(self, part: Part) -> float:
        """Return the mean loss over all observations in fixed batches that mix sections."""
        x, y = self._scaled(part.inputs), torch.from_numpy(np.asarray(part.dense, np.float32)).to(self.device)
        self.network.eval()
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0)).to(self.device)
        with torch.inference_mode():
            parts = even_batches(order, self.batch_size)
            return sum(float(self._loss(x[rows], y[rows])) * len(rows) for rows in parts) / len(part)

    def predict_inputs(self, inputs: Inputs) -> Predictions:
        self.network.eval()
        with torch.inference_mode():
            keys = embed_profiles(self._raw, self.y, self.device)
            queries = self._raw.image_projection(self._scaled(inputs)).float()
            return retrieve(queries, keys, self.y, self.spec.k, self.spec.method).cpu().numpy()

    def arrays(self) -> Arrays:
        """Return keys with their values, and how features are scaled."""
        scale = {"mean": self.scaler.mean, "scale": self.scaler.scale}
        return {**keys_with_values(self._raw, self.spec, self.data, self.device), **scale}


class FittedBleepEmbeddings(FittedRetrieval):
    """Trained heads, keys with their values, and how features are scaled."""

    def queries(self, inputs: Inputs, device: str) -> Tensor:
        arrays, parts = self.arrays, []
        network = self.load(Heads(len(arrays["mean"]), arrays["values"].shape[1], self.spec), device).eval()
        with torch.inference_mode():
            for rows in inputs.blocks(BLOCK):
                scaled = ((inputs.features(rows) - arrays["mean"]) / arrays["scale"]).astype(np.float32)
                parts.append(network.image_projection(torch.from_numpy(scaled).to(device)).float())
        return torch.cat(parts)


class BleepEmbeddings(RetrievalModel):
    """Retrieval on frozen embeddings; the profile is the target."""

    spec_type: ClassVar[Any] = BleepEmbeddingsSpec
    fitted_type = FittedBleepEmbeddings
    task_type = HeadsTask
