"""Models that predict by retrieval: images and profiles in one space, values from the nearest training observations.

BLEEP: Xie et al., NeurIPS 2023, arXiv:2306.01859. CMRCNet: public code ngfufdrdh/CMRCNet. Keys, profiles and values are
training observations of the fold only, with the labels that training was given: shuffled ones in a negative control.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.models.base import Arrays, FoldData, JobContext, Predictions
from histoloom.models.pixel_training import FittedPixels, PixelSpec, PixelTask, run_network
from histoloom.models.training import NetworkModel, cosine, set_rate
from histoloom.networks.retrieval import distance_weights, find_neighbours, predict_from_neighbours

Method = Literal["simple", "average", "weighted"]
_BLOCK = 4096


@dataclass(frozen=True)
class RetrievalSpec(PixelSpec):
    """Keys that both models have; a named setting (``settings``) gives the values that the config leaves out."""

    lr: float = 1e-4
    min_lr: float | None = None
    weight_decay: float = 1e-3
    width: int = 256
    temperature: float = 1.0
    detach_targets: bool = False
    drop_last: bool = True
    reshuffle: bool = True
    augment_at_test: bool = False
    keys: Literal["train", "train_and_val"] = "train"
    k: int = 50
    method: Method = "average"
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def embed_profiles(network: Any, profiles: Tensor, device: str) -> Tensor:
    """Return the keys of profiles (n, width), in evaluation mode, on the device."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([network.embed_spots(part.to(device)).float() for part in profiles.split(_BLOCK)])


def check_k(k: int, n_keys: int) -> None:
    """Refuse to ask for more neighbours than there are keys."""
    if k > n_keys:
        problem = f"{k} neighbours were asked of {n_keys} training observations."
        raise InputError("k", problem, "lower k, or give the fold more training sections.", code="retrieval-k")


def retrieve(queries: Tensor, keys: Tensor, values: Tensor, k: int, method: Method) -> Tensor:
    """Return values (n_queries, T) of the k nearest keys, combined."""
    check_k(k, len(keys))
    index = find_neighbours(queries, keys, k)
    weights = distance_weights(queries, keys, index) if method == "weighted" else None
    return predict_from_neighbours(values, index, method, weights)


def key_values(spec: Any, data: FoldData) -> npt.NDArray[np.float32]:
    """Return the values (n_keys, T) that predictions are made from, after checking that there are enough of them."""
    parts = data.training_side if spec.keys == "train_and_val" else [data.train]
    values = np.concatenate([np.asarray(part.dense, np.float32) for part in parts])
    # Now, and not after hours of training.
    for variant in (spec.variants or {"": {}}).values():
        check_k(int(variant.get("k", spec.k)), len(values))
    if spec.batch_size < 2 or len(data.train) < 2:
        problem, remedy = "a batch of one pair has no other to compare with.", "raise `batch_size`, or train on more."
        raise InputError(data.name, problem, remedy, code="retrieval-batch")
    return values


def keys_with_values(network: Any, spec: Any, data: FoldData, device: str) -> Arrays:
    """Return the keys of a trained network, and the values that belong to them."""
    values = key_values(spec, data)
    return {"keys": embed_profiles(network, torch.from_numpy(values), device).cpu().numpy(), "values": values}


class ContrastiveTask(PixelTask):
    """Contrastive training of one fold: AdamW, cosine schedule where a smallest rate is given.

    Validation predicts by retrieval from the keys of that epoch.
    """

    def __init__(self, spec: RetrievalSpec, data: FoldData, device: str) -> None:
        super().__init__(spec, data, device)
        # The loop wraps `network`; embedding one modality alone goes to the module itself.
        self.data, self.network = data, spec.network(self.y.shape[1])
        self._raw = self.network
        self._keys: Tensor | None = None

    def start_epoch(self, optimiser: torch.optim.Optimizer, epoch: int) -> None:
        """Set the learning rate; the public code steps its schedule before each epoch."""
        self._keys = None
        if self.spec.min_lr is not None:
            set_rate(optimiser, cosine(self.spec.lr, self.spec.min_lr, (epoch + 1) / self.spec.epochs))

    def batches(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Return shuffled batches; a last one that is short is left out, since its loss has fewer negatives."""
        if not self.spec.reshuffle:
            generator = torch.Generator().manual_seed(0)
        batches = super().batches(n, generator)
        shortest = self.batch_size if self.spec.drop_last else 2
        if len(batches) > 1 and len(batches[-1]) < shortest:
            batches.pop()
        return batches

    def predict(self, images: Tensor) -> Tensor:
        """Return values (b, T) retrieved with the setting's own k."""
        if self._keys is None:
            self._keys = embed_profiles(self._raw, self.y, self.device)
        queries, spec = self._raw.embed_images(images), self.spec
        return retrieve(queries, self._keys, self.y.to(self.device), spec.k, spec.method)

    def arrays(self) -> Arrays:
        return {**super().arrays(), **keys_with_values(self._raw, self.spec, self.data, self.device)}


class FittedRetrieval(FittedPixels):
    """A trained network with its keys and their values."""

    def network(self, device: str) -> Any:
        return self.load(self.spec.network(self.arrays["values"].shape[1]), device)

    def queries(self, inputs: Inputs, device: str) -> Tensor:
        network, seed = self.network(device), 0 if self.spec.augment_at_test else None
        output = run_network(network, network.embed_images, inputs, self.preparation, device, augment_seed=seed)
        return torch.from_numpy(output).to(device)

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T); a variant may set ``k`` and ``method``."""
        keys, values = (torch.from_numpy(np.array(self.arrays[name])).to(job.device) for name in ("keys", "values"))
        k, method = int(variant.get("k", self.spec.k)), variant.get("method", self.spec.method)
        return retrieve(self.queries(inputs, job.device), keys, values, k, method).cpu().numpy()


class RetrievalModel(NetworkModel):
    """What all of them share: there must be keys enough; network and keys are kept."""

    fitted_type = FittedRetrieval

    def check(self, data: FoldData) -> None:
        key_values(self.spec, data)
