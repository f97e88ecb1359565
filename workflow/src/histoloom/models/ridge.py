"""Ridge regression on concatenated embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histoloom.models.base import FoldData, JobContext, Model, Spec
from histoloom.models.linear import LinearMap, as_map
from histoloom.models.selection import choose


@dataclass(frozen=True)
class RidgeSpec(Spec):
    """Keys of ``model.ridge``."""

    alpha: float
    alphas: tuple[float, ...]


def solve(
    features: npt.NDArray[Any], labels: npt.NDArray[Any], alpha: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (D, T) coefficients and (T,) intercepts of scikit-learn's Ridge, in float64."""
    from sklearn.linear_model import Ridge as SklearnRidge

    fitted = SklearnRidge(alpha=alpha).fit(features.astype(np.float64), labels)
    return np.atleast_2d(fitted.coef_).T, np.atleast_1d(fitted.intercept_)


class Ridge(Model):
    """Linear regression with an L2 penalty; the penalty fixed or chosen on training patients."""

    spec_type = RidgeSpec
    fitted_type = LinearMap

    def fit(self, data: FoldData, job: JobContext) -> LinearMap:
        """Fit a fold."""
        features, labels = data.train.inputs.features(), data.train.dense.astype(np.float64)
        choices = choose(data, "alpha", float(self.spec.alpha), lambda: self._best_alpha(data, features, labels))
        scaler = data.scaler(features)
        arrays = as_map(scaler.mean, scaler.scale, *solve(scaler(features), labels, choices["alpha"]))
        return LinearMap(self.spec, arrays, choices)

    def _best_alpha(self, data: FoldData, features: npt.NDArray[np.float32], labels: npt.NDArray[np.float64]) -> float:
        """Return the penalty with the best mean validation score; the largest of equals."""
        section = data.train.section
        if data.rule == "inner_cv":
            splits = [(features[a], labels[a], features[b], labels[b], section[b]) for a, b in data.inner()]
        else:
            assert data.val is not None
            splits = [(features, labels, data.val.inputs.features(), data.val.dense, data.val.section)]
        alphas = sorted({float(a) for a in self.spec.alphas}, reverse=True)
        scores = np.zeros(len(alphas))
        for x, y, x_val, y_val, val_section in splits:
            scaler = data.scaler(x)
            x_scaled, x_val_scaled = scaler(x), scaler(x_val)
            for i, alpha in enumerate(alphas):
                coefficients, intercept = solve(x_scaled, y, alpha)
                scores[i] += data.target.selection_score(x_val_scaled @ coefficients + intercept, y_val, val_section)
        return alphas[int(np.argmax(scores))]
