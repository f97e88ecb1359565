"""ST-Net: a DenseNet-121 trained end to end on tile pixels, per fold.

He et al., Nat. Biomed. Eng. 4 (2020) 827, doi:10.1038/s41551-020-0578-x, Methods; public code bryanhe/ST-Net.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from histoloom.embeddings.cards import load_cards
from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.inputs.scaling import moments
from histoloom.models.base import Fitted, FoldData, JobContext, Model, Part, Predictions
from histoloom.models.pixel_training import (
    PixelSpec,
    PixelTask,
    fit_pixels,
    pretrained_state,
    run_network,
    saved_preparation,
)
from histoloom.models.training import as_state
from histoloom.networks.stnet import DENSENET121, set_output_to_mean, stnet, stnet_loss

CARD = "densenet121"
_FULL = (32, DENSENET121)


@dataclass(frozen=True)
class STNetSpec(PixelSpec):
    """Keys of ``model.stnet``."""

    weights: str = "imagenet"
    growth_rate: int = 32
    blocks: tuple[int, ...] = DENSENET121
    lr: float = 1e-6
    momentum: float = 0.9
    weight_decay: float = 0.0
    standardise_target: bool = False


class STNetTask(PixelTask):
    """The network of one training, its loss summed over the batch, and SGD."""

    summed = True

    def __init__(self, spec: STNetSpec, data: FoldData, device: str) -> None:
        super().__init__(spec, data, device)
        self.spec = spec
        y = data.train.dense
        self.y_mean, self.y_scale = moments(y) if spec.standardise_target else (np.zeros(1), np.ones(1))
        self.y = self.values(data.train)
        self.network = stnet(y.shape[1], spec.growth_rate, spec.blocks)
        pretrained_state(load_cards()[CARD] | {"name": CARD}, spec.weights, self.network, ["classifier."])
        set_output_to_mean(self.network, self.y.mean(dim=0))

    def optimiser(self) -> torch.optim.Optimizer:
        """Return SGD with momentum."""
        spec = self.spec
        return torch.optim.SGD(
            self.network.parameters(), lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay
        )

    def values(self, part: Part) -> Tensor:
        """Return the (n, T) values, standardised where the spec says so."""
        return torch.from_numpy(((part.dense - self.y_mean) / self.y_scale).astype(np.float32))

    def value_loss(self, images: Tensor, y: Tensor) -> Tensor:
        """Return the squared error, summed over the batch and averaged over outputs."""
        return stnet_loss(self.network(images), y)


class FittedSTNet(Fitted):
    """A trained network, how tiles and outputs are scaled."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T); ``symmetries: 8`` is the mean over flips and quarter turns."""
        arrays = self.arrays
        network = stnet(len(arrays["network/classifier.bias"]), self.spec.growth_rate, self.spec.blocks)
        network.load_state_dict(as_state(arrays))
        network.to(job.device)
        preparation, symmetries = saved_preparation(arrays, self.spec), int(variant.get("symmetries", 1))
        output = run_network(network, network, inputs, preparation, job.device, symmetries)
        return output * arrays["y_scale"] + arrays["y_mean"]


class STNet(Model):
    """ST-Net on any target of values."""

    spec_type = STNetSpec
    fitted_type = FittedSTNet

    def __init__(self, spec: STNetSpec) -> None:
        if spec.weights != "random" and (spec.growth_rate, tuple(spec.blocks)) != _FULL:
            remedy = "set `weights: random`, or leave out `growth_rate` and `blocks`."
            problem = "a smaller network has no pretrained weights."
            raise InputError("model of kind stnet", problem, remedy, code="stnet-width")
        super().__init__(spec)

    def fit(self, data: FoldData, job: JobContext) -> FittedSTNet:
        """Fit one fold for one training seed."""
        _, arrays, choices = fit_pixels(lambda part: STNetTask(self.spec, part, job.device), data, job, self.spec)
        y_mean, y_scale = moments(data.train.dense) if self.spec.standardise_target else (np.zeros(1), np.ones(1))
        return FittedSTNet(self.spec, {**arrays, "y_mean": y_mean, "y_scale": y_scale}, choices)
