"""Transformers over the modalities of a cell: genes, morphology and place (CellSymphony paper, section 2.3).

Public code: paulhacosta/xenium_project. Encoders are named under ``inputs``: genes first, then morphology.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.inputs.scaling import Scaler
from histoloom.models.alignment import Aligned, AlignmentSpec, fit_aligned, restore_aligned
from histoloom.models.base import Arrays, Fitted, FoldData, JobContext, Model, Predictions
from histoloom.models.training import FittedNetwork, Task, TrainingSpec, cosine, fit_selected, fits_on_gpu
from histoloom.networks.cell_transformers import CellTransformer, Kind

_BLOCK = 8192


@dataclass(frozen=True, kw_only=True)
class CellTransformerSpec(TrainingSpec):
    """Keys of ``model.cell_transformer``; ``settings`` names the values of keys that the config leaves out."""

    architecture: Kind
    batch_size: int = 64
    epochs: int = 20
    lr: float = 3e-5
    weight_decay: float = 0.01
    width: int = 512
    heads: int = 8
    n_layers: int = 6
    hidden: int = 2048
    dropout: float = 0.1
    class_weights: bool = False
    one_cycle: bool = False
    coordinates: Literal["pixels", "unit", "um"] = "unit"
    period_um: float = 1000.0
    frequencies: tuple[float, ...] = (1.0,)
    projections: Mapping[str, Any] | None = None

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {"class_weights": True, "coordinates": "unit", "frequencies": [1.0, 2.0, 4.0, 8.0]},
        # Weights and schedule in the multimodal model only; one frequency over pixels.
        "as_code": {"coordinates": "pixels"},
        # The text: class weights in all models.
        "as_paper": {"class_weights": True, "coordinates": "pixels"},
    }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """Make the settings; the papers' ones have a further choice for the multimodal model."""
        if entry.get("settings", "default") != "default" and entry["architecture"] == "multi":
            entry = {"class_weights": True, "one_cycle": True, **entry}
        return super().from_json(entry)

    @property
    def n_modalities(self) -> int:
        """Return how many encoders the architecture takes."""
        return 2 if self.architecture in ("dual", "multi") or self.projections is not None else 1

    @property
    def alignment(self) -> AlignmentSpec:
        return AlignmentSpec.from_json(self.projections or {})

    @property
    def sees_test_inputs(self) -> bool:
        """Whether the heads are trained on the embeddings of all cells."""
        return self.projections is not None and self.alignment.sees_test_inputs


def place(inputs: Inputs, spec: CellTransformerSpec) -> npt.NDArray[np.float32]:
    """Return coordinates (n, 2) in periods of the position encoding.

    ``pixels``: as they are, so that the encoding is a hash of the sub-pixel remainder (public code); ``unit``: 0..1
    along the longer side of each whole section, from its own corner; ``um``: from that corner, in units of
    ``period_um``.
    """
    obs, at = inputs.whole_sections()
    xy = obs[["x", "y"]].to_numpy(np.float64)
    if spec.coordinates == "pixels":
        return xy[at].astype(np.float32)
    for rows in obs.groupby(["cohort", "sample"], sort=False, observed=True).indices.values():
        xy[rows] -= xy[rows].min(axis=0)
        if spec.coordinates == "unit":
            xy[rows] /= max(float(xy[rows].max()), 1e-9)
    if spec.coordinates == "um":
        if "um_per_px" not in obs or obs["um_per_px"].isna().to_numpy().any():
            remedy = "use `coordinates: unit`, or give the sections' mpp."
            raise InputError("coordinates: um", "a section's mpp is not known.", remedy, code="cell-transformer-um")
        xy *= obs[["um_per_px"]].to_numpy(np.float64) / spec.period_um
    return xy[at].astype(np.float32)


class _Cells:
    """Features and coordinates of cells by block.

    Features are embeddings, scaled as the fold's training ones, or their projections by contrastive heads; those of
    all cells lie on the GPU named by `held_on` where they fit.
    """

    def __init__(
        self, inputs: Inputs, spec: CellTransformerSpec, prepare: Scaler | Aligned, held_on: str = "cpu"
    ) -> None:
        self.widths = inputs.feature_widths()
        if len(self.widths) != spec.n_modalities:
            problem = f"{spec.architecture} takes {spec.n_modalities} encoders, {len(self.widths)} are named."
            remedy = "name genes first, then morphology, or choose another architecture."
            raise InputError("inputs", problem, remedy, code="cell-transformer-inputs")
        self._read: Callable[[npt.NDArray[np.intp]], npt.NDArray[np.float32]]
        if isinstance(prepare, Aligned):
            # Of two small projections all cells are held: the heads run once and not at every step.
            n_used = 2 if spec.architecture in ("dual", "multi") else 1
            self.widths = [spec.alignment.width] * n_used
            projected = prepare.project(inputs)[:, : sum(self.widths)]
            self._read = projected.__getitem__
        else:
            self._read = lambda rows: prepare(inputs.features(rows))
        self._held: Tensor | None = None
        if fits_on_gpu(4 * len(inputs) * sum(self.widths), held_on):
            self._held = torch.empty((len(inputs), sum(self.widths)), device=held_on)
            for rows in inputs.blocks(_BLOCK):
                self._held[rows[0] : rows[-1] + 1] = torch.from_numpy(self._read(rows))
        has_place = spec.architecture in ("spatial", "multi")
        self._place = torch.from_numpy(place(inputs, spec)) if has_place else None

    def batch(self, rows: Tensor, device: str) -> list[Tensor | None]:
        """Return genes, morphology and coordinates of some rows on the device."""
        if self._held is not None:
            features = self._held[rows.to(self._held.device)]
        else:
            features = torch.from_numpy(self._read(rows.numpy())).to(device)
        parts: list[Tensor | None] = list(features.split(self.widths, dim=1))
        parts += [None] * (2 - len(parts))
        return [*parts, None if self._place is None else self._place[rows].to(device)]


