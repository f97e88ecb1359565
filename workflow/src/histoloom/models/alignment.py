"""Contrastive alignment of genes and morphology of a cell on frozen embeddings (CellSymphony paper, section 2.4).

Public code: paulhacosta/xenium_project. Encoders are named under ``inputs``: genes first, then morphology.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.inputs.features import BLOCK
from histoloom.inputs.scaling import Scaler
from histoloom.models.base import Arrays, Fitted, FoldData, JobContext, Model, Part, Predictions
from histoloom.models.linear import NAMES, LogisticMap, LogisticRegression, LogisticSpec
from histoloom.models.training import Task, TrainingSpec, train
from histoloom.networks.cell_transformers import AlignmentHead, info_nce

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class AlignmentSpec(TrainingSpec):
    """Keys of ``model.alignment``; those up to ``trained_on`` are ``projections`` of ``model.cell_transformer`` too."""

    batch_size: int = 1024
    epochs: int = 50
    lr: float = 1e-3
    weight_decay: float = 0.0
    temperature: float = 0.07
    hidden: int = 256
    width: int = 128
    trained_on: Literal["train", "all"] = "train"
    probe: Literal["joint", "genes", "morphology"] = "joint"
    c: float = 1.0

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "as_code": {"epochs": 200, "trained_on": "all"},
    }

    @property
    def sees_test_inputs(self) -> bool:
        """Whether the heads are trained on the embeddings of all cells, test ones included."""
        return self.trained_on == "all"


class Heads(nn.Module):
    """Projections of genes and morphology (n, D) into one space (n, width), not normalised."""

    def __init__(self, widths: list[int], spec: AlignmentSpec) -> None:
        super().__init__()
        if len(widths) != 2:
            problem = f"an alignment takes two encoders, {len(widths)} are named."
            raise InputError("inputs", problem, "name genes first, then morphology.", code="alignment-inputs")
        self.genes, self.morphology = (AlignmentHead(width, spec.hidden, spec.width) for width in widths)
        self.widths = widths

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return both projections of features side by side (n, D_genes + D_morphology)."""
        genes, morphology = features.split(self.widths, dim=1)
        return self.genes(genes), self.morphology(morphology)


class AlignmentTask(Task):
    """InfoNCE both ways, their mean, by Adam; every other cell of a batch is a negative, of the same class too."""

    optimiser_type = torch.optim.Adam

    def __init__(self, spec: AlignmentSpec, data: FoldData, device: str) -> None:
        self.spec, self.device, self.inputs = spec, device, data.train.inputs
        self.scaler = data.scaler_of(self.inputs)
        self.network = Heads(self.inputs.feature_widths(), spec)

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        del generator  # nothing is drawn
        features = torch.from_numpy(self.scaler(self.inputs.features(rows.numpy()))).to(self.device)
        genes, morphology = self.network(features)
        forth, back = info_nce(genes, morphology, self.spec.temperature)
        return (forth + back) / 2


@dataclass(frozen=True)
class Aligned:
    """Trained heads with the scaling of their inputs."""

    heads: Heads
    scaler: Scaler
    device: str

    def project(self, inputs: Inputs) -> Float32:
        """Return (n, 2 width): projected genes, then morphology, in blocks of rows."""
        self.heads.eval()
        parts: list[Float32] = []
        with torch.inference_mode():
            for rows in inputs.blocks(BLOCK):
                features = torch.from_numpy(self.scaler(inputs.features(rows))).to(self.device)
                parts.append(torch.cat(self.heads(features), 1).float().cpu().numpy())
        projected: Float32 = np.concatenate(parts)
        return projected

    def arrays(self) -> Arrays:
        """Return weights and scaling by name, for `restore_aligned`."""
        weights = {f"heads/{name}": value.cpu().numpy() for name, value in self.heads.state_dict().items()}
        return {**weights, "heads_mean": self.scaler.mean, "heads_scale": self.scaler.scale}


def restore_aligned(arrays: Arrays, spec: AlignmentSpec, widths: list[int], device: str) -> Aligned:
    """Return the heads of `Aligned.arrays` for encoders of these widths."""
    heads = Heads(widths, spec)
    weights = {n.removeprefix("heads/"): torch.from_numpy(np.array(a)) for n, a in arrays.items() if "heads/" in n}
    heads.load_state_dict(weights)
    return Aligned(heads.to(device), Scaler(arrays["heads_mean"], arrays["heads_scale"]), device)


