"""Baselines: predictors that see no pixel. A model that does not beat them learnt nothing from the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.inputs.scaling import moments
from histoloom.models.base import Fitted, FoldData, JobContext, Model, Predictions, Spec
from histoloom.models.linear import solve
from histoloom.obs_keys import section_keys
from histoloom.targets.base import one_hot

NOTHING = {"how": "nothing to choose"}


class Constant(Fitted):
    """The same (T,) prediction for every observation."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        return np.tile(self.arrays["value"], (len(inputs), 1))


class TrainMean(Model):
    """The target's reference prediction: mean label in training, or the classes' shares (majority class)."""

    fitted_type = Constant

    def fit(self, data: FoldData, job: JobContext) -> Constant:
        value = data.target.reference_prediction(data.train.y, len(data.outputs))
        return Constant(self.spec, {"value": value}, NOTHING)


class OwnMean(Fitted):
    """The mean label of the observation's own section."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return each section's mean label; there is none on slides without expression."""
        if inputs.labels is None:
            problem, remedy = "needs the labels of what it predicts.", "leave it out of experiments with task apply."
            raise InputError("model of kind section_mean", problem, remedy, code="section-mean-labels")
        out = np.empty(inputs.labels.shape)
        for _, rows in inputs.sections():
            out[rows] = inputs.labels[rows].mean(axis=0, dtype=np.float64)
        return out


class SectionMean(Model):
    """The mean label of the observation's own test section.

    It is defined by the labels that it is scored on, so it is a diagnostic and no model: its pooled correlation says
    how much of a pooled score lies between sections; within a section it is constant.
    """

    fitted_type = OwnMean
    uses_test_labels = True

    def fit(self, data: FoldData, job: JobContext) -> OwnMean:
        return OwnMean(self.spec, {}, NOTHING)


def section_coordinates(obs: pd.DataFrame) -> np.ndarray:
    """Return (n, 3): array row and column scaled to [0, 1] within the section, and the distance to the border.

    The distance to the border of the observed area is a share of the section's largest.
    """
    from scipy.ndimage import binary_closing, distance_transform_edt

    out = np.zeros((len(obs), 3))
    section = section_keys(obs).to_numpy()
    for rows in pd.Series(np.arange(len(obs))).groupby(section, sort=False).indices.values():
        position = obs.iloc[rows][["array_row", "array_col"]].to_numpy(int)
        position = position - position.min(axis=0)
        extent = position.max(axis=0)
        mask = np.zeros(extent + 5, dtype=bool)  # two empty cells around: the border of the array is a border
        mask[position[:, 0] + 2, position[:, 1] + 2] = True
        # Closing joins the checkerboard of a hexagonal array (every second column is empty in a row).
        inside = binary_closing(mask, structure=np.ones((3, 3), dtype=bool)) | mask
        depth = distance_transform_edt(inside)[position[:, 0] + 2, position[:, 1] + 2]
        out[rows, :2] = position / np.maximum(extent, 1)
        out[rows, 2] = depth / depth.max()
    return out


def _position(inputs: Inputs) -> np.ndarray:
    obs, at = inputs.whole_sections()
    return section_coordinates(obs)[at]


@dataclass(frozen=True)
class CoordinatesSpec(Spec):
    """Keys of ``model.coordinates``."""

    method: str
    n_neighbors: int
    alpha: float


class FittedCoordinates(Fitted):
    """kNN: training ``position`` and ``labels``; ridge: ``mean``, ``scale``, ``coefficients``, ``intercept``."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        from sklearn.neighbors import KNeighborsRegressor

        position, part = _position(inputs), self.arrays
        if "labels" in part:
            regressor = KNeighborsRegressor(n_neighbors=self.choices["n_neighbors"])
            return np.asarray(regressor.fit(part["position"], part["labels"]).predict(position))
        predictions: Predictions = (_terms(position) - part["mean"]) / part["scale"] @ part["coefficients"]
        return predictions + part["intercept"]


class Coordinates(Model):
    """Regression on the position in the section and the distance to the tissue's border alone."""

    spec_type = CoordinatesSpec
    fitted_type = FittedCoordinates

    def fit(self, data: FoldData, job: JobContext) -> FittedCoordinates:
        """Fit a fold; classes are regressed as 0/1 indicators, so that predictions are shares of neighbours."""
        position = _position(data.train.inputs)
        labels = data.train.dense
        if labels.ndim == 1:
            labels = one_hot(labels, len(data.outputs))
        labels = labels.astype(np.float64)
        if self.spec.method == "knn":
            choices = {"how": "fixed", "n_neighbors": min(self.spec.n_neighbors, len(labels))}
            return FittedCoordinates(self.spec, {"position": position, "labels": labels}, choices)
        terms = _terms(position)
        mean, scale = moments(terms)
        coefficients, intercept = solve((terms - mean) / scale, labels, self.spec.alpha)
        arrays = {"mean": mean, "scale": scale, "coefficients": coefficients, "intercept": intercept}
        return FittedCoordinates(self.spec, arrays, {"how": "fixed", "alpha": self.spec.alpha})


def _terms(position: np.ndarray) -> np.ndarray:
    """Return (n, 9): the coordinates, their squares and products."""
    i, j = np.triu_indices(position.shape[1])
    return np.concatenate([position, position[:, i] * position[:, j]], axis=1)
