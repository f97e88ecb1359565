"""How epochs, penalties and validation rows are chosen: known answers, with the trainings themselves replaced."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_models_mlp import fit, make_data, spec_of
from test_models_training import Toy, fold

from histoloom.models import fit as fit_module
from histoloom.models import mlp, stack, training
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.models.linear import Ridge, RidgeSpec
from histoloom.models.mlp import MLP
from histoloom.models.network import MLPSpec
from histoloom.models.selection import median_of, rule_of
from histoloom.models.stack import Trained
from histoloom.models.training import TrainedNetwork, TrainingSpec, fit_selected, train
from histoloom.targets.base import section_score
from histoloom.targets.cell_class import CellClass


def test_inner_folds_need_three_training_patients():
    assert rule_of("inner_cv", "patient-A", 3, []) == ("inner_cv", "inner_cv over training patients")
    assert rule_of("inner_cv", "patient-A", 2, []) == ("fixed", "fixed: no validation with 2 training patients")


def test_everyones_model_takes_the_median_the_lower_of_two():
    data = SimpleNamespace(earlier=[{"epochs": 30}, {"epochs": [1, 2]}, {"epochs": 9}])
    assert median_of(data, "epochs") == 2
    assert median_of(SimpleNamespace(earlier=[]), "epochs") is None


def test_folds_of_a_comparison_have_no_say_in_everyones_model():
    told = {}

    def trained(data, job):
        told[data.name] = [choice["epochs"] for choice in data.earlier]
        return SimpleNamespace(choices={"how": "val_patient V", "epochs": len(told)})

    def data(row, seed):
        part = Part(SimpleNamespace(), np.zeros((1, 1)), np.zeros(1, int), np.zeros(1, int))
        return FoldData(row.name, part, None, None, ("t",), seed, comparison=row.comparison)

    rows = [SimpleNamespace(name=name, comparison=name == "random-drop") for name in ("all", "transfer", "random-drop")]
    setup = SimpleNamespace(model=SimpleNamespace(fit=trained), fold_data=data)
    fitted = fit_module._fit(setup, [(row, 0) for row in rows], JobContext(), [])
    assert told == {"transfer": [], "random-drop": [1], "all": [1]}
    assert list(fitted) == [("all", 0), ("transfer", 0), ("random-drop", 0)]


def test_folds_of_a_comparison_have_no_say_in_everyones_mlp(monkeypatch):
    data = make_data(selection="val_patient", val=True, seeds=(0,))
    folds = [data.fold_data(row, 0) for row in data.folds]
    folds = [replace(part, comparison=part.name in {"patient-P0", "patient-P3"}) for part in folds]
    best = {"patient-P0": 9, "patient-P1": 2, "patient-P2": 4, "patient-P3": 9, "patient-P4": 3}

    def trained(features, values, members, *given, **more):
        weights = [(torch.zeros(5, 12), torch.zeros(12)), (torch.zeros(12, 3), torch.zeros(3))]
        return [Trained(weights, best.get(member.fold, member.epochs)) for member in members]

    monkeypatch.setattr(mlp, "train_stack", trained)
    fitted = MLP(MLPSpec.from_json(spec_of(hidden_layers=1))).fit_many(folds, JobContext())
    assert fitted[-1].choices == {"how": "median of the folds' choices", "epochs": 3}


CURVES = [[0.1, 0.5, 0.2], [0.2, 0.6, 0.5], [0.9, 0.5, 0.6]]
"""Scores of inner folds by epoch: their mean is best in the second, the last fold's alone in the first."""


def test_inner_folds_of_an_mlp_choose_the_epoch_with_the_best_mean_score(monkeypatch):
    data = make_data(n_patients=4, seeds=(0,), selection="inner_cv")
    asked = []

    def trained(features, values, members, *given, **more):
        curves = iter(CURVES)
        asked.append([member.epochs for member in members])
        weights = [(torch.zeros(5, 3), torch.zeros(3))]
        return [Trained(weights, m.epochs, next(curves) if m.val is not None else []) for m in members]

    monkeypatch.setattr(mlp, "train_stack", trained)
    fitted = MLP(MLPSpec.from_json(spec_of(epochs=3, hidden_layers=0))).fit_many(
        [data.fold_data(data.folds[0], 0)], JobContext()
    )
    assert asked[:2] == [[3, 3, 3], [2]]
    assert fitted[0].choices["epochs"] == 2


