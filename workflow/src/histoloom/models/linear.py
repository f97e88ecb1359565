"""Linear models of standardised embeddings: ridge regression, and multinomial logistic regression for classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histoloom.inputs import Inputs
from histoloom.inputs.features import BLOCK
from histoloom.models.base import Arrays, Fitted, FoldData, JobContext, Model, Predictions, Spec
from histoloom.models.selection import choose

NAMES = ("mean", "scale", "coefficients", "intercept")


class LinearMap(Fitted):
    """(D, T) float64 ``coefficients`` and (T,) ``intercept`` on features scaled by (D,) ``mean`` and ``scale``."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T) float64, in blocks of rows."""
        mean, scale, coefficients, intercept = (self.arrays[name] for name in NAMES)
        out = np.empty((len(inputs), len(intercept)))
        for rows in inputs.blocks(BLOCK):
            scaled = (inputs.features(rows) - mean) / scale
            out[rows] = scaled.astype(np.float64) @ coefficients + intercept
        return out


def as_map(*arrays: Any) -> Arrays:
    """Return mean, scale, coefficients and intercept by name."""
    return dict(zip(NAMES, arrays, strict=True))


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


@dataclass(frozen=True)
class LogisticSpec(Spec):
    """Keys of ``model.logistic_regression``."""

    c: float
    class_weight: str | None
    max_iter: int


class LogisticMap(LinearMap):
    """A linear map to logits; a class that training lacks has intercept -inf and so probability 0."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        from scipy.special import softmax

        return np.asarray(softmax(super().predict(inputs, variant, job), axis=1))


class LogisticRegression(Model):
    """Class probabilities from standardised features (scikit-learn)."""

    spec_type = LogisticSpec
    fitted_type = LogisticMap

    def fit(self, data: FoldData, job: JobContext) -> LogisticMap:
        from sklearn.linear_model import LogisticRegression as Sklearn

        features, codes = data.train.inputs.features(), data.train.y
        scaler = data.scaler(features)
        coefficients = np.zeros((features.shape[1], len(data.outputs)))
        intercept = np.full(len(data.outputs), -np.inf)
        classes = np.unique(codes)
        if len(classes) == 1:
            intercept[classes] = 0.0
        else:
            model = Sklearn(C=self.spec.c, class_weight=self.spec.class_weight, max_iter=self.spec.max_iter)
            model.fit(scaler(features), codes)
            # Two classes are fitted as one logit: the other's is its negative.
            both = len(classes) == 2
            coefficients[:, classes] = (np.vstack([-model.coef_, model.coef_]) / 2 if both else model.coef_).T
            intercept[classes] = np.concatenate([-model.intercept_, model.intercept_]) / 2 if both else model.intercept_
        arrays = as_map(scaler.mean, scaler.scale, coefficients, intercept)
        return LogisticMap(self.spec, arrays, {"how": "fixed"})
