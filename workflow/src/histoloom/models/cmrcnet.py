"""CMRCNet: contrastive alignment with masked cross-modal reconstruction; prediction by retrieval.

The paper and its public code (ngfufdrdh/CMRCNet) differ: ``settings: as_code`` and ``as_paper`` name both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from histoloom.models.base import FoldData
from histoloom.models.retrieval import ContrastiveTask, RetrievalModel, RetrievalSpec
from histoloom.networks.cmrcnet import Cmrcnet, cmrcnet_loss, init_like_public_code

_PLAIN = {"batch_size": 64, "epochs": 60, "lr": 1e-4, "min_lr": 1e-5}
# Keys are all observations of training sections, those that chose the epoch too.
_CODE = {**_PLAIN, "keys": "train_and_val", "select_by": "loss"}


@dataclass(frozen=True)
class CmrcnetSpec(RetrievalSpec):
    """Keys of ``model.cmrcnet``."""

    patch_px: int = 32
    depth: int = 8
    encoder_dim: int = 768
    mask_rate: float = 0.5
    activation: Literal["elu", "selu"] = "elu"
    loss_form: Literal["code", "paper"] = "code"
    reconstruct: Literal["image", "expression", "none"] = "image"
    reconstruction_loss: Literal["mse", "cosine"] = "mse"

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": _PLAIN,
        "as_code": _CODE,
        "as_paper": {**_CODE, "activation": "selu", "loss_form": "paper"},
    }

    def network(self, n_outputs: int) -> Cmrcnet:
        return Cmrcnet(
            n_outputs,
            image_px=self.input_px or 224,
            patch_px=self.patch_px,
            depth=self.depth,
            encoder_dim=self.encoder_dim,
            width=self.width,
            mask_keep=1 - self.mask_rate,
            activation=self.activation,
        )


class CmrcnetTask(ContrastiveTask):
    """Contrastive and reconstruction loss of a batch; random weights are drawn as in the public code."""

    def __init__(self, spec: CmrcnetSpec, data: FoldData, device: str) -> None:
        super().__init__(spec, data, device)
        init_like_public_code(self.network)

    def value_loss(self, images: Tensor, y: Tensor) -> Tensor:
        spec = self.spec
        embedded, profiles, reconstruction = self.network(images, y)
        return cmrcnet_loss(
            embedded,
            profiles,
            None if spec.reconstruct == "none" else reconstruction,
            form=spec.loss_form,
            temperature=spec.temperature,
            kind=spec.reconstruction_loss,
            target="expression" if spec.reconstruct == "expression" else "image",
        )


class CMRCNet(RetrievalModel):
    """CMRCNet on any target of values; the profile is the target."""

    spec_type = CmrcnetSpec
    task_type = CmrcnetTask
