"""Baselines: predictors that see no pixel. A model that does not beat them learnt nothing from the image."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.models.base import Model, Rows, TrainingData
from histoloom.models.ridge import solve
from histoloom.models.scaling import moments
from histoloom.obs_keys import section_keys


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))


class TrainMean(Model):
    """Predict the mean label of the training observations: what L1 skill is measured against."""

    def fit(self, data: TrainingData, device: str) -> dict[str, dict[str, Any]]:
        """Take the means; see `Model.fit`."""
        del device
        for fold in data.folds:
            self.state[fold.name] = {"mean": _tensor(data.labels(fold, fold.train).mean(axis=0))}
        return {fold.name: {"how": "nothing to choose"} for fold in data.folds}

    def predict(self, fold: str, seed: int, rows: Rows) -> np.ndarray:
        """Return the same row for every observation; see `Model.predict`."""
        del seed
        return np.tile(self.state[fold]["mean"].numpy(), (len(rows.obs), 1))


class SectionMean(Model):
    """Predict the mean label of the observation's own test section.

    It knows the answer's mean, so it is a diagnostic and no model: its pooled correlation says how much
    of a pooled score lies
    between sections; within a section it is constant and has no correlation (NaN).
    """

    uses_test_labels: ClassVar[bool] = True

    def fit(self, data: TrainingData, device: str) -> dict[str, dict[str, Any]]:
        """Fit nothing; see `Model.fit`."""
        del device
        self.state = {fold.name: {} for fold in data.folds}
        return {fold.name: {"how": "nothing to choose"} for fold in data.folds}

    def predict(self, fold: str, seed: int, rows: Rows) -> np.ndarray:
        """Return each section's mean label; see `Model.predict`.

        Raises
        ------
        InputError
            Without labels, as on slides without expression.
        """
        del fold, seed
        if rows.labels is None:
            raise InputError(
                "model of kind section_mean",
                "needs the labels of what it predicts, and there are none.",
                "leave it out of experiments with task apply.",
            )
        section = section_keys(rows.obs).to_numpy()
        return pd.DataFrame(rows.labels).groupby(section, sort=False).transform("mean").to_numpy()


def section_coordinates(obs: pd.DataFrame) -> np.ndarray:
    """Return where each observation lies in its section, on the array: no pixel, no um.

    Parameters
    ----------
    obs
        cohort, sample, array_row, array_col.

    Returns
    -------
    ndarray
        (n, 3): row and column scaled to [0, 1] within the section, and the distance to the border of
        the observed area as a share of
        the section's largest.
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


class Coordinates(Model):
    """Regression on the position in the section and the distance to the tissue's border alone."""

    needs: ClassVar[frozenset[str]] = frozenset({"coordinates"})

    def fit(self, data: TrainingData, device: str) -> dict[str, dict[str, Any]]:
        """Fit every fold; see `Model.fit`."""
        del device
        position = section_coordinates(data.rows.obs)
        choices: dict[str, dict[str, Any]] = {}
        for fold in data.folds:
            labels = data.labels(fold, fold.train)
            if self.spec["method"] == "knn":
                self.state[fold.name] = {"position": _tensor(position[fold.train]), "labels": _tensor(labels)}
                choices[fold.name] = {"how": "fixed", "n_neighbors": self._neighbours(len(labels))}
            else:
                terms = _terms(position[fold.train])
                mean, scale = moments(terms)
                coefficients, intercept = solve((terms - mean) / scale, labels, float(self.spec["alpha"]))
                arrays = {"mean": mean, "scale": scale, "coefficients": coefficients, "intercept": intercept}
                self.state[fold.name] = {name: _tensor(array) for name, array in arrays.items()}
                choices[fold.name] = {"how": "fixed", "alpha": float(self.spec["alpha"])}
        return choices

    def _neighbours(self, available: int) -> int:
        return min(int(self.spec["n_neighbors"]), available)

    def predict(self, fold: str, seed: int, rows: Rows) -> np.ndarray:
        """Return (n, T) predictions; see `Model.predict`."""
        del seed
        from sklearn.neighbors import KNeighborsRegressor

        part = {name: tensor.numpy() for name, tensor in self.state[fold].items()}
        position = section_coordinates(rows.obs)
        if self.spec["method"] == "knn":
            regressor = KNeighborsRegressor(n_neighbors=self._neighbours(len(part["labels"])))
            return np.asarray(regressor.fit(part["position"], part["labels"]).predict(position))
        return (_terms(position) - part["mean"]) / part["scale"] @ part["coefficients"] + part["intercept"]


def _terms(position: np.ndarray) -> np.ndarray:
    """Return (n, 9): the coordinates, their squares and products."""
    i, j = np.triu_indices(position.shape[1])
    return np.concatenate([position, position[:, i] * position[:, j]], axis=1)
