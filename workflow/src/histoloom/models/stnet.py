"""ST-Net: a DenseNet-121 trained end to end on tile pixels, per fold.

He et al., Nat. Biomed. Eng. 4 (2020) 827, doi:10.1038/s41551-020-0578-x, Methods; public code bryanhe/ST-Net.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.inputs.scaling import moments
from histoloom.models.base import Arrays, FoldData, JobContext, Part, Predictions
from histoloom.models.pixel_training import FittedPixels, PixelSpec, PixelTask, pretrained_state, run_network
from histoloom.models.training import NetworkModel
from histoloom.networks.stnet import DENSENET121, set_output_to_mean, stnet, stnet_loss

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

    def network(self, n_outputs: int) -> nn.Module:
        return stnet(n_outputs, self.growth_rate, self.blocks)


class STNetTask(PixelTask):
    """The network of one training, its loss summed over the batch, and SGD."""

    summed = True

    def __init__(self, spec: STNetSpec, data: FoldData, device: str) -> None:
        scale = moments(data.train.dense) if spec.standardise_target else (np.zeros(1), np.ones(1))
        self.y_mean, self.y_scale = scale
        super().__init__(spec, data, device)
        self.network = spec.network(self.y.shape[1])
        pretrained_state("densenet121", spec.weights, self.network, ["classifier."])
        set_output_to_mean(self.network, self.y.mean(dim=0))

    def optimiser(self) -> torch.optim.Optimizer:
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

    def arrays(self) -> Arrays:
        return {**super().arrays(), "y_mean": self.y_mean, "y_scale": self.y_scale}


class FittedSTNet(FittedPixels):
    """A trained network, how tiles and outputs are scaled."""

    last_bias = "network/classifier.bias"

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T); ``symmetries: 8`` is the mean over flips and quarter turns."""
        network, symmetries = self.network(job.device), int(variant.get("symmetries", 1))
        output = run_network(network, network, inputs, self.preparation, job.device, symmetries)
        return output * self.arrays["y_scale"] + self.arrays["y_mean"]


class STNet(NetworkModel):
    """ST-Net on any target of values."""

    spec_type = STNetSpec
    fitted_type = FittedSTNet
    task_type = STNetTask

    def __init__(self, spec: STNetSpec) -> None:
        if spec.weights != "random" and (spec.growth_rate, tuple(spec.blocks)) != _FULL:
            remedy = "set `weights: random`, or leave out `growth_rate` and `blocks`."
            problem = "a smaller network has no pretrained weights."
            raise InputError("model of kind stnet", problem, remedy, code="stnet-width")
        super().__init__(spec)
