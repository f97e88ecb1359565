"""Ridge regression on concatenated embeddings."""

from __future__ import annotations

from statistics import median_low
from typing import Any, ClassVar

import numpy as np

from histoloom.models.base import Fold, Model, Rows, TrainingData
from histoloom.models.selection import inner_folds, rule_of, section_cc, validation_rows


def solve(features: np.ndarray, labels: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (D, T) coefficients and (T,) intercepts of scikit-learn's Ridge, in float64."""
    from sklearn.linear_model import Ridge as SklearnRidge

    fitted = SklearnRidge(alpha=alpha).fit(features.astype(np.float64), labels)
    return np.atleast_2d(fitted.coef_).T, np.atleast_1d(fitted.intercept_)


class Ridge(Model):
    """Linear regression with an L2 penalty, fold by fold; the penalty fixed or chosen on training patients."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})

    def fit(self, data: TrainingData, device: str) -> dict[str, dict[str, Any]]:
        """Fit every fold; see `Model.fit`."""
        del device  # solved by LAPACK
        choices: dict[str, dict[str, Any]] = {}
        told = {fold.name for fold in data.folds if not fold.compared}
        for fold in data.folds:
            rule, how = rule_of(data, fold)
            chosen = [c["alpha"] for n, c in choices.items() if n in told and not c["how"].startswith("fixed")]
            if rule == "median" and not chosen:
                rule, how = "fixed", "fixed: no fold had a validation"
            if rule == "median":
                alpha = median_low(chosen)
            elif rule == "fixed":
                alpha = float(self.spec["alpha"])
            else:
                alpha = self._choose(data, fold, rule)
            scaler = data.scaler(fold.train)
            coefficients, intercept = solve(scaler(data.features[fold.train]), data.labels(fold, fold.train), alpha)
            self.state[fold.name] = _tensors(
                mean=scaler.mean, scale=scaler.scale, coefficients=coefficients, intercept=intercept
            )
            choices[fold.name] = {"how": how, "alpha": alpha}
        return choices

    def _choose(self, data: TrainingData, fold: Fold, rule: str) -> float:
        """Return the penalty with the best mean validation CC; the largest of equals."""
        splits = inner_folds(data, fold) if rule == "inner_cv" else [(fold.train, validation_rows(data, fold))]
        alphas = sorted({float(a) for a in self.spec["alphas"]}, reverse=True)
        scores = np.zeros(len(alphas))
        for train, val in splits:
            scaler = data.scaler(train)
            x_train, x_val = scaler(data.features[train]), scaler(data.features[val])
            for i, alpha in enumerate(alphas):
                coefficients, intercept = solve(x_train, data.labels(fold, train), alpha)
                scores[i] += section_cc(x_val @ coefficients + intercept, data.labels(fold, val), data.sections[val])
        return alphas[int(np.argmax(scores))]

    def predict(self, fold: str, seed: int, rows: Rows) -> np.ndarray:
        """Return (n, T) predictions; see `Model.predict`."""
        del seed
        part = {name: tensor.numpy() for name, tensor in self.state[fold].items()}
        if rows.features is None:
            raise TypeError("ridge needs features")
        scaled = (rows.features - part["mean"]) / part["scale"]
        return scaled.astype(np.float64) @ part["coefficients"] + part["intercept"]


def _tensors(**arrays: np.ndarray) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
