"""The MLP: its loss against the formula, stacked training against a plain loop, streams, selection."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from modelworld import model_spec

from histoloom.folds.seeds import derive_seed
from histoloom.models import mlp
from histoloom.models.base import Fold, Rows, TrainingData
from histoloom.models.mlp import MLP
from histoloom.models.network import forward, losses
from histoloom.models.selection import section_cc
from histoloom.models.stack import train_stack


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def double(monkeypatch):
    """Train in float64, so that equality is not a matter of rounding grown over steps."""
    monkeypatch.setattr(mlp, "train_stack", functools.partial(train_stack, dtype=torch.float64))


def spec_of(**given):
    return model_spec("mlp", **{"hidden_layers": 2, "width": 12, "epochs": 4, "batch_size": 16, "lr": 1e-2, **given})


def make_data(
    n_patients=5, per_patient=(30, 41, 23, 37, 52), seeds=(0, 7), selection="fixed", val=False, dim=5, types=3, seed=1
):
    """Patients of unequal size, so that members take different numbers of steps; every fold plus ``all``."""
    rng = np.random.default_rng(seed)
    patient = np.repeat([f"P{i}" for i in range(n_patients)], per_patient[:n_patients])
    n = len(patient)
    obs = pd.DataFrame({"cohort": "c", "sample": patient, "patient": patient, "obs_id": [str(i) for i in range(n)]})
    x = (rng.normal(size=(n, dim)) * rng.uniform(0.5, 20, dim) + 30).astype(np.float32)
    y = np.abs(
        np.tanh((x - 30) @ rng.normal(size=(dim, types)) * 0.1) * rng.uniform(1, 9, types)
        + 5
        + rng.normal(size=(n, types)) * 0.3
    )
    names = sorted(set(patient))
    folds = []
    for i, name in enumerate(names):
        held = names[(i + 1) % len(names)] if val else ""
        index = np.arange(n)
        folds.append(
            Fold(
                f"patient-{name}",
                index[(patient != name) & (patient != held)],
                index[patient == held],
                index[patient == name],
                index,
            )
        )
    empty = np.array([], dtype=int)
    folds.append(Fold("all", np.arange(n), empty, empty, np.arange(n)))
    return TrainingData(Rows(obs, x), y, [f"t{i}" for i in range(types)], folds, list(seeds), selection, "train", 3)


def predictions(model, data):
    return {(fold.name, seed): model.predict(fold.name, seed, data.rows) for fold in data.folds for seed in data.seeds}


# an independent implementation: one model at a time, torch.nn, no masks, no stacking ------------------------------


def formula(p, y, spec):
    """The paper's loss, written from its formula."""

    def r(a, b):
        a, b = a - a.mean(), b - b.mean()
        return (a * b).sum() / (torch.sqrt((a**2).sum()) * torch.sqrt((b**2).sum()) + spec["pearson_eps"])

    if spec["pearson_axis"] == "type":
        corr = torch.stack([r(p[:, t], y[:, t]) for t in range(p.shape[1])]).mean()
    elif spec["pearson_axis"] == "observation":
        corr = torch.stack([r(p[i], y[i]) for i in range(p.shape[0])]).mean()
    else:
        corr = r(p.flatten(), y.flatten())
    return torch.nn.functional.mse_loss(p, y) + spec["l1"] * torch.nn.functional.l1_loss(p, y) - spec["l2"] * corr


