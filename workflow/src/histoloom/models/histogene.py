"""HisToGene: a transformer over all spots of a section, trained per fold; one section is one batch.

Pang et al., bioRxiv 2021, doi:10.1101/2021.11.28.470212; public code maxpmx/HisToGene.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.models.base import FoldData, JobContext, Predictions
from histoloom.models.pixel_training import FittedPixels, PixelSpec, PixelTask, Preparation, Tiles, rows_in_order
from histoloom.models.training import NetworkModel
from histoloom.networks.histogene import HisToGene

_BLOCK = 512
# Pixels of 0..255 as they are; the learning rate belongs to that scale.
_CODE = {"batch_size": 1, "epochs": 100, "augment": False, "normalise": "raw", "lr": 1e-5}


@dataclass(frozen=True)
class HisToGeneSpec(PixelSpec):
    """Keys of ``model.histogene``; a named setting (``settings``) gives the values that the config leaves out."""

    input_px: int = 112
    lr: float = 1e-5
    dim: int = 1024
    n_layers: int = 8
    heads: int = 16
    n_pos: int = 64
    dropout: float = 0.1
    positions: Literal["array", "hexagonal_rows"] = "array"

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {**_CODE, "normalise": "unit", "lr": 1e-4},
        "as_code": _CODE,
        "as_paper": {**_CODE, "n_layers": 4},
    }

    def network(self, n_outputs: int) -> HisToGene:
        return HisToGene(n_outputs, self.input_px, self.dim, self.n_layers, self.heads, self.n_pos, self.dropout)


def array_positions(inputs: Inputs, spec: HisToGeneSpec) -> Tensor:
    """Return (n, 2) positions x, y in the tables: array column and row, from 0 within each whole section.

    ``hexagonal_rows`` halves the column, which counts 0..127 on a Visium array of which every row uses every second.
    """
    obs, at = inputs.whole_sections()
    if "array_row" not in obs or obs[["array_row", "array_col"]].isna().to_numpy().any():
        remedy = "use a model without positions, or give array_row and array_col."
        problem = "an observation has no array coordinates."
        raise InputError("model of kind histogene", problem, remedy, code="histogene-coordinates")
    xy = obs[["array_col", "array_row"]].to_numpy(np.int64)
    if spec.positions == "hexagonal_rows":
        xy[:, 0] //= 2
    sections: Mapping[Any, Any] = obs.groupby(["cohort", "sample"], sort=False, observed=True).indices
    for (cohort, sample), rows in sections.items():
        xy[rows] -= xy[rows].min(axis=0)
        if xy[rows].max() >= spec.n_pos:
            problem = f"its array has {xy[rows].max() + 1} positions along one axis, the tables have {spec.n_pos}."
            remedy = "raise `n_pos`, or on a hexagonal array set `positions: hexagonal_rows` and `n_pos: 78`."
            raise InputError(f"{cohort}/{sample}", problem, remedy, code="histogene-positions")
    return torch.from_numpy(xy[at])


def flatten_patches(images: Tensor) -> Tensor:
    """Return (1, n, 3 * h * w) of images (n, 3, h, w), each flattened in the order x, y, channel."""
    return images.permute(0, 3, 2, 1).flatten(1)[None]


def predict_sections(
    network: Any, inputs: Inputs, spec: HisToGeneSpec, preparation: Preparation, device: str
) -> Predictions:
    """Return (n, T) float32: every section at once, in evaluation mode."""
    network.eval()
    tiles, positions = Tiles(inputs, device, hold=False), array_positions(inputs, spec)

    def predict(rows: Tensor) -> Tensor:
        patches = [flatten_patches(preparation(tiles.batch(part))) for part in rows.split(_BLOCK)]
        values: Tensor = network(torch.cat(patches, 1), positions[rows][None].to(device))[0]
        return values

    with torch.inference_mode():
        return rows_in_order((index, predict(torch.from_numpy(index))) for _, index in inputs.sections())


class HisToGeneTask(PixelTask):
    """Mean squared error over all spots of a section, Adam."""

    def __init__(self, spec: HisToGeneSpec, data: FoldData, device: str) -> None:
        super().__init__(spec, data, device)
        self.network = spec.network(self.y.shape[1])
        self.positions = array_positions(data.train.inputs, spec)
        self.sections = [torch.from_numpy(rows) for _, rows in data.train.inputs.sections()]

    def optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network.parameters(), lr=self.spec.lr)

    def batches(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Return the sections in random order."""
        order = torch.randperm(len(self.sections), generator=generator).tolist()
        return [self.sections[number] for number in order]

    def images(self, rows: Tensor, codes: Tensor | None) -> Tensor:
        """Return prepared images of a section; some at a time are held at the tiles' own size."""
        prepare, parts = super().images, rows.split(_BLOCK)
        turned = [None] * len(parts) if codes is None else codes.split(_BLOCK)
        return torch.cat([prepare(part, own) for part, own in zip(parts, turned, strict=True)])

    def image_loss(self, images: Tensor, rows: Tensor) -> Tensor:
        predicted = self.network(flatten_patches(images), self.positions[rows][None].to(images.device))
        return torch.nn.functional.mse_loss(predicted[0], self.y[rows].to(images.device))

    def predict_inputs(self, inputs: Inputs) -> Predictions:
        return predict_sections(self.network, inputs, self.spec, self.preparation, self.device)


class FittedHisToGene(FittedPixels):
    """A trained network."""

    last_bias = "network/gene_head.1.bias"

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        return predict_sections(self.network(job.device), inputs, self.spec, self.preparation, job.device)


class HisToGeneModel(NetworkModel):
    """HisToGene on any target of values."""

    spec_type = HisToGeneSpec
    fitted_type = FittedHisToGene
    task_type = HisToGeneTask
