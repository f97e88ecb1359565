"""Hist2Cell: image features, a graph of spots and a transformer over the batch, trained per fold.

Zhao et al., doi:10.1101/2024.02.17.580852; public code Weiqin-Zhao/Hist2Cell. A batch is a number of centres with their
two-hop neighbours and the edges among them. A prediction depends on what else is in its batch, so the order of nodes is
part of the protocol: section, array_row, array_col.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import block_diag, csr_array
from torch import Tensor

from histoloom.inputs import Inputs
from histoloom.models.base import FoldData, JobContext, Predictions
from histoloom.models.pixel_training import (
    FittedPixels,
    PixelSpec,
    PixelTask,
    Preparation,
    Tiles,
    pretrained_state,
    rows_in_order,
)
from histoloom.models.training import NetworkModel, cosine, set_rate
from histoloom.networks.hist2cell import Hist2Cell

_BLOCK = 256
_CODE = {"batch_size": 16, "epochs": 5, "augment": False, "normalise": "imagenet"}


@dataclass(frozen=True)
class Hist2CellSpec(PixelSpec):
    """Keys of ``model.hist2cell``; a named setting (``settings``) gives the values that the config leaves out.

    `batch_size` counts centres. `checkpoint_activations` and `channels_last` are about memory and speed; the latter
    changes digits, as `precision` does.
    """

    weights: str = "imagenet"
    depth: int = 3
    dropout: float = 0.3
    lr: float = 1e-4
    min_lr: float = 1e-5
    weight_decay: float = 1e-4
    period: int = 20
    rectify: bool = True
    checkpoint_activations: bool = False
    channels_last: bool = True

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {**_CODE, "epochs": 20},
        "as_code": _CODE,
        # The last ReLU is missing in the training notebook of 2024; the rate rises again after 20 epochs.
        "as_code_2024": {**_CODE, "rectify": False},
    }

    def network(self, n_outputs: int) -> Hist2Cell:
        """Return the untrained network, which is rectified in prediction in any case."""
        return Hist2Cell(n_outputs, self.depth, self.dropout, rectify=True)


@dataclass(frozen=True)
class NodeBatch:
    """Nodes of a batch, centres first, and the edges among them.

    Attributes
    ----------
    nodes
        (m,) rows of the inputs: n_centres centres, then first ring, then second, each in order of row.
    edges
        (2, E) within the batch, source over target.
    """

    nodes: Tensor
    n_centres: int
    edges: Tensor


class SpotGraph:
    """The graph of all spots of some inputs, block-diagonal over sections, with two-hop batches.

    Attributes
    ----------
    order
        (n,) rows sorted by section, array_row, array_col: the fixed order of nodes.
    """

    def __init__(self, inputs: Inputs) -> None:
        blocks, rows = [], []
        for section, index in inputs.sections():
            blocks.append(inputs.graph(section))
            rows.append(index)
        place = np.concatenate(rows)
        whole = csr_array(block_diag(blocks, format="csr"))
        back = np.empty_like(place)
        back[place] = np.arange(len(place))
        self.adjacency = csr_array(whole[back][:, back])
        self.adjacency.sort_indices()
        row, column = inputs.obs["array_row"].to_numpy(), inputs.obs["array_col"].to_numpy()
        self.order = np.concatenate([index[np.lexsort((column[index], row[index]))] for index in rows])

    def _neighbours(self, nodes: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        return np.unique(self.adjacency[nodes].indices).astype(np.intp)

    def batch(self, centres: npt.NDArray[np.intp]) -> NodeBatch:
        """Return centres with two hops and the induced edges."""
        first = np.setdiff1d(self._neighbours(centres), centres)
        second = np.setdiff1d(self._neighbours(first), np.concatenate([centres, first])) if len(first) else first
        nodes = np.concatenate([centres, first, second])
        return NodeBatch(torch.from_numpy(nodes), len(centres), self.edges(nodes))

    def edges(self, nodes: npt.NDArray[np.intp]) -> Tensor:
        """Return the (2, E) edges among some nodes, source over target, as positions among these."""
        induced = self.adjacency[nodes][:, nodes].tocoo()
        return torch.from_numpy(np.stack([induced.row, induced.col]).astype(np.int64))

    def consecutive(self, size: int) -> list[NodeBatch]:
        """Return batches of `size` consecutive centres in the fixed order."""
        return [self.batch(self.order[start : start + size]) for start in range(0, len(self.order), size)]


def predict_nodes(
    network: Hist2Cell, inputs: Inputs, graph: SpotGraph, preparation: Preparation, device: str, size: int
) -> Predictions:
    """Return (n, T) float32 in evaluation mode: each image once, then batch by batch.

    Image features do not depend on the batch in evaluation mode, so this equals a forward pass of every batch.
    """
    network.eval()
    tiles = Tiles(inputs, device, hold=False)
    with torch.inference_mode():
        rows = torch.arange(len(inputs))
        features = torch.cat([network.image_features(preparation(tiles.batch(part))) for part in rows.split(_BLOCK)])

        def predict(batch: NodeBatch) -> Tensor:
            nodes, edges = batch.nodes.to(features.device), batch.edges.to(features.device)
            return network.predict_from_features(features[nodes], edges)[: batch.n_centres]

        batches = graph.consecutive(size)
        return rows_in_order((batch.nodes[: batch.n_centres].numpy(), predict(batch)) for batch in batches)


class Hist2CellTask(PixelTask):
    """Mean squared error over all nodes of a batch, Adam with coupled decay, cosine schedule by epoch."""

    optimiser_type = torch.optim.Adam

    def __init__(self, spec: Hist2CellSpec, data: FoldData, device: str) -> None:
        super().__init__(spec, data, device)
        self.graph = SpotGraph(data.train.inputs)
        self.preparation = replace(self.preparation, channels_last=spec.channels_last)
        self.memory_format = torch.channels_last if spec.channels_last else None
        # The loop wraps `network`; image features alone are the module's own affair.
        self._raw = Hist2Cell(self.y.shape[1], spec.depth, spec.dropout, spec.rectify, spec.checkpoint_activations)
        self.network = self._raw
        pretrained_trunk(self._raw, spec.weights)

    def start_epoch(self, optimiser: torch.optim.Optimizer, epoch: int) -> None:
        """Set the learning rate: it falls for `period` epochs and then rises again, as in the public code."""
        set_rate(optimiser, cosine(self.spec.lr, self.spec.min_lr, epoch / self.spec.period))

    def batches(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Return batches of nodes; their first `batch_size` are the centres, drawn at random."""
        centres = torch.randperm(n, generator=generator).split(self.batch_size)
        return [self.graph.batch(part.numpy()).nodes for part in centres]

    def image_loss(self, images: Tensor, rows: Tensor) -> Tensor:
        predicted = self.network(images, self.graph.edges(rows.numpy()).to(images.device))
        return torch.nn.functional.mse_loss(predicted, self.y[rows].to(images.device))

    def predict_inputs(self, inputs: Inputs) -> Predictions:
        return predict_nodes(self._raw, inputs, SpotGraph(inputs), self.preparation, self.device, self.batch_size)


def pretrained_trunk(network: Hist2Cell, weights: str) -> None:
    """Start the trunk from ImageNet weights, a file or as it is."""
    import timm

    trunk: Any = timm.create_model("resnet18", pretrained=False, num_classes=0)
    pretrained_state("resnet18", weights, trunk, ["fc."])
    if weights != "random":
        names = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")
        for own, name in zip(network.resnet18, names, strict=True):
            own.load_state_dict(trunk.get_submodule(name).state_dict())


class FittedHist2Cell(FittedPixels):
    """A trained network."""

    last_bias = "network/spot_head.fc2.bias"

    @property
    def preparation(self) -> Preparation:
        return replace(super().preparation, channels_last=self.spec.channels_last)

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T), in batches of consecutive nodes in the fixed order."""
        network, size = self.network(job.device), self.spec.batch_size
        return predict_nodes(network, inputs, SpotGraph(inputs), self.preparation, job.device, size)


class Hist2CellModel(NetworkModel):
    """Hist2Cell on abundance or expression."""

    spec_type = Hist2CellSpec
    fitted_type = FittedHist2Cell
    task_type = Hist2CellTask