def plain_loop(data, fold, seed, spec):
    """Train one MLP as a textbook would, in float64; return predictions of all rows, scores, last weights."""
    generator = torch.Generator().manual_seed(derive_seed(data.seed, "fit", fold.name, seed))
    x, y = data.features, data.values
    mean, std = (getattr(x[fold.train].astype(np.float64), m)(0).astype(np.float32) for m in ("mean", "std"))
    y_mean, y_std = (y[fold.train].mean(0), y[fold.train].std(0)) if spec["standardise_target"] else (0.0, 1.0)
    xs = torch.from_numpy((x.astype(np.float64) - mean) / std)
    ys = torch.from_numpy((y - y_mean) / y_std)
    sizes = [x.shape[1]] + [spec["width"]] * spec["hidden_layers"] + [y.shape[1]]
    modules = []
    for i in range(len(sizes) - 1):
        linear = torch.nn.Linear(sizes[i], sizes[i + 1], dtype=torch.float64)
        bound = sizes[i] ** -0.5
        first = (6 / sizes[i]) ** 0.5 if spec["init"] == "he" and i < len(sizes) - 2 else bound
        with torch.no_grad():
            linear.weight.copy_(((torch.rand((sizes[i], sizes[i + 1]), generator=generator) * 2 - 1) * first).T)
            bias = (torch.rand(sizes[i + 1], generator=generator) * 2 - 1) * bound
            linear.bias.copy_(bias if spec["init"] == "pytorch" else torch.zeros_like(bias))
        modules += [linear, torch.nn.SiLU()]
    net = torch.nn.Sequential(*modules[:-1])
    optimiser = torch.optim.AdamW(net.parameters(), lr=spec["lr"], weight_decay=spec["weight_decay"])
    train = torch.from_numpy(fold.train)
    batches = int(np.ceil(len(train) / spec["batch_size"]))
    curve, best = [], None
    for _ in range(spec["epochs"]):
        for rows in torch.tensor_split(train[torch.randperm(len(train), generator=generator)], batches):
            optimiser.zero_grad()
            formula(net(xs[rows]), ys[rows], spec).backward()
            optimiser.step()
        with torch.no_grad():
            out = net(xs).numpy() * y_std + y_mean
        if len(fold.val):
            curve.append(
                np.mean([np.corrcoef(out[fold.val][:, t], y[fold.val][:, t])[0, 1] for t in range(y.shape[1])])
            )
            if best is None or curve[-1] > max(curve[:-1], default=-np.inf):
                best = out
    return (
        (best if len(fold.val) else out),
        curve,
        [m.weight.detach().numpy().T for m in modules if hasattr(m, "weight")],
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"pearson_axis": "observation", "init": "he"},
        {"pearson_axis": "flat", "standardise_target": False, "l1": 0.1},
        {"l1": 0.0, "l2": 0.0, "hidden_layers": 0},
        {"batch_size": 1000, "hidden_layers": 6},
    ],
)
def test_stacked_equals_one_by_one(given, double):
    data, spec = make_data(), spec_of(**given)
    model = MLP(spec)
    model.fit(data, "cpu")
    for fold in data.folds:
        for seed in data.seeds:
            expected, _, weights = plain_loop(data, fold, seed, spec)
            for found, weight in zip(model.state[f"{fold.name}/{seed}"]["weights"], weights, strict=True):
                np.testing.assert_allclose(found.numpy(), weight, atol=1e-7)
            # Prediction itself is single precision.
            state = model.state[f"{fold.name}/{seed}"]
            for key in ("weights", "biases"):
                state[key] = [tensor.float() for tensor in state[key]]
            np.testing.assert_allclose(model.predict(fold.name, seed, data.rows), expected, rtol=1e-5, atol=1e-4)


def test_stacked_equals_one_by_one_in_single_precision():
    """As it runs: after an epoch, before rounding has grown over steps."""
    data, spec = make_data(), spec_of(epochs=1)
    model = MLP(spec)
    model.fit(data, "cpu")
    for fold in data.folds:
        expected, _, _ = plain_loop(data, fold, 7, spec)
        np.testing.assert_allclose(model.predict(fold.name, 7, data.rows), expected, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_member_does_not_depend_on_the_others(dropout):
    data, spec = make_data(), spec_of(dropout=dropout)
    whole = MLP(spec)
    whole.fit(data, "cpu")
    few = TrainingData(data.rows, data.values, data.types, data.folds[1:3], [7], "fixed", "train", 3)
    part = MLP(spec)
    part.fit(few, "cpu")
    for fold in few.folds:
        np.testing.assert_allclose(
            part.predict(fold.name, 7, data.rows), whole.predict(fold.name, 7, data.rows), atol=1e-5
        )


def test_seeds_and_folds_differ_and_repeat():
    data = make_data()
    one, two = MLP(spec_of()), MLP(spec_of())
    one.fit(data, "cpu")
    two.fit(data, "cpu")
    first, second = predictions(one, data), predictions(two, data)
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])
    values = list(first.values())
    assert all(not np.allclose(values[i], values[j]) for i in range(len(values)) for j in range(i))