def fit_aligned(data: FoldData, job: JobContext, spec: AlignmentSpec) -> Aligned:
    """Train heads on a fold's training cells; on all cells where the settings say so (as published).

    Labels take no part. The number of epochs is the settings': nothing is selected.
    """
    part = data.train
    if spec.sees_test_inputs:
        if data.everyone is None:
            raise TypeError("a spec with `sees_test_inputs` gets the inputs of all observations from its setup")
        none = np.zeros(len(data.everyone), np.intp)
        part = Part(data.everyone, none, none, none)
    if len(part) < 2:
        problem = f"fold '{data.name}' has {len(part)} cells to align."
        raise InputError("alignment", problem, "give more cells, or fewer folds.", code="alignment-cells")
    alone = replace(data, train=part, val=None)
    trained = train(lambda d: AlignmentTask(spec, d, job.device), alone, job, spec, spec.epochs, "alignment")
    task: Any = trained.task
    task.network.load_state_dict(trained.state)
    heads = Heads(part.inputs.feature_widths(), spec)
    heads.load_state_dict(trained.state)
    return Aligned(heads.to(job.device), task.scaler, job.device)


def in_batch_retrieval(
    genes: Float32, morphology: Float32, batch_size: int, seed: int, tops: tuple[int, ...] = (1, 5)
) -> dict[tuple[str, int], float]:
    """Return the share of cells whose own pair is among the k nearest (cosine) of a batch, by direction and k.

    Rows of both are the same cells. Batches are drawn without replacement and are of equal size (the last cells of the
    draw are left out); with `batch_size` N unrelated pairs reach k / N.
    """
    n = len(genes)
    size = min(batch_size, n)
    order = np.random.default_rng(seed).permutation(n)[: n // size * size].reshape(-1, size)
    first, second = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (genes, morphology))
    hits = {(direction, k): 0 for direction in ("genes to morphology", "morphology to genes") for k in tops}
    for rows in order:
        similarity = first[rows] @ second[rows].T
        for direction, values in (("genes to morphology", similarity), ("morphology to genes", similarity.T)):
            own = np.diag(values)
            # Equal similarities count against the pair: one vector for all cells retrieves nothing.
            rank = (values >= own[:, None]).sum(axis=1)
            for k in tops:
                hits[direction, k] += int((rank <= k).sum())
    return {key: count / order.size for key, count in hits.items()}


class FittedAlignment(Fitted):
    """Heads, and a linear probe on their output."""

    def aligned(self, inputs: Inputs, device: str) -> Aligned:
        return restore_aligned(self.arrays, self.spec, inputs.feature_widths(), device)

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        features = probed(self.aligned(inputs, job.device).project(inputs), self.spec)
        probe = LogisticMap(self.spec, {name: self.arrays[f"probe_{name}"] for name in NAMES}, {})
        return probe.predict(inputs.with_features(features), variant, job)


def probed(projections: Float32, spec: AlignmentSpec) -> Float32:
    """Return what the probe reads of both projections: one of them, or their mean (the paper's joint space)."""
    genes, morphology = projections[:, : spec.width], projections[:, spec.width :]
    if spec.probe == "joint":
        return np.asarray((genes + morphology) / 2, np.float32)
    return genes if spec.probe == "genes" else morphology


class Alignment(Model):
    """Contrastive heads; classes by logistic regression on the projections of training cells."""

    spec_type = AlignmentSpec
    fitted_type = FittedAlignment

    def fit(self, data: FoldData, job: JobContext) -> Fitted:
        aligned = fit_aligned(data, job, self.spec)
        inputs = data.train.inputs
        features = inputs.with_features(probed(aligned.project(inputs), self.spec))
        settings = LogisticSpec(c=self.spec.c, class_weight=None, max_iter=1000)
        probe = LogisticRegression(settings).fit(replace(data, train=replace(data.train, inputs=features)), job)
        arrays = {**aligned.arrays(), **{f"probe_{name}": probe.arrays[name] for name in NAMES}}
        return self.restore(arrays, {"how": "fixed", "epochs": self.spec.epochs})
