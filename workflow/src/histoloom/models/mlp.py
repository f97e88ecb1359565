"""The regressor of the decomposition paper (sections 2.1 and 2.2): an MLP on concatenated embeddings.

What the paper leaves open (width, loss weights, the axis of the Pearson term, optimiser, epochs) is in the config with
stated defaults. Folds and training seeds are trained stacked; see `histoloom.models.stack`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from histoloom.inputs import Inputs, union
from histoloom.inputs.features import BLOCK
from histoloom.inputs.scaling import moments
from histoloom.models.base import Arrays, FoldData, JobContext, Predictions, Spec
from histoloom.models.network import MLPSpec, forward
from histoloom.models.selection import median_of
from histoloom.models.stack import Member, Trained, member_facts, train_stack

Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class FittedMLP:
    """Weights ``w0``, ``w1``, ... (in, out) and biases ``b0``, ...; scaling of features and labels."""

    arrays: Arrays
    choices: Mapping[str, Any]

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T) float64, in blocks of rows, so that 100,000 tiles do not need their activations at once."""
        del variant, job
        part = {name: torch.from_numpy(np.asarray(array)) for name, array in self.arrays.items()}
        depth = sum(name.startswith("w") for name in part)
        layers = [(part[f"w{i}"][None], part[f"b{i}"][None, None]) for i in range(depth)]
        out = np.empty((len(inputs), len(part["y_mean"])))
        with torch.inference_mode():
            for start in range(0, len(inputs), BLOCK):
                rows = np.arange(start, min(start + BLOCK, len(inputs)))
                x = (torch.from_numpy(inputs.features(rows)) - part["mean"]) / part["scale"]
                out[rows] = (forward(x[None], layers)[0].double() * part["y_scale"] + part["y_mean"]).numpy()
        return out

    def state(self) -> Arrays:
        """Return the arrays."""
        return self.arrays


class MLP:
    """MLP with SiLU and a linear last layer; loss MSE + l1 MAE + l2 Pearson."""

    spec_type: ClassVar[type[Spec]] = MLPSpec
    uses_test_labels: ClassVar[bool] = False

    def __init__(self, spec: MLPSpec) -> None:
        self.spec = spec

    def fit(self, data: FoldData, job: JobContext) -> FittedMLP:
        """Fit one fold and seed."""
        return self.fit_many([data], job)[0]

    def fit_many(self, folds: Sequence[FoldData], job: JobContext) -> list[FittedMLP]:
        """Fit folds and seeds together.

        Rounds: folds of selection inner_cv first try the epochs on inner folds; then every fold whose epochs are known
        or come from its validation rows is trained; a fold that takes the median of the others' epochs (``all`` under
        val_patient) comes last.
        """
        table = _Table(folds)
        epochs = [self.spec.epochs] * len(folds)
        inner = [i for i, fold in enumerate(folds) if fold.rule == "inner_cv"]
        for i, best in zip(inner, self._inner_epochs([folds[i] for i in inner], table, job), strict=True):
            epochs[i] = best
        how = [fold.how for fold in folds]
        now = [i for i, fold in enumerate(folds) if fold.rule != "median"]
        last = [i for i, fold in enumerate(folds) if fold.rule == "median"]
        trained = dict(
            zip(
                now,
                self._train("fit", [self._member(folds[i], table, epochs[i]) for i in now], table, job),
                strict=True,
            )
        )
        chosen = [{"epochs": trained[i].epochs} for i in now if folds[i].rule == "val" and not folds[i].comparison]
        for i in last:
            middle = median_of(replace(folds[i], earlier=(*folds[i].earlier, *chosen)), "epochs")
            if middle is None:
                how[i] = "fixed: no fold had a validation"
            epochs[i] = middle or self.spec.epochs
        late = self._train("last", [self._member(folds[i], table, epochs[i]) for i in last], table, job)
        trained |= dict(zip(last, late, strict=True))
        return [_fitted(self._member(fold, table, epochs[i]), trained[i], how[i]) for i, fold in enumerate(folds)]

    def _train(self, name: str, members: Sequence[Member], table: _Table, job: JobContext) -> list[Trained]:
        """Train a round; one that an earlier try has begun goes on from its checkpoint."""
        checkpoint = None if job.checkpoints is None else job.checkpoints.of(name, member_facts(members))
        return train_stack(table.features, table.values, members, self.spec, job.device, checkpoint=checkpoint)

    def _member(
        self,
        fold: FoldData,
        table: _Table,
        epochs: int,
        *,
        rows: tuple[Index, Index] | None = None,
        word: str = "fit",
    ) -> Member:
        """Describe one model of the stack; everything fitted for it sees its training rows only.

        Parameters
        ----------
        rows
            Training and validation rows within the fold's training part, for inner folds.
        word
            Of its random stream.
        """
        train, train_y = table.rows(fold, "train")
        val: Index | None = None
        val_y: Index | None = None
        sections = None
        if rows is not None:
            val, val_y, sections = train[rows[1]], train_y[rows[1]], fold.train.section[rows[1]]
            train, train_y = train[rows[0]], train_y[rows[0]]
        elif fold.rule == "val" and fold.val is not None:
            (val, val_y), sections = table.rows(fold, "val"), fold.val.section
        y_mean, y_scale = np.zeros(len(fold.outputs)), np.ones(len(fold.outputs))
        if self.spec.standardise_target:
            y_mean, y_scale = moments(table.values[train_y])
        return Member(
            fold=fold.name,
            seed=fold.seed,
            stream=fold.stream(word),
            train=train,
            train_y=train_y,
            val=val,
            val_y=val_y,
            val_sections=sections,
            scaler=table.scaler(fold, train),
            y_mean=y_mean,
            y_scale=y_scale,
            epochs=epochs,
        )

    def _inner_epochs(self, folds: Sequence[FoldData], table: _Table, job: JobContext) -> list[int]:
        """Return per fold and seed the epoch with the best score, averaged over inner folds of training patients."""
        members = [
            [
                self._member(fold, table, self.spec.epochs, rows=rows, word=f"inner{number}")
                for number, rows in enumerate(fold.inner())
            ]
            for fold in folds
        ]
        results = iter(self._train("inner", [m for own in members for m in own], table, job))
        curves = [[next(results).curve for _ in own] for own in members]
        return [int(np.argmax(np.mean(curve, axis=0))) + 1 for curve in curves]

    def restore(self, state: Arrays, choices: Mapping[str, Any]) -> FittedMLP:
        """Return the fitted model of a saved state."""
        return FittedMLP(state, choices)