def test_val_patient_keeps_the_epoch_with_the_best_cc():
    # A rate that is too high makes the curve jump, so that the best epoch is seldom the last.
    data, spec = make_data(selection="val_patient", val=True), spec_of(epochs=8, lr=0.1)
    model = MLP(spec)
    choices = model.fit(data, "cpu")
    picked = []
    for fold in data.folds[:-1]:
        assert choices[fold.name]["how"] == f"val_patient {data.patients[fold.val[0]]}"
        for i, seed in enumerate(data.seeds):
            expected, curve, _ = plain_loop(data, fold, seed, spec)
            np.testing.assert_allclose(model.predict(fold.name, seed, data.rows), expected, atol=2e-2)
            assert choices[fold.name]["epochs"][i] == int(np.argmax(curve)) + 1
            picked.append(int(np.argmax(curve)) + 1)
    assert len(set(picked)) > 2
    assert choices["all"]["epochs"] == [sorted(picked)[(len(picked) - 1) // 2]] * 2
    assert choices["all"]["how"] == "median of the folds' choices"


def test_inner_cv_averages_curves_over_held_out_training_patients():
    data, spec = make_data(n_patients=4, seeds=(0,), selection="inner_cv"), spec_of(epochs=6, lr=0.05)
    choices = MLP(spec).fit(data, "cpu")
    assert all(choice["how"] == "inner_cv over training patients" for choice in choices.values())
    from histoloom.models.selection import inner_folds

    for fold in data.folds:
        splits = inner_folds(data, fold)
        assert len(splits) == len(set(data.patients[fold.train]))
        for train, val in splits:
            assert not set(data.patients[train]) & set(data.patients[val])
            assert not set(fold.test) & (set(train) | set(val))
    assert len({tuple(choice["epochs"]) for choice in choices.values()}) > 1


@pytest.mark.parametrize("axis", ["type", "observation", "flat"])
def test_loss_is_the_formula_and_padding_has_no_part(axis):
    spec = spec_of(pearson_axis=axis, l1=0.3, l2=0.7)
    rng = torch.Generator().manual_seed(0)
    p, y = (
        torch.rand((2, 9, 4), generator=rng, dtype=torch.float64),
        torch.rand((2, 9, 4), generator=rng, dtype=torch.float64),
    )
    mask = torch.ones((2, 9), dtype=torch.float64)
    mask[1, 6:] = 0
    p.requires_grad_()
    found = losses(p, y, mask, spec)
    torch.testing.assert_close(found[0], formula(p[0], y[0], spec))
    torch.testing.assert_close(found[1], formula(p[1, :6], y[1, :6], spec))
    found.sum().backward()
    assert (p.grad[1, 6:] == 0).all()
    assert (p.grad[0] != 0).all()


def test_constant_columns_and_predictions_give_finite_gradients():
    spec = spec_of()
    p = torch.zeros((1, 5, 3), requires_grad=True)
    y = torch.rand((1, 5, 3))
    y[..., 1] = 2.0
    losses(p, y, torch.ones((1, 5)), spec).sum().backward()
    assert torch.isfinite(p.grad).all()
    one = torch.rand((1, 1, 3), requires_grad=True)
    losses(one, y[:, :1], torch.ones((1, 1)), spec).sum().backward()
    assert torch.isfinite(one.grad).all()


def test_default_network_is_seven_linear_layers_with_the_last_linear():
    data = make_data(n_patients=2, seeds=(0,))
    spec = model_spec("mlp", epochs=1, width=8)
    model = MLP(spec)
    model.fit(data, "cpu")
    part = model.state["all/0"]
    assert [tuple(w.shape) for w in part["weights"]] == [(5, 8)] + [(8, 8)] * 5 + [(8, 3)]
    layers = [(w[None] * 0, b[None, None] * 0 - 1) for w, b in zip(part["weights"], part["biases"], strict=True)]
    assert (forward(torch.zeros((1, 2, 5)), layers) == -1).all()  # no activation on the output


def test_it_learns():
    data = make_data(per_patient=(200,) * 5, seeds=(0,), types=2)
    model = MLP(model_spec("mlp", width=64, epochs=40))
    model.fit(data, "cpu")
    for fold in data.folds[:-1]:
        out = model.predict(fold.name, 0, data.rows)[fold.test]
        assert section_cc(out, data.values[fold.test], data.sections[fold.test]) > 0.8


def test_section_cc_against_numpy():
    rng = np.random.default_rng(0)
    a, b, sections = rng.normal(size=(30, 2)), rng.normal(size=(30, 2)), np.repeat([0, 1, 2], 10)
    b[:10, 1] = 5.0  # constant: left out, not averaged as 0
    expected = [np.corrcoef(a[:10, 0], b[:10, 0])[0, 1]]
    for s in (1, 2):
        rows = sections == s
        expected.append(np.mean([np.corrcoef(a[rows, t], b[rows, t])[0, 1] for t in (0, 1)]))
    assert section_cc(a, b, sections) == pytest.approx(np.mean(expected))
    assert section_cc(a, np.ones_like(b), sections) == -np.inf
