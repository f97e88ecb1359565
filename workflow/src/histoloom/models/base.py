"""What a model is: it fits on training observations of one fold and predicts on any observations.

`FoldData` holds training and validation observations only, so that nothing can be fitted on test ones. To add a model:
a module with a class that follows `Model`, an entry in `histoloom.kinds.MODELS`, a schema ``model.<kind>.schema.yaml``
and tests.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from histoloom.checkpoints import Checkpoint, Checkpoints
from histoloom.folds.seeds import derive_seed
from histoloom.inputs import Inputs
from histoloom.inputs.scaling import Scaler, fit_scaler, fit_scaler_of
from histoloom.targets import TargetKind
from histoloom.targets.base import Labels, dense

Json = Any
Arrays = Mapping[str, npt.NDArray[Any]]
Codes = npt.NDArray[np.intp]
Predictions = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Spec:
    """Settings of a model: a frozen dataclass whose fields are keys of the model's schema.

    `presets` are values, by name, of keys that the entry leaves out; its key ``settings`` says which.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}}

    @property
    def sees_test_inputs(self) -> bool:
        """Whether a part of the fit gets the inputs of all observations, never their labels (`FoldData.everyone`)."""
        return False

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """Make the settings from a validated entry; keys that are no field (kind, inputs, variants) are left out."""
        entry = {**cls.presets[entry.get("settings", "default")], **entry}
        names = [f.name for f in fields(cls)]
        return cls(**{n: tuple(entry[n]) if isinstance(entry[n], list) else entry[n] for n in names if n in entry})


@dataclass(frozen=True)
class Part:
    """Observations with their answers, and (n,) codes of patient and section.

    `y` is float32 (n, T), CSR (n, T) or class codes (n,): as training is given them, shuffled in a negative control.
    """

    inputs: Inputs
    y: Labels
    patient: Codes
    section: Codes

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: npt.NDArray[np.intp]) -> Part:
        return Part(self.inputs.take(rows), self.y[rows], self.patient[rows], self.section[rows])

    @property
    def dense(self) -> npt.NDArray[Any]:
        return dense(self.y)


Rule = Literal["fixed", "val", "inner_cv", "median"]


@dataclass(frozen=True)
class FoldData:
    """All that one fold's model may be fitted on, for one training seed (-1: the model draws no random numbers).

    Attributes
    ----------
    val
        Validation observations, where the experiment's selection holds some out.
    outputs
        Names of the T columns or classes.
    rule, how
        How epochs or penalties are chosen (the model's own settings, best on ``val``, inner folds of training patients,
        median of other folds' choices), and the same in words.
    standardise
        Whether features are scaled by this fold's training observations.
    earlier
        Choices that the experiment's other folds made by validation, for ``median``.
    everyone
        Inputs of all observations, test ones included; only for a spec that `sees_test_inputs`, stamped transductive.
    comparison
        Whether the fold only serves a comparison; no other fold takes anything from it.
    """

    name: str
    train: Part
    val: Part | None
    target: TargetKind
    outputs: tuple[str, ...]
    seed: int = -1
    root_seed: int = 0
    rule: Rule = "fixed"
    how: str = "fixed"
    standardise: bool = True
    earlier: tuple[Mapping[str, Json], ...] = ()
    everyone: Inputs | None = None
    comparison: bool = False

    @property
    def training_side(self) -> list[Part]:
        """Return the training part, and the observations of its side that chose epochs; test ones never are of it."""
        selected_on_test = self.how.startswith("test_as_published")
        return [self.train] if self.val is None or selected_on_test else [self.train, self.val]

    def stream(self, *words: str | int) -> int:
        """Return the seed of a random stream of this fold and training seed: no other fold's draws change it."""
        return derive_seed(self.root_seed, *words, self.name, self.seed)

    def scaler(self, features: npt.NDArray[np.float32]) -> Scaler:
        """Return the scaler of features, fitted on these training rows if the experiment scales by fold."""
        return fit_scaler(features, self.standardise)

    def scaler_of(self, inputs: Inputs) -> Scaler:
        """Return the scaler of training inputs, read block by block."""
        return fit_scaler_of(inputs, self.standardise)

    def inner(self) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
        """Return (train, validation) rows of the training part, patients split into at most five groups."""
        from sklearn.model_selection import GroupKFold

        groups = self.train.patient
        splitter = GroupKFold(n_splits=min(5, len(np.unique(groups))))
        return list(splitter.split(groups, groups=groups))


@dataclass(frozen=True)
class JobContext:
    """What a job gives to a fit or a prediction; `record` holds facts for the efficiency record, such as epochs."""

    device: str = "cpu"
    threads: int = 1
    checkpoints: Checkpoints | None = None
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("histoloom.models"))
    record: dict[str, Json] = field(default_factory=dict)

    def checkpoint(self, name: str, facts: Json = None) -> AbstractContextManager[Checkpoint | None]:
        """Return the checkpoint of one fit, as a context; of None where nothing is kept."""
        return nullcontext() if self.checkpoints is None else self.checkpoints.of(name, facts)

    def record_curves(self, fold: str, seed: int, part: str, **curves: Sequence[float]) -> None:
        """Record losses and scores by epoch; `part` is ``fit``, ``last`` or that of an inner fold."""
        rounded = {name: [round(float(value), 5) for value in curve] for name, curve in curves.items() if len(curve)}
        self.record.setdefault("curves", []).append({"fold": fold, "seed": seed, "part": part, **rounded})


@dataclass(frozen=True)
class Fitted:
    """A fitted model: its settings, all that prediction needs as arrays by name, and what was chosen and how."""

    spec: Any
    arrays: Arrays
    choices: Mapping[str, Json]

    def predict(self, inputs: Inputs, variant: Mapping[str, Json], job: JobContext) -> Predictions:
        """Return (n, T): values, or class probabilities."""
        raise NotImplementedError

    def state(self) -> Arrays:
        """Return the arrays, as they are saved."""
        return self.arrays


class Model:
    """A model with its settings. One that fits folds faster together has ``fit_many`` too.

    `uses_test_labels`: prediction is given the test labels (`Inputs.labels`); a diagnostic, stamped on every number.
    """

    spec_type: ClassVar[type[Spec]] = Spec
    fitted_type: ClassVar[type[Fitted]]
    uses_test_labels: ClassVar[bool] = False

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def fit(self, data: FoldData, job: JobContext) -> Fitted:
        """Fit one fold and training seed."""
        raise NotImplementedError

    def restore(self, state: Arrays, choices: Mapping[str, Json]) -> Fitted:
        """Return the fitted model of a saved `Fitted.state`."""
        return self.fitted_type(self.spec, state, choices)
