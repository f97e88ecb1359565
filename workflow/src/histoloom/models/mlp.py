"""The regressor of the decomposition paper (sections 2.1 and 2.2): an MLP on concatenated embeddings.

What the paper leaves open (width, loss weights, the axis of the Pearson term, optimiser, epochs) is in the
config with stated
defaults. Folds and training seeds are trained stacked; see `histoloom.models.stack`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from statistics import median_low
from typing import Any, ClassVar

import numpy as np
import torch

from histoloom.folds.seeds import derive_seed
from histoloom.models.base import Fold, Model, Rows, TrainingData
from histoloom.models.network import forward
from histoloom.models.scaling import Scaler, moments
from histoloom.models.selection import inner_folds, rule_of, validation_rows
from histoloom.models.stack import Member, Trained, member_facts, train_stack

logger = logging.getLogger(__name__)


class MLP(Model):
    """MLP with SiLU and a linear last layer; loss MSE + l1 MAE + l2 Pearson."""

    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    stochastic: ClassVar[bool] = True

    def fit(self, data: TrainingData, device: str) -> dict[str, dict[str, Any]]:
        """Fit every fold and seed; see `Model.fit`.

        Rounds: folds of selection inner_cv first try the epochs on inner folds; then every fold whose
        epochs are known or come from
        its validation rows is trained; a fold that takes the median of the others' epochs (``all``
        under val_patient) comes last.
        """
        rules = {fold.name: rule_of(data, fold) for fold in data.folds}
        limit = int(self.spec["epochs"])
        scalers = {fold.name: data.scaler(fold.train) for fold in data.folds}
        inner = [fold for fold in data.folds if rules[fold.name][0] == "inner_cv"]
        epochs = self._inner_epochs(data, inner, device) if inner else {}
        members, last = [], []
        for fold in data.folds:
            rule = rules[fold.name][0]
            if rule == "median":
                last.append(fold)
                continue
            val = validation_rows(data, fold) if rule == "val" else None
            members += [
                self._member(data, fold, seed, scalers[fold.name], epochs.get((fold.name, seed), limit), val=val)
                for seed in data.seeds
            ]
        trained = self._train("fit", data, members, device)
        chosen = {key: [t.epochs for m, t in zip(members, trained, strict=True) if m.fold == key] for key in rules}
        if last:
            told = [fold.name for fold in data.folds if not fold.compared and rules[fold.name][0] == "val"]
            found = [e for key in told for e in chosen[key]]
            middle = median_low(found) if found else limit
            late = [self._member(data, fold, seed, scalers[fold.name], middle) for fold in last for seed in data.seeds]
            members, trained = (
                members + late,
                trained + self._train("last", data, late, device),
            )
            for fold in last:
                chosen[fold.name] = [middle] * len(data.seeds)
                if not found:
                    rules[fold.name] = ("fixed", "fixed: no fold had a validation")
        self.state = {f"{m.fold}/{m.seed}": _state(m, t) for m, t in zip(members, trained, strict=True)}
        return {fold.name: {"how": rules[fold.name][1], "epochs": chosen[fold.name]} for fold in data.folds}

    def _train(self, name: str, data: TrainingData, members: Sequence[Member], device: str) -> list[Trained]:
        """Train a round; one that an earlier try has begun goes on from its checkpoint."""
        checkpoint = None if self.checkpoints is None else self.checkpoints.of(name, member_facts(members))
        return train_stack(data.features, data.values, members, self.spec, device, checkpoint=checkpoint)

    def _member(
        self,
        data: TrainingData,
        fold: Fold,
        seed: int,
        scaler: Scaler,
        epochs: int,
        *,
        train: np.ndarray | None = None,
        val: np.ndarray | None = None,
        word: str = "fit",
    ) -> Member:
        """Describe one model of the stack; everything fitted for it sees its training rows only."""
        train = fold.train if train is None else train
        y_mean, y_scale = np.zeros(len(data.types)), np.ones(len(data.types))
        if self.spec["standardise_target"]:
            y_mean, y_scale = moments(data.labels(fold, train))
        return Member(
            fold=fold.name,
            seed=seed,
            stream=derive_seed(data.seed, word, fold.name, seed),
            train=train,
            val=val,
            val_sections=None if val is None else data.sections[val],
            label_rows=fold.label_rows,
            scaler=scaler,
            y_mean=y_mean,
            y_scale=y_scale,
            epochs=epochs,
        )

    def _inner_epochs(self, data: TrainingData, folds: Sequence[Fold], device: str) -> dict[tuple[str, int], int]:
        """Return by fold and seed the epoch with the best CC, averaged over inner folds of training patients."""
        members, keys = [], []
        for fold in folds:
            for number, (train, val) in enumerate(inner_folds(data, fold)):
                scaler = data.scaler(train)
                for seed in data.seeds:
                    members.append(
                        self._member(
                            data,
                            fold,
                            seed,
                            scaler,
                            int(self.spec["epochs"]),
                            train=train,
                            val=val,
                            word=f"inner{number}",
                        )
                    )
                    keys.append((fold.name, seed))
        trained = self._train("inner", data, members, device)
        curves: dict[tuple[str, int], list[list[float]]] = {}
        for key, result in zip(keys, trained, strict=True):
            curves.setdefault(key, []).append(result.curve)
        return {key: int(np.argmax(np.mean(found, axis=0))) + 1 for key, found in curves.items()}

    def predict(self, fold: str, seed: int, rows: Rows) -> np.ndarray:
        """Return (n, T) predictions; see `Model.predict`."""
        if rows.features is None:
            raise TypeError("the MLP needs features")
        part = self.state[f"{fold}/{seed}"]
        layers = [
            (weight[None], bias[None, None]) for weight, bias in zip(part["weights"], part["biases"], strict=True)
        ]
        out = []
        with torch.inference_mode():
            # In pieces, so that a slide of 100,000 tiles does not need its activations at once.
            for start in range(0, len(rows.features), 8192):
                x = (torch.from_numpy(rows.features[start : start + 8192]) - part["mean"]) / part["scale"]
                out.append(forward(x[None], layers)[0].double() * part["y_scale"] + part["y_mean"])
        empty = torch.zeros((0, len(part["y_mean"])), dtype=torch.float64)
        return torch.cat([empty, *out]).numpy()


def _state(member: Member, trained: Trained) -> dict[str, Any]:
    """Return what prediction needs, as tensors on the CPU."""
    return {
        "weights": [weight.cpu().clone() for weight, _ in trained.layers],
        "biases": [bias.cpu().clone() for _, bias in trained.layers],
        "mean": torch.from_numpy(member.scaler.mean),
        "scale": torch.from_numpy(member.scaler.scale),
        "y_mean": torch.from_numpy(np.asarray(member.y_mean, dtype=np.float64)),
        "y_scale": torch.from_numpy(np.asarray(member.y_scale, dtype=np.float64)),
    }