def make_network(spec: CellTransformerSpec, n_classes: int, widths: list[int]) -> CellTransformer:
    return CellTransformer(
        spec.architecture,
        n_classes,
        gene_dim=widths[0],
        morph_dim=widths[-1],
        width=spec.width,
        heads=spec.heads,
        n_layers=spec.n_layers,
        hidden=spec.hidden,
        dropout=spec.dropout,
        frequencies=tuple(spec.frequencies),
    )


def predict_cells(network: Any, cells: _Cells, n: int, device: str) -> Predictions:
    """Return class probabilities (n, C) float32."""
    network.eval()
    with torch.inference_mode():
        parts = [network(*cells.batch(rows, device)).float().softmax(1).cpu() for rows in torch.arange(n).split(_BLOCK)]
    probabilities: Predictions = torch.cat(parts).numpy()
    return probabilities


class CellTransformerTask(Task):
    """Cross-entropy of a batch, AdamW, one cycle of the learning rate where the spec says so."""

    def __init__(self, spec: CellTransformerSpec, data: FoldData, job: JobContext) -> None:
        self.spec, self.device, self.batch_size = spec, job.device, spec.batch_size
        self.prepare: Scaler | Aligned
        if spec.projections is None:
            self.prepare = data.scaler_of(data.train.inputs)
        else:
            self.prepare = fit_aligned(data, job, spec.alignment)
            torch.manual_seed(data.stream("network"))
        self.cells = _Cells(data.train.inputs, spec, self.prepare, held_on=job.device)
        self.y = torch.from_numpy(np.asarray(data.train.y, np.int64))
        self.network = make_network(spec, len(data.outputs), self.cells.widths)
        counts = torch.bincount(self.y, minlength=len(data.outputs))
        self.weights = (1 / (counts + 1e-8)).float().to(job.device) if spec.class_weights else None
        self._total = -(-len(self.y) // spec.batch_size) * spec.epochs

    def start_step(self, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Set rate and first moment of a step from 0: OneCycleLR's defaults, as a function of the step alone."""
        if not self.spec.one_cycle:
            return
        rate, beta = one_cycle(step, self._total, self.spec.lr)
        for group in optimiser.param_groups:
            group["lr"], group["betas"] = rate, (beta, group["betas"][1])

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        logits = self.network(*self.cells.batch(rows, self.device))
        return F.cross_entropy(logits, self.y[rows].to(self.device), self.weights)

    def predict_inputs(self, inputs: Inputs) -> Predictions:
        return predict_cells(self.network, _Cells(inputs, self.spec, self.prepare), len(inputs), self.device)

    def arrays(self) -> Arrays:
        if isinstance(self.prepare, Aligned):
            return self.prepare.arrays()
        return {"feature_mean": self.prepare.mean, "feature_scale": self.prepare.scale}


def one_cycle(step: int, total: int, max_lr: float) -> tuple[float, float]:
    """Return learning rate and beta1 of torch's OneCycleLR with its defaults, at a step from 0."""
    warm_up = 0.3 * total - 1
    low, end = max_lr / 25, max_lr / 25 / 1e4
    if step <= warm_up:
        share = step / warm_up
        return cosine(low, max_lr, share), cosine(0.95, 0.85, share)
    share = (step - warm_up) / (total - 1 - warm_up)
    return cosine(max_lr, end, share), cosine(0.85, 0.95, share)


class FittedCellTransformer(FittedNetwork):
    """A trained network and the scaling of its inputs."""

    last_bias = "network/classifier.1.bias"

    def aligned(self, inputs: Inputs, device: str) -> Aligned:
        """Return the trained contrastive heads, of a model with `projections`."""
        return restore_aligned(self.arrays, self.spec.alignment, inputs.feature_widths(), device)

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        prepare: Scaler | Aligned
        if self.spec.projections is None:
            prepare = Scaler(self.arrays["feature_mean"], self.arrays["feature_scale"])
        else:
            prepare = self.aligned(inputs, job.device)
        cells = _Cells(inputs, self.spec, prepare)
        network = self.load(make_network(self.spec, len(self.arrays[self.last_bias]), cells.widths), job.device)
        return predict_cells(network, cells, len(inputs), job.device)


class CellTransformerModel(Model):
    """One of the four transformers on cell classes."""

    spec_type = CellTransformerSpec
    fitted_type = FittedCellTransformer

    def fit(self, data: FoldData, job: JobContext) -> Fitted:
        """Fit one fold for one training seed; contrastive heads, where asked for, on the same training cells first."""
        arrays, choices = fit_selected(lambda part: CellTransformerTask(self.spec, part, job), data, job, self.spec)
        return self.restore(arrays, choices)
