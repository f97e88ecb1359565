"""A linear map of standardised features: what ridge regressions of all kinds leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from histoloom.inputs import Inputs
from histoloom.inputs.features import BLOCK
from histoloom.models.base import Arrays, Fitted, JobContext, Predictions

NAMES = ("mean", "scale", "coefficients", "intercept")


class LinearMap(Fitted):
    """(D, T) float64 ``coefficients`` and (T,) ``intercept`` on features scaled by (D,) ``mean`` and ``scale``."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T) float64, in blocks of rows."""
        mean, scale, coefficients, intercept = (self.arrays[name] for name in NAMES)
        out = np.empty((len(inputs), len(intercept)))
        for start in range(0, len(inputs), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(inputs)))
            scaled = (inputs.features(rows) - mean) / scale
            out[rows] = scaled.astype(np.float64) @ coefficients + intercept
        return out


def as_map(*arrays: Any) -> Arrays:
    """Return mean, scale, coefficients and intercept by name."""
    return dict(zip(NAMES, arrays, strict=True))
