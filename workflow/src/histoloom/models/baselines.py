"""Baselines: predictors that see no pixel. A model that does not beat them learnt nothing from the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.inputs.scaling import moments
from histoloom.models.base import Arrays, FoldData, JobContext, Predictions, Spec
from histoloom.models.ridge import solve
from histoloom.obs_keys import section_keys
from histoloom.targets.base import one_hot

NOTHING = {"how": "nothing to choose"}


@dataclass(frozen=True)
class NoSpec(Spec):
    """A model without settings."""


@dataclass(frozen=True)
class Constant:
    """The same (T,) prediction for every observation."""

    value: npt.NDArray[np.float64]
    choices: Mapping[str, Any]

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T)."""
        del variant, job
        return np.tile(self.value, (len(inputs), 1))

    def state(self) -> Arrays:
        """Return the prediction."""
        return {"value": self.value}


class TrainMean:
    """The target's reference prediction: mean label in training, or the classes' shares (majority class)."""

    spec_type: ClassVar[type[Spec]] = NoSpec
    uses_test_labels: ClassVar[bool] = False

    def __init__(self, spec: NoSpec) -> None:
        self.spec = spec

    def fit(self, data: FoldData, job: JobContext) -> Constant:
        """Take the means of a fold."""
        del job
        return Constant(data.target.reference_prediction(data.train.y, len(data.outputs)), NOTHING)

    def restore(self, state: Arrays, choices: Mapping[str, Any]) -> Constant:
        """Return the fitted model of a saved state."""
        return Constant(state["value"], choices)


class SectionMean:
    """The mean label of the observation's own test section.

    It is defined by the labels that it is scored on, so it is a diagnostic and no model: its pooled correlation says
    how much of a pooled score lies between sections; within a section it is constant.
    """

    spec_type: ClassVar[type[Spec]] = NoSpec
    uses_test_labels: ClassVar[bool] = True
    choices = NOTHING

    def __init__(self, spec: NoSpec) -> None:
        self.spec = spec

    def fit(self, data: FoldData, job: JobContext) -> SectionMean:
        """Fit nothing."""
        del data, job
        return self

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return each section's mean label; `InputError` without labels, as on slides without expression."""
        del variant, job
        if inputs.labels is None:
            raise InputError(
                "model of kind section_mean", "needs the labels of what it predicts, and there are none.",
                "leave it out of experiments with task apply.", code="section-mean-labels",
            )  # fmt: skip
        out = np.empty(inputs.labels.shape)
        for _, rows in inputs.sections():
            out[rows] = inputs.labels[rows].mean(axis=0, dtype=np.float64)
        return out

    def state(self) -> Arrays:
        """Return nothing."""
        return {}

    def restore(self, state: Arrays, choices: Mapping[str, Any]) -> SectionMean:
        """Return itself."""
        del state, choices
        return self


def section_coordinates(obs: pd.DataFrame) -> np.ndarray:
    """Return where each observation lies in its section, on the array: no pixel, no um.

    Parameters
    ----------
    obs
        cohort, sample, array_row, array_col.

    Returns
    -------
    ndarray
        (n, 3): row and column scaled to [0, 1] within the section, and the distance to the border of the observed area
        as a share of the section's largest.
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


@dataclass(frozen=True)
class CoordinatesSpec(Spec):
    """Keys of ``model.coordinates``."""

    method: str
    n_neighbors: int
    alpha: float


@dataclass(frozen=True)
class FittedCoordinates:
    """kNN: training ``position`` and ``labels``; ridge: ``mean``, ``scale``, ``coefficients``, ``intercept``."""

    arrays: Arrays
    choices: Mapping[str, Any]

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T)."""
        del variant, job
        from sklearn.neighbors import KNeighborsRegressor

        position, part = section_coordinates(inputs.obs), self.arrays
        if "labels" in part:
            regressor = KNeighborsRegressor(n_neighbors=self.choices["n_neighbors"])
            return np.asarray(regressor.fit(part["position"], part["labels"]).predict(position))
        predictions: Predictions = (_terms(position) - part["mean"]) / part["scale"] @ part["coefficients"]
        return predictions + part["intercept"]

    def state(self) -> Arrays:
        """Return the arrays."""
        return self.arrays


class Coordinates:
    """Regression on the position in the section and the distance to the tissue's border alone."""

    spec_type: ClassVar[type[Spec]] = CoordinatesSpec
    uses_test_labels: ClassVar[bool] = False

    def __init__(self, spec: CoordinatesSpec) -> None:
        self.spec = spec

    def fit(self, data: FoldData, job: JobContext) -> FittedCoordinates:
        """Fit a fold; classes are regressed as 0/1 indicators, so that predictions are shares of neighbours."""
        del job
        position = section_coordinates(data.train.inputs.obs)
        labels = data.train.dense
        if labels.ndim == 1:
            labels = one_hot(labels, len(data.outputs))
        labels = labels.astype(np.float64)
        if self.spec.method == "knn":
            choices = {"how": "fixed", "n_neighbors": min(self.spec.n_neighbors, len(labels))}
            return FittedCoordinates({"position": position, "labels": labels}, choices)
        terms = _terms(position)
        mean, scale = moments(terms)
        coefficients, intercept = solve((terms - mean) / scale, labels, self.spec.alpha)
        arrays = {"mean": mean, "scale": scale, "coefficients": coefficients, "intercept": intercept}
        return FittedCoordinates(arrays, {"how": "fixed", "alpha": self.spec.alpha})

    def restore(self, state: Arrays, choices: Mapping[str, Any]) -> FittedCoordinates:
        """Return the fitted model of a saved state."""
        return FittedCoordinates(state, choices)


def _terms(position: np.ndarray) -> np.ndarray:
    """Return (n, 9): the coordinates, their squares and products."""
    i, j = np.triu_indices(position.shape[1])
    return np.concatenate([position, position[:, i] * position[:, j]], axis=1)
