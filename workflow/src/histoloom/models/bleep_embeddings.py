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
from histoloom.models.base import Fitted, FoldData, JobContext, Model, Part, Predictions
from histoloom.models.pixel_training import even_batches
from histoloom.models.retrieval import Method, embed_profiles, key_values, retrieve
from histoloom.models.training import Task, TrainingSpec, as_arrays, as_state, fit_selected
from histoloom.networks.contrastive import ProjectionHead, contrastive_losses

_BLOCK = 4096


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
        self.spec, self.device, self.scaler = spec, device, data.scaler(features)
        self.x = torch.from_numpy(self.scaler(features)).to(device)
        self.y = torch.from_numpy(np.asarray(data.train.dense, np.float32)).to(device)
        self._raw = Heads(self.x.shape[1], self.y.shape[1], spec)
        self.network: Any = self._raw

    def optimiser(self) -> torch.optim.Optimizer:
        """Return AdamW on every parameter, as BLEEP's code has it."""
        return torch.optim.AdamW(self.network.parameters(), lr=self.spec.lr, weight_decay=self.spec.weight_decay)

    def batches(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Return shuffled batches of nearly equal size: the loss of a small one has fewer negatives."""
        return even_batches(torch.randperm(n, generator=generator), self.batch_size)

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
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
        """Return (n, T) of validation observations."""
        self.network.eval()
        with torch.inference_mode():
            keys = embed_profiles(self._raw, self.y, self.device)
            queries = self._raw.image_projection(self._scaled(inputs)).float()
            return retrieve(queries, keys, self.y, self.spec.k, self.spec.method).cpu().numpy()


class FittedBleepEmbeddings(Fitted):
    """Trained heads, keys with their values, and how features are scaled."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T); a variant may set ``k`` and ``method``."""
        arrays = self.arrays
        values, keys = (torch.from_numpy(np.array(arrays[name])).to(job.device) for name in ("values", "keys"))
        network = Heads(len(arrays["mean"]), values.shape[1], self.spec)
        network.load_state_dict(as_state(arrays))
        network.to(job.device).eval()
        parts = []
        with torch.inference_mode():
            for rows in np.array_split(np.arange(len(inputs)), -(-len(inputs) // _BLOCK)):
                scaled = ((inputs.features(rows) - arrays["mean"]) / arrays["scale"]).astype(np.float32)
                parts.append(network.image_projection(torch.from_numpy(scaled).to(job.device)).float())
        k, method = int(variant.get("k", self.spec.k)), variant.get("method", self.spec.method)
        return retrieve(torch.cat(parts), keys, values, k, method).cpu().numpy()


class BleepEmbeddings(Model):
    """Retrieval on frozen embeddings; the profile is the target."""

    spec_type: ClassVar[Any] = BleepEmbeddingsSpec
    fitted_type = FittedBleepEmbeddings

    def fit(self, data: FoldData, job: JobContext) -> Fitted:
        """Fit one fold for one training seed."""
        values = key_values(self.spec, data)
        trained, choices = fit_selected(lambda part: HeadsTask(self.spec, part, job.device), data, job, self.spec)
        features = data.train.inputs.features()
        scaler = data.scaler(features)
        network = Heads(features.shape[1], values.shape[1], self.spec)
        network.load_state_dict(trained.state)
        keys = embed_profiles(network.to(job.device), torch.from_numpy(values), job.device).cpu().numpy()
        arrays = {"keys": keys, "values": values, "mean": scaler.mean, "scale": scaler.scale}
        return self.restore(as_arrays(trained.state) | arrays, choices)