def test_inner_folds_of_a_network_choose_the_epoch_with_the_best_mean_score(monkeypatch):
    whole = fold()
    part = replace(whole.train, patient=np.arange(len(whole.train)) % 3)
    curves, asked = iter([*CURVES, []]), []

    def trained(make, data, job, spec, epochs, word):
        asked.append((word, epochs, data.val is not None))
        return TrainedNetwork({}, epochs, next(curves), SimpleNamespace(network=torch.nn.Identity(), arrays=dict))

    monkeypatch.setattr(training, "train", trained)
    data = replace(whole, train=part, rule="inner_cv", how="inner_cv")
    _, choices = fit_selected(lambda part: Toy(None), data, JobContext(), TrainingSpec(4, 3))
    assert choices == {"how": "inner_cv", "epochs": 2}
    assert asked == [("inner0", 3, True), ("inner1", 3, True), ("inner2", 3, True), ("fit", 2, False)]


def test_the_first_of_equal_epochs_is_kept():
    data = make_data(selection="val_patient", val=True, seeds=(0,))
    # A rate of 0: all epochs are the same.
    still = fit(data, {**spec_of(epochs=4), "lr": 0.0, "weight_decay": 0.0})
    assert [model.choices["epochs"] for model in still.values()] == [1] * 6


class Scores:
    """A target whose validation scores are given."""

    def __init__(self, scores):
        self.scores = iter(scores)

    def selection_score(self, prediction, y, section):
        return next(self.scores)


class Steps(Toy):
    """Its weight says how many epochs are done."""

    def start_epoch(self, optimiser, epoch):
        with torch.no_grad():
            self.network.weight.fill_(epoch + 1.0)

    def optimiser(self):
        return torch.optim.SGD(self.network.parameters(), lr=0.0)

    def predict_inputs(self, inputs):
        return np.zeros((len(inputs), 1))


@pytest.mark.parametrize(("scores", "kept"), [([0.1, 0.7, 0.7, 0.2], 2), ([0.3] * 4, 1), ([0.0, 0.1, 0.2, 0.3], 4)])
def test_a_network_keeps_the_weights_of_its_best_epoch_the_first_of_equals(scores, kept):
    data = replace(fold(), val=fold().train, target=Scores(scores))
    trained = train(lambda part: Steps(None), data, JobContext(), TrainingSpec(8, 4), 4, "fit")
    assert (trained.epoch, trained.curve) == (kept, scores)
    assert float(trained.state["weight"]) == kept


def test_sections_count_alike_whatever_their_size():
    section = np.repeat([0, 1], [30, 10])
    y = np.random.default_rng(0).normal(size=(40, 1))
    assert section_score(np.where(section[:, None] == 0, y, -y), y, section) == pytest.approx(0.0)


def test_classes_count_alike_whatever_their_size():
    shares = np.tile([0.9, 0.1], (10, 1))
    assert CellClass().selection_score(shares, np.repeat([0, 1], [9, 1]), np.zeros(10, int)) == 0.5


def ridge(scores, rule, alphas=(1.0, 100.0)):
    data = make_data(n_patients=2, seeds=(0,), selection="fixed").fold_data
    world = make_data(n_patients=2, seeds=(0,))
    whole = data(world.folds[-1], 0)
    val = whole.train if rule == "val" else None
    given = replace(whole, rule=rule, how=rule, val=val, target=Scores(scores))
    return Ridge(RidgeSpec(1.0, alphas)).fit(given, JobContext()).choices["alpha"]


def test_ridge_takes_the_largest_of_equal_penalties_and_the_mean_over_inner_folds():
    assert ridge([0.5, 0.5], "val") == 100.0
    assert ridge([0.5, 0.6], "val") == 1.0
    # Two patients, two folds: (100, 1) score (.9, .1), then (.2, .4).
    assert ridge([0.9, 0.1, 0.2, 0.4], "inner_cv") == 100.0


def test_dropout_keeps_the_expectation(monkeypatch):
    draws = []

    def seen(x, layers, draw=None, **options):
        if draw is not None:
            draws.append(draw(500))
        return forward(x, layers, draw, **options)

    forward = stack.forward
    monkeypatch.setattr(stack, "forward", seen)
    data = make_data(n_patients=2, per_patient=(40, 40), seeds=(0,))
    fit(data, spec_of(dropout=0.3, epochs=1, batch_size=40))
    factors = torch.cat([draw.flatten() for draw in draws])
    assert sorted(set(factors.tolist())) == pytest.approx([0.0, 1 / 0.7])
    assert float(factors.mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_models_are_the_same_in_one_stack_and_in_several(monkeypatch, dropout):
    data, spec = make_data(selection="val_patient", val=True), spec_of(dropout=dropout)
    one = fit(data, spec)
    # Three models of 5 x 12 + 12 x 12 + 12 x 3 weights at a time.
    monkeypatch.setattr(stack, "_CACHE_BYTES", 4 * 240 * 3 + 1)
    for key, model in fit(data, spec).items():
        assert model.choices == one[key].choices
        for name, array in model.state().items():
            np.testing.assert_allclose(array, one[key].state()[name], atol=1e-5)
