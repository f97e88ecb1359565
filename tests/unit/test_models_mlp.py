"""The MLP: its loss against the formula, stacked training against a plain loop, streams, selection."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from modelworld import model_spec

from histoloom.folds.seeds import derive_seed
from histoloom.inputs import Inputs
from histoloom.models import mlp
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.models.mlp import MLP
from histoloom.models.network import MLPSpec, forward, losses
from histoloom.models.selection import rule_of
from histoloom.models.setup import FoldRows
from histoloom.models.stack import train_stack
from histoloom.targets import kind_of
from histoloom.targets.base import section_score


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
    small = {"hidden_layers": 2, "width": 12, "epochs": 4, "batch_size": 16, "lr": 1e-2, "min_steps": 0}
    return model_spec("mlp", **{**small, **given})


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
            FoldRows(
                f"patient-{name}",
                index[(patient != name) & (patient != held)],
                index[patient == held],
                index[patient == name],
                index,
            )
        )
    empty = np.array([], dtype=int)
    folds.append(FoldRows("all", np.arange(n), empty, empty, np.arange(n)))
    return Data(obs, x, y, folds, list(seeds), selection)


@dataclass(frozen=True)
class Data:
    """Folds of one experiment with features and labels in memory."""

    obs: pd.DataFrame
    features: np.ndarray
    values: np.ndarray
    folds: list
    seeds: list
    selection: str
    seed: int = 3

    @property
    def patients(self):
        return self.obs["patient"].to_numpy(object)

    @property
    def sections(self):
        return pd.factorize(self.obs["sample"])[0]

    @property
    def inputs(self):
        return Inputs(self.obs, {"features": lambda rows: self.features[rows]}, np.arange(len(self.obs)))

    def part(self, rows):
        patient = pd.factorize(self.obs["patient"])[0]
        return Part(self.inputs.take(rows), self.values[rows], patient[rows], self.sections[rows])

    def fold_data(self, fold, seed):
        trained = set(self.patients[fold.train]) | set(self.patients[fold.val])
        rule, how = rule_of(self.selection, fold.name, len(trained), list(self.patients[fold.val][:1]))
        return FoldData(
            fold.name, self.part(fold.train), self.part(fold.val) if rule == "val" else None, kind_of("abundance"),
            tuple("abcdefgh"[: self.values.shape[1]]), seed, self.seed, rule, how,
        )  # fmt: skip

    def keys(self):
        return [(fold.name, seed) for fold in self.folds for seed in self.seeds]


def fit(data, spec, checkpoints=None, record=None):
    """Fit all folds and seeds; by (fold, seed)."""
    model, job = (
        MLP(MLPSpec.from_json(spec)),
        JobContext(checkpoints=checkpoints, record={} if record is None else record),
    )
    together = [data.fold_data(fold, seed) for fold in data.folds for seed in data.seeds]
    return dict(zip(data.keys(), model.fit_many(together, job), strict=True))


def predict(fitted, data):
    return fitted.predict(data.inputs, {}, JobContext())


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
        norm = torch.nn.LayerNorm(sizes[i + 1], elementwise_affine=False) if spec["norm"] == "layer" else None
        modules += [linear, *([norm] if norm else []), torch.nn.SiLU()]
    net = torch.nn.Sequential(*modules[: modules.index(linear) + 1])
    optimiser = torch.optim.AdamW(net.parameters(), lr=spec["lr"], weight_decay=spec["weight_decay"])
    warmup = max(spec["warmup_steps"], 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: min(1, (done + 1) / warmup))
    train = torch.from_numpy(fold.train)
    batches = int(np.ceil(len(train) / spec["batch_size"]))
    curve, best, losses_of = [], None, {"train_loss": [], "val_loss": []}
    for _ in range(max(spec["epochs"], int(np.ceil(spec["min_steps"] / batches)))):
        steps = []
        for rows in torch.tensor_split(train[torch.randperm(len(train), generator=generator)], batches):
            optimiser.zero_grad()
            loss = formula(net(xs[rows]), ys[rows], spec)
            loss.backward()
            steps.append(float(loss.detach()))
            optimiser.step()
            schedule.step()
        losses_of["train_loss"].append(np.mean(steps))
        with torch.no_grad():
            out = net(xs).numpy() * y_std + y_mean
            if len(fold.val):
                losses_of["val_loss"].append(float(formula(net(xs[fold.val]), ys[fold.val], spec)))
        if len(fold.val):
            curve.append(
                np.mean([np.corrcoef(out[fold.val][:, t], y[fold.val][:, t])[0, 1] for t in range(y.shape[1])])
            )
            if best is None or curve[-1] > max(curve[:-1], default=-np.inf):
                best = out
    return (
        (best if len(fold.val) else out),
        curve,
        [m.weight.detach().numpy().T for m in modules if isinstance(m, torch.nn.Linear)],
        losses_of,
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"pearson_axis": "observation", "init": "he"},
        {"pearson_axis": "flat", "standardise_target": False, "l1": 0.1},
        {"l1": 0.0, "l2": 0.0, "hidden_layers": 0},
        {"batch_size": 1000, "hidden_layers": 6},
        {"norm": "none", "warmup_steps": 0},
        {"warmup_steps": 5, "min_steps": 60},
    ],
)
def test_stacked_equals_one_by_one(given, double):
    data, spec = make_data(), spec_of(**given)
    fitted = fit(data, spec)
    for fold in data.folds:
        for seed in data.seeds:
            expected, _, weights, _ = plain_loop(data, fold, seed, spec)
            model = fitted[fold.name, seed]
            for i, weight in enumerate(weights):
                np.testing.assert_allclose(model.state()[f"w{i}"], weight, atol=1e-7)
            # Prediction itself is single precision.
            single = {name: a.astype(np.float32) if name[0] in "wb" else a for name, a in model.state().items()}
            model = MLP(MLPSpec.from_json(spec)).restore(single, model.choices)
            np.testing.assert_allclose(predict(model, data), expected, rtol=1e-5, atol=1e-4)


def test_stacked_equals_one_by_one_in_single_precision():
    """As it runs: after an epoch, before rounding has grown over steps."""
    data, spec = make_data(), spec_of(epochs=1)
    fitted = fit(data, spec)
    for fold in data.folds:
        expected, _, _, _ = plain_loop(data, fold, 7, spec)
        np.testing.assert_allclose(predict(fitted[fold.name, 7], data), expected, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_member_does_not_depend_on_the_others(dropout):
    data, spec = make_data(), spec_of(dropout=dropout)
    whole = fit(data, spec)
    for key, part in fit(replace(data, folds=data.folds[1:3], seeds=[7]), spec).items():
        np.testing.assert_allclose(predict(part, data), predict(whole[key], data), atol=1e-5)


def test_seeds_and_folds_differ_and_repeat():
    data = make_data()
    first, second = ({k: predict(m, data) for k, m in fit(data, spec_of()).items()} for _ in range(2))
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])
    values = list(first.values())
    assert all(not np.allclose(values[i], values[j]) for i in range(len(values)) for j in range(i))


def test_val_patient_keeps_the_epoch_with_the_best_cc():
    # A rate that is too high makes the curve jump, so that the best epoch is seldom the last.
    data, spec = make_data(selection="val_patient", val=True), spec_of(epochs=8, lr=0.1)
    fitted = fit(data, spec)
    picked = []
    for fold in data.folds[:-1]:
        for seed in data.seeds:
            model = fitted[fold.name, seed]
            assert model.choices["how"] == f"val_patient {data.patients[fold.val[0]]}"
            expected, curve, _, _ = plain_loop(data, fold, seed, spec)
            np.testing.assert_allclose(predict(model, data), expected, atol=2e-2)
            assert model.choices["epochs"] == int(np.argmax(curve)) + 1
            picked.append(int(np.argmax(curve)) + 1)
    assert len(set(picked)) > 2
    middle = {"epochs": sorted(picked)[(len(picked) - 1) // 2], "how": "median of the folds' choices"}
    assert [fitted["all", seed].choices for seed in data.seeds] == [middle] * 2


def test_recorded_losses_are_those_of_training_one_by_one(double):
    """Folds of other sizes end their epochs at other steps."""
    data, spec, record = make_data(selection="val_patient", val=True), spec_of(epochs=3, batch_size=20), {}
    fit(data, spec, record=record)
    curves = {(c["fold"], c["seed"]): c for c in record["curves"] if c["part"] == "fit"}
    assert curves
    for fold in data.folds[:-1]:
        for seed in data.seeds:
            _, scores, _, losses_of = plain_loop(data, fold, seed, spec)
            for name, expected in {**losses_of, "val_score": scores}.items():
                np.testing.assert_allclose(curves[fold.name, seed][name], expected, atol=2e-5)
    # The model of everyone comes last and holds nobody out.
    last = [c for c in record["curves"] if c["part"] == "last"]
    assert {c["fold"] for c in last} == {data.folds[-1].name}
    assert all("val_loss" not in c for c in last)


def test_inner_cv_averages_curves_over_held_out_training_patients():
    data, spec = (
        make_data(n_patients=4, seeds=(0,), selection="inner_cv"),
        spec_of(epochs=6, lr=0.05, norm="none", warmup_steps=0),
    )
    choices = [model.choices for model in fit(data, spec).values()]
    assert all(choice["how"] == "inner_cv over training patients" for choice in choices)
    for fold in data.folds:
        part = data.fold_data(fold, 0)
        splits = part.inner()
        assert len(splits) == len(set(data.patients[fold.train]))
        for train, val in splits:
            assert not set(part.train.patient[train]) & set(part.train.patient[val])
            assert not set(fold.test) & set(part.train.inputs.rows)
    assert len({choice["epochs"] for choice in choices}) > 1


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
    found = losses(p, y, mask, MLPSpec.from_json(spec))
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
    losses(p, y, torch.ones((1, 5)), MLPSpec.from_json(spec)).sum().backward()
    assert torch.isfinite(p.grad).all()
    one = torch.rand((1, 1, 3), requires_grad=True)
    losses(one, y[:, :1], torch.ones((1, 1)), MLPSpec.from_json(spec)).sum().backward()
    assert torch.isfinite(one.grad).all()


def test_default_network_is_seven_linear_layers_with_the_last_linear():
    data = make_data(n_patients=2, seeds=(0,))
    spec = model_spec("mlp", epochs=1, width=8)
    part = fit(data, spec)["all", 0].state()
    weights, biases = ([torch.from_numpy(part[f"{x}{i}"]) for i in range(7)] for x in "wb")
    assert [tuple(w.shape) for w in weights] == [(5, 8)] + [(8, 8)] * 5 + [(8, 3)]
    layers = [(w[None] * 0, b[None, None] * 0 - 1) for w, b in zip(weights, biases, strict=True)]
    assert (forward(torch.zeros((1, 2, 5)), layers) == -1).all()  # no activation on the output


def test_it_learns():
    data = make_data(per_patient=(200,) * 5, seeds=(0,), types=2)
    fitted = fit(data, model_spec("mlp", width=64, epochs=40))
    for fold in data.folds[:-1]:
        out = predict(fitted[fold.name, 0], data)[fold.test]
        assert section_score(out, data.values[fold.test], data.sections[fold.test]) > 0.8


def test_section_score_against_numpy():
    rng = np.random.default_rng(0)
    a, b, sections = rng.normal(size=(30, 2)), rng.normal(size=(30, 2)), np.repeat([0, 1, 2], 10)
    b[:10, 1] = 5.0  # constant: left out, not averaged as 0
    expected = [np.corrcoef(a[:10, 0], b[:10, 0])[0, 1]]
    for s in (1, 2):
        rows = sections == s
        expected.append(np.mean([np.corrcoef(a[rows, t], b[rows, t])[0, 1] for t in (0, 1)]))
    assert section_score(a, b, sections) == pytest.approx(np.mean(expected))
    assert section_score(a, np.ones_like(b), sections) == -np.inf
