"""Labels of the nearest training cells of the section: what place alone says, where training cells are around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from histoloom.inputs import Inputs
from histoloom.models.base import Fitted, FoldData, JobContext, Model, Predictions, Spec
from histoloom.targets.base import one_hot


@dataclass(frozen=True)
class SpatialNeighborsSpec(Spec):
    """Keys of ``model.spatial_neighbors``."""

    n_neighbors: int


class FittedSpatialNeighbors(Fitted):
    """Training ``position`` (n, 2), ``label`` (n,), ``section`` (n,) by number, and ``share`` (C,) of the classes."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, C), shares among the nearest; of sections without training cells those of all training cells."""
        from scipy.spatial import cKDTree

        part, numbers = self.arrays, {name: i for i, name in enumerate(self.choices["sections"])}
        out = np.tile(part["share"], (len(inputs), 1))
        position = inputs.obs[["x", "y"]].to_numpy(np.float64)
        for key, rows in inputs.sections():
            own = part["section"] == numbers.get("/".join(key), -1)
            if not own.any():
                continue
            k = min(self.spec.n_neighbors, int(own.sum()))
            _, near = cKDTree(part["position"][own]).query(position[rows], k=np.arange(1, k + 1))
            out[rows] = one_hot(part["label"][own], len(part["share"]))[near].mean(axis=1)
        return out


class SpatialNeighbors(Model):
    """Share of each class among the k nearest training cells of the same section."""

    spec_type = SpatialNeighborsSpec
    fitted_type = FittedSpatialNeighbors

    def fit(self, data: FoldData, job: JobContext) -> Fitted:
        inputs, section = data.train.inputs, np.empty(len(data.train), np.intp)
        sections: list[str] = []
        for key, rows in inputs.sections():
            section[rows] = len(sections)
            sections.append("/".join(key))
        arrays = {
            "position": inputs.obs[["x", "y"]].to_numpy(np.float64),
            "label": np.asarray(data.train.y, np.intp),
            "section": section,
            "share": data.target.reference_prediction(data.train.y, len(data.outputs)),
        }
        return self.restore(arrays, {"how": "fixed", "n_neighbors": self.spec.n_neighbors, "sections": sections})
