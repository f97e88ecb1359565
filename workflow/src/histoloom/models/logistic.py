"""Multinomial logistic regression on embeddings: the linear baseline of a class target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from histoloom.inputs import Inputs
from histoloom.models.base import FoldData, JobContext, Model, Predictions, Spec
from histoloom.models.linear import LinearMap, as_map


@dataclass(frozen=True)
class LogisticSpec(Spec):
    """Keys of ``model.logistic_regression``."""

    c: float
    class_weight: str | None
    max_iter: int


class LogisticMap(LinearMap):
    """A linear map to logits; a class that training lacks has intercept -inf and so probability 0."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, classes) probabilities."""
        from scipy.special import softmax

        return np.asarray(softmax(super().predict(inputs, variant, job), axis=1))


class LogisticRegression(Model):
    """Class probabilities from standardised features (scikit-learn)."""

    spec_type = LogisticSpec
    fitted_type = LogisticMap

    def fit(self, data: FoldData, job: JobContext) -> LogisticMap:
        """Fit a fold."""
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