class _Table:
    """Features of all training and validation observations, each once, and every fold's labels.

    Seeds of a fold share its labels.
    """

    def __init__(self, folds: Sequence[FoldData]) -> None:
        parts = [(fold.name, role, part) for fold in folds for role, part in (("train", fold.train), ("val", fold.val))]
        unique = {(name, role): part for name, role, part in parts if part is not None}
        inputs, positions = union([part.inputs for part in unique.values()])
        self.features = inputs.features()
        labels = [part.dense for part in unique.values()]
        self.values = np.concatenate(labels)
        starts = np.cumsum([0, *map(len, labels)])
        self._rows = {
            key: (x, np.arange(starts[i], starts[i + 1]))
            for i, (key, x) in enumerate(zip(unique, positions, strict=True))
        }
        self._scalers: dict[bytes, Any] = {}

    def rows(self, fold: FoldData, role: str) -> tuple[Index, Index]:
        """Return where a part's features and labels are."""
        return self._rows[fold.name, role]

    def scaler(self, fold: FoldData, train: Index) -> Any:
        """Return the scaler of training rows; seeds share it."""
        key = train.tobytes()
        if key not in self._scalers:
            self._scalers[key] = fold.scaler(self.features[train])
        return self._scalers[key]


def _fitted(member: Member, trained: Trained, how: str) -> FittedMLP:
    arrays: dict[str, npt.NDArray[Any]] = {}
    for i, (weight, bias) in enumerate(trained.layers):
        arrays[f"w{i}"], arrays[f"b{i}"] = weight.cpu().numpy(), bias.cpu().numpy()
    arrays |= {"mean": member.scaler.mean, "scale": member.scaler.scale}
    arrays |= {"y_mean": np.asarray(member.y_mean, np.float64), "y_scale": np.asarray(member.y_scale, np.float64)}
    return FittedMLP(arrays, {"how": how, "epochs": trained.epochs})
