"""BLEEP: a convolutional image encoder aligned with expression; prediction by retrieval.

Xie et al., NeurIPS 2023, arXiv:2306.01859, section 3; public code bowang-lab/BLEEP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from histoloom.errors import InputError
from histoloom.models.base import FoldData
from histoloom.models.pixel_training import pretrained_state
from histoloom.models.retrieval import ContrastiveTask, RetrievalModel, RetrievalSpec
from histoloom.networks.bleep import Bleep
from histoloom.networks.contrastive import contrastive_losses

_CODE = {
    "batch_size": 128, "epochs": 150, "lr": 1e-3, "weight_decay": 1e-3, "keys": "train_and_val", "select_by": "loss",
}  # fmt: skip


@dataclass(frozen=True)
class BleepSpec(RetrievalSpec):
    """Keys of ``model.bleep``."""

    weights: str = "imagenet"
    architecture: str = "resnet50"
    dropout: float = 0.1

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Normalised pixels and a rate that does not depend on the batch norm of a large batch.
        "default": {"batch_size": 128, "epochs": 30, "lr": 1e-4, "weight_decay": 1e-3},
        # Constant rate, 128 pairs on each device; the authors trained up to 150 epochs.
        "as_code": _CODE,
        # What the published numbers were made with (public code before October 2024): pixels 0..255 in the order that
        # cv2 reads them, test tiles turned at random, the same batches in every epoch.
        "as_code_2023": {
            **_CODE,
            "normalise": "raw",
            "channel_order": "bgr",
            "augment_at_test": True,
            "reshuffle": False,
        },
        "as_paper": {**_CODE, "batch_size": 512},
    }

    def network(self, n_outputs: int) -> Bleep:
        return Bleep(n_outputs, self.width, self.dropout, self.architecture)


class BleepTask(ContrastiveTask):
    """Mean contrastive loss of a batch; the image encoder starts as the config says."""

    def __init__(self, spec: BleepSpec, data: FoldData, device: str) -> None:
        super().__init__(spec, data, device)
        pretrained_state("resnet50", spec.weights, self.network.image_encoder.model, ["fc."])

    def value_loss(self, images: Tensor, y: Tensor) -> Tensor:
        embedded, profiles = self.network(images, y)
        spec = self.spec
        losses = contrastive_losses(
            embedded, profiles, spec.temperature, temperature_in_targets="divide", detach_targets=spec.detach_targets
        )
        return losses.mean()


class BLEEP(RetrievalModel):
    """BLEEP on any target of values; the profile is the target."""

    spec_type = BleepSpec
    task_type = BleepTask

    def __init__(self, spec: BleepSpec) -> None:
        if spec.weights == "imagenet" and spec.architecture != "resnet50":
            problem = f"there is no card of ImageNet weights for '{spec.architecture}'."
            remedy = "set `weights: random` or the path of a file, or use resnet50."
            raise InputError("model of kind bleep", problem, remedy, code="bleep-weights")
        super().__init__(spec)
