"""The regressor of the decomposition paper (sections 2.1 and 2.2): an MLP on concatenated embeddings.

What the paper leaves open (width, loss weights, the axis of the Pearson term, optimiser, epochs) is in the config with
stated defaults. Folds and training seeds are trained stacked; see `histoloom.models.stack`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from histoloom.inputs import Inputs, union
from histoloom.inputs.features import BLOCK
from histoloom.inputs.scaling import Scaler, moments
from histoloom.models.base import Fitted, FoldData, JobContext, Model, Predictions
from histoloom.models.network import MLPSpec, forward
from histoloom.models.selection import median_of
from histoloom.models.stack import Member, Rows, Trained, member_facts, train_stack


class FittedMLP(Fitted):
    """Weights ``w0``, ``w1``, ... (in, out) and biases ``b0``, ...; scaling of features and labels."""

    def predict(self, inputs: Inputs, variant: Mapping[str, Any], job: JobContext) -> Predictions:
        """Return (n, T) float64, in blocks of rows, so that 100,000 tiles do not need their activations at once."""
        part = {name: torch.from_numpy(np.asarray(array)) for name, array in self.arrays.items()}
        depth = sum(name.startswith("w") for name in part)
        layers = [(part[f"w{i}"][None], part[f"b{i}"][None, None]) for i in range(depth)]
        out = np.empty((len(inputs), len(part["y_mean"])))
        with torch.inference_mode():
            for rows in inputs.blocks(BLOCK):
                x = (torch.from_numpy(inputs.features(rows)) - part["mean"]) / part["scale"]
                out[rows] = (
                    forward(x[None], layers, norm=self.spec.norm)[0].double() * part["y_scale"] + part["y_mean"]
                ).numpy()
        return out


class MLP(Model):
    """MLP with SiLU and a linear last layer; loss MSE + l1 MAE + l2 Pearson."""

    spec_type = MLPSpec
    fitted_type = FittedMLP

    def fit(self, data: FoldData, job: JobContext) -> Fitted:
        return self.fit_many([data], job)[0]

    def fit_many(self, folds: Sequence[FoldData], job: JobContext) -> list[Fitted]:
        """Fit folds and seeds together.

        Rounds: folds of selection inner_cv first try the epochs on inner folds; then every fold whose epochs are known
        or come from its validation rows is trained; a fold that takes the median of the others' epochs (``all`` under
        val_patient) comes last.
        """
        table = _Table(folds)
        epochs, how = [self._most_epochs(fold) for fold in folds], [fold.how for fold in folds]
        inner = [i for i, fold in enumerate(folds) if fold.rule == "inner_cv"]
        for i, best in zip(inner, self._inner_epochs([folds[i] for i in inner], table, job), strict=True):
            epochs[i] = best
        members: dict[int, Member] = {}
        trained: dict[int, Trained] = {}

        def train(name: str, chosen: list[int]) -> None:
            members.update({i: self._member(folds[i], table, epochs[i], "fit") for i in chosen})
            results = self._train(name, [members[i] for i in chosen], table, job)
            trained.update(zip(chosen, results, strict=True))

        train("fit", [i for i, fold in enumerate(folds) if fold.rule != "median"])
        made = [{"epochs": t.epochs} for i, t in trained.items() if folds[i].rule == "val" and not folds[i].comparison]
        last = [i for i, fold in enumerate(folds) if fold.rule == "median"]
        for i in last:
            middle = median_of(replace(folds[i], earlier=(*folds[i].earlier, *made)), "epochs")
            if middle is None:
                how[i] = "fixed: no fold had a validation"
            epochs[i] = middle or epochs[i]
        train("last", last)
        return [self._fitted(members[i], trained[i], how[i]) for i in range(len(folds))]

    def _most_epochs(self, fold: FoldData) -> int:
        """Return the epochs of a fold, or the most where a selection chooses fewer: a small cohort takes more."""
        return max(self.spec.epochs, -(-self.spec.min_steps // -(-len(fold.train) // self.spec.batch_size)))

    def _train(self, name: str, members: Sequence[Member], table: _Table, job: JobContext) -> list[Trained]:
        """Train a round; one that an earlier try has begun goes on from its checkpoint."""
        checkpoint = None if job.checkpoints is None else job.checkpoints.of(name, member_facts(members))
        results = train_stack(table.features, table.values, members, self.spec, job.device, checkpoint=checkpoint)
        for member, trained in zip(members, results, strict=True):
            job.record_curves(
                member.fold, member.seed, name, train_loss=trained.train_loss, val_loss=trained.val_loss,
                val_score=trained.curve,
            )  # fmt: skip
        return results

    def _member(
        self, fold: FoldData, table: _Table, epochs: int, word: str, inner: tuple[Any, Any] | None = None
    ) -> Member:
        """Describe one model of the stack; everything fitted for it sees its training rows only.

        `word` is that of its random stream; `inner` are training and validation rows within the training part.
        """
        train, val = table.rows[fold.name, "train"], None
        if inner is not None:
            train, val = train.take(inner[0]), train.take(inner[1])
        elif fold.rule == "val":
            val = table.rows.get((fold.name, "val"))
        y_mean, y_scale = np.zeros(len(fold.outputs)), np.ones(len(fold.outputs))
        if self.spec.standardise_target:
            y_mean, y_scale = moments(table.values[train.y])
        scaler = table.scaler(fold, train.x)
        return Member(fold.name, fold.seed, fold.stream(word), train, val, scaler, y_mean, y_scale, epochs)

    def _inner_epochs(self, folds: Sequence[FoldData], table: _Table, job: JobContext) -> list[int]:
        """Return per fold and seed the epoch with the best score, averaged over inner folds of training patients."""
        members = [
            [
                self._member(fold, table, self._most_epochs(fold), f"inner{number}", rows)
                for number, rows in enumerate(fold.inner())
            ]
            for fold in folds
        ]
        results = iter(self._train("inner", [m for own in members for m in own], table, job))
        curves = [[next(results).curve for _ in own] for own in members]
        return [int(np.argmax(np.mean(curve, axis=0))) + 1 for curve in curves]

    def _fitted(self, member: Member, trained: Trained, how: str) -> Fitted:
        arrays: dict[str, npt.NDArray[Any]] = {}
        for i, (weight, bias) in enumerate(trained.layers):
            arrays[f"w{i}"], arrays[f"b{i}"] = weight.cpu().numpy(), bias.cpu().numpy()
        arrays |= {"mean": member.scaler.mean, "scale": member.scaler.scale}
        arrays |= {"y_mean": np.asarray(member.y_mean, np.float64), "y_scale": np.asarray(member.y_scale, np.float64)}
        return self.restore(arrays, {"how": how, "epochs": trained.epochs})


class _Table:
    """Features of all training and validation observations, each once, and every fold's labels, shared by its seeds."""

    def __init__(self, folds: Sequence[FoldData]) -> None:
        parts = {(fold.name, role): part for fold in folds for role, part in (("train", fold.train), ("val", fold.val))}
        unique = {key: part for key, part in parts.items() if part is not None}
        inputs, positions = union([part.inputs for part in unique.values()])
        self.features = inputs.features()
        labels = [part.dense for part in unique.values()]
        self.values = np.concatenate(labels)
        label_rows = np.split(np.arange(len(self.values)), np.cumsum([len(y) for y in labels])[:-1])
        self.rows = {
            key: Rows(x, y, part.section)
            for (key, part), x, y in zip(unique.items(), positions, label_rows, strict=True)
        }
        self._scalers: dict[bytes, Scaler] = {}

    def scaler(self, fold: FoldData, train: npt.NDArray[np.intp]) -> Scaler:
        """Return the scaler of training rows; seeds share it."""
        key = train.tobytes()
        if key not in self._scalers:
            self._scalers[key] = fold.scaler(self.features[train])
        return self._scalers[key]
