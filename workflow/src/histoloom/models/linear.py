"""A linear map of standardised features: what ridge regressions of all kinds leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histoloom.inputs import Inputs
from histoloom.inputs.features import BLOCK
from histoloom.models.base import Arrays, JobContext, Predictions


@dataclass(frozen=True)
class LinearMap:
    """(D, T) float64 coefficients and (T,) intercepts on features scaled by (D,) mean and scale."""

    mean: npt.NDArray[np.floating]
    scale: npt.NDArray[np.floating]
    coefficients: npt.NDArray[np.float64]
    intercept: npt.NDArray[np.float64]
    choices: Mapping[str, Any]

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T) float64, in blocks of rows."""
        del variant, job
        out = np.empty((len(inputs), len(self.intercept)))
        for start in range(0, len(inputs), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(inputs)))
            scaled = (inputs.features(rows) - self.mean) / self.scale
            out[rows] = scaled.astype(np.float64) @ self.coefficients + self.intercept
        return out

    def state(self) -> Arrays:
        """Return its arrays."""
        return {name: getattr(self, name) for name in ("mean", "scale", "coefficients", "intercept")}
