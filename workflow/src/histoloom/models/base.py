"""What a model is: one protocol for learners and floors alike.

A model is fitted on all folds at once, so that it may train them stacked. Everything it needs to predict is
in ``state``, a dict of
tensors, texts and numbers that ``torch.load(weights_only=True)`` reads. To add a model: a module with a
subclass of `Model`, a line in
`histoloom.kinds.MODELS`, a schema ``model.<kind>.schema.yaml`` and tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from histoloom.checkpoints import Checkpoints
from histoloom.models.scaling import Scaler, fit_scaler
from histoloom.obs_keys import section_keys


@dataclass(frozen=True)
class Rows:
    """Observations as a model sees them.

    Attributes
    ----------
    obs
        cohort, sample, obs_id, array_row, array_col.
    features
        (n, D) float32 concatenated embeddings, or None for models that need none. Scaled already only
        where the experiment
        standardises per cohort or section; fold-wise scaling is the model's, through `TrainingData.scaler`.
    labels
        (n, T) float64; given in prediction only to models that declare ``uses_test_labels``.
    """

    obs: pd.DataFrame
    features: np.ndarray | None = None
    labels: np.ndarray | None = None

    def take(self, index: np.ndarray) -> Rows:
        """Return a subset of rows."""
        return Rows(
            self.obs.iloc[index],
            None if self.features is None else self.features[index],
            None if self.labels is None else self.labels[index],
        )


@dataclass(frozen=True)
class Fold:
    """One fold: row numbers by role.

    Attributes
    ----------
    name
        As in the fold file.
    train, val, test
        Row numbers.
    label_rows
        (n,) row whose label each row is given in training: itself, or another of its section under
        shuffled labels. Tests never use it.
    compared
        Whether the fold only serves a comparison; no choice for another fold is taken from it.
    """

    name: str
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    label_rows: np.ndarray
    compared: bool = False


@dataclass(frozen=True)
class TrainingData:
    """All a model may be fitted on.

    Attributes
    ----------
    rows
        All observations of the experiment (features of all; labels None).
    values
        (n, T) float64 target.
    folds
        All folds, ``all`` last.
    seeds
        Training seeds.
    selection
        The experiment's ``selection``.
    standardise
        The experiment's ``standardise``.
    seed
        The experiment's seed.
    """

    rows: Rows
    values: np.ndarray
    types: Sequence[str]
    folds: Sequence[Fold]
    seeds: Sequence[int]
    selection: str
    standardise: str
    seed: int
    patients: np.ndarray = field(init=False)
    sections: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        obs = self.rows.obs
        object.__setattr__(self, "patients", obs["patient"].to_numpy(object))
        object.__setattr__(self, "sections", pd.factorize(section_keys(obs))[0])

    @property
    def features(self) -> np.ndarray:
        """Return the features; a model that asks declares its need."""
        if self.rows.features is None:
            raise TypeError("a model that uses features must name 'features' in `needs`")
        return self.rows.features

    def scaler(self, train: np.ndarray) -> Scaler:
        """Return the scaler of a fold, fitted on the given training rows alone."""
        return fit_scaler(self.features[train], self.standardise == "train")

    def labels(self, fold: Fold, index: np.ndarray) -> np.ndarray:
        """Return the labels that rows have in a fold's training."""
        return self.values[fold.label_rows[index]]


class Model(ABC):
    """A model of any kind.

    Attributes
    ----------
    needs
        Of ``features`` (embeddings) and ``coordinates`` (array positions).
    stochastic
        Whether training seeds change it. Predictions of others carry no ``seed_<s>`` layers.
    uses_test_labels
        Whether prediction is given the test labels: a diagnostic, stamped in every number's protocol.
    checkpoints
        Where a long fit keeps its state (`histoloom.checkpoints`); None where it is not to be kept.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    stochastic: ClassVar[bool] = False
    uses_test_labels: ClassVar[bool] = False

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = dict(spec)
        self.state: dict[str, Any] = {}
        self.checkpoints: Checkpoints | None = None

    @abstractmethod
    def fit(self, data: TrainingData, device: str) -> dict[str, dict[str, Any]]:
        """Fit every fold (and seed) and fill ``state``.

        Returns
        -------
        dict
            By fold: what was chosen and how (``how``, and epochs or alpha).
        """

    @abstractmethod
    def predict(self, fold: str, seed: int, rows: Rows) -> np.ndarray:
        """Return (n, T) float64 predictions of a fold's model."""
