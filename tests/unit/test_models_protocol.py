"""What models may see: test rows, scaling, shuffled labels, selection, transfer."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from modelbench import SMALL, files_of, lay, run, section_mean_cc
from modelworld import World, experiment, model_spec

from histoloom.artefacts import read_metadata
from histoloom.folds import make_folds, read_folds
from histoloom.inputs import build, open_inputs
from histoloom.inputs.scaling import fit_scaler
from histoloom.kind_entries import Need
from histoloom.models.artefact import load_models
from histoloom.models.base import FoldData, Part
from histoloom.models.setup import Setup, split_rows
from histoloom.targets import make_target, read_target


def flat(state):
    """All numbers of a fitted model."""
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in state.values()])


@pytest.mark.parametrize("kind", ["ridge", "mlp"])
@pytest.mark.parametrize("selection", ["fixed", "val_patient", "inner_cv"])
def test_fitting_never_sees_test_rows(tmp_path, kind, selection):
    """Change all of patient A: the model of the fold that tests A is the same to the bit, others are not."""
    extra = {"alphas": [1.0, 100.0]} if kind == "ridge" else SMALL
    states = []
    for name, change in (("one", False), ("two", True)):
        world = World(tmp_path / name)
        if change:
            for section in ("A1", "A2"):
                world.features[section] = world.features[section] * 50 + 1000
                world.labels[section] = world.labels[section][::-1] * 7
        bench = lay(world, tmp_path / f"{name}-e", selection=selection, train_seeds=[0])
        saved = load_models(run(bench, model_spec(kind, **extra), predict=False)[1])
        states.append([flat(saved.fitted(f"patient-{p}", -1 if kind == "ridge" else 0).state()) for p in "AB"])
    np.testing.assert_array_equal(states[0][0], states[1][0])
    assert not np.array_equal(states[0][1], states[1][1])


def test_per_section_is_stamped_and_removes_a_sections_offset(tmp_path):
    world = World(tmp_path)
    for name in world.features:
        # A stain: each section's features are shifted and stretched by their own amount.
        world.features[name] = (world.features[name] - world.features[name].mean(0)) / world.features[name].std(0)
        world.labels[name] = world.features[name] @ world.map + 9.0
        world.features[name] = (
            world.features[name] * world.rng.uniform(0.3, 3, world.dim) + world.rng.normal(size=world.dim) * 4
        )
    error = {}
    for standardise in ("train", "per_section", "per_cohort", "none"):
        bench = lay(world, tmp_path / standardise, standardise=standardise)
        predictions, _ = run(bench, model_spec("ridge", alpha=1e-3))
        protocol = json.loads(predictions.uns["histoloom"])["protocol"]
        assert (protocol["standardise"], protocol["transductive"]) == (standardise, standardise.startswith("per_"))
        error[standardise] = np.abs(predictions.X - predictions.layers["labels"]).mean()
    assert error["per_section"] < 0.2 * error["train"]
    # One cohort, no penalty to speak of: scaling by all rows or by training rows is the same linear model.
    assert error["per_cohort"] == pytest.approx(error["train"], rel=0.01)
    assert error["none"] == pytest.approx(error["train"], rel=0.01)


def test_inputs_are_concatenated_by_name_in_order(world, bench):
    whole = bench.embeddings
    bench.embeddings = {
        "right": world.write_embeddings("right", slice(2, None)),
        "left": world.write_embeddings("left", slice(0, 2)),
    }
    parts = bench.embeddings
    bench.embeddings = whole
    one, _ = run(bench, model_spec("ridge"), "whole")
    bench.embeddings = parts
    two, path = run(bench, model_spec("ridge", inputs=["left", "right"]), "parts")
    np.testing.assert_array_equal(one.X, two.X)
    assert list(load_models(path).metadata["encoders"]) == ["left", "right"]


@pytest.mark.parametrize(
    ("shuffle", "standardise", "null"),
    [
        ("none", "train", False),
        ("everywhere", "train", True),
        ("within_section", "per_section", True),
        ("within_section", "train", False),
    ],
)
def test_shuffled_labels_are_no_signal(tmp_path, shuffle, standardise, null):
    """Per-section CC is 0 within 2 SE when nothing is left to learn.

    The last case is a trap: labels shuffled within sections keep the sections' means, and where sections differ in
    their features' means (here, as under a stain) a linear map is learnt from those alone.
    """
    world = World(tmp_path, patients={p: [f"{p}{i}" for i in range(3)] for p in "ABCDEF"})
    bench = lay(world, tmp_path / "e", shuffle_labels=shuffle, standardise=standardise)
    predictions, _ = run(bench, model_spec("ridge", alpha=10.0))
    truth = read_target(bench.target)
    at = truth.obs.index.get_indexer(predictions.obs_names)
    np.testing.assert_array_equal(predictions.layers["labels"], truth.values[at])  # the test's labels stay
    # Predictions of a fold share their training labels, so folds (patients) are the independent units.
    per_patient = section_mean_cc(predictions).reshape(6, 12).mean(axis=1)
    if null:
        assert abs(per_patient.mean()) < 2 * per_patient.std(ddof=1) / np.sqrt(6)
    else:
        assert per_patient.mean() > 0.8


def test_shuffle_permutes_within_sections_of_the_training_side(world, bench):
    target, (table, _) = read_target(bench.target), read_folds(bench.folds)
    section = (target.obs["cohort"] + target.obs["sample"]).to_numpy()
    for fold in split_rows(table, target.obs, "within_section"):
        np.testing.assert_array_equal(section[fold.label_rows], section)
        np.testing.assert_array_equal(np.sort(fold.label_rows), np.arange(len(section)))
        np.testing.assert_array_equal(fold.label_rows[fold.test], fold.test)
        assert (fold.label_rows[fold.train] != fold.train).mean() > 0.9


@pytest.mark.parametrize("kind", ["ridge", "mlp"])
def test_shuffled_labels_reach_training_and_validation_of_every_model(tmp_path, kind):
    world = World(tmp_path, {"A": ["A1", "A2"], "B": ["B1"], "C": ["C1"], "D": ["D1"]})
    bench = lay(world, tmp_path / "e", selection="val_patient", shuffle_labels="everywhere")
    setup = Setup(model_spec(kind), bench.spec, files_of(bench))
    for fold in setup.folds[:-1]:
        data = setup.fold_data(fold, 0)
        for part, rows in ((data.train, fold.train), (data.val, fold.val)):
            np.testing.assert_array_equal(part.y, setup.target.values[fold.label_rows[rows]])
            assert (part.y != setup.target.values[rows]).any(axis=1).mean() > 0.9


def test_inner_folds_keep_the_sections_of_a_patient_together():
    patient, section = np.repeat([0, 1, 2], 8), np.repeat(np.arange(6), 4)
    part = Part(SimpleNamespace(), np.zeros((24, 1)), patient, section)
    splits = FoldData("f", part, None, None, ("a",)).inner()
    assert [sorted(set(patient[val])) for _, val in splits] != []
    assert all(not set(patient[train]) & set(patient[val]) for train, val in splits)
    assert sorted(int(s) for _, val in splits for s in set(section[val])) == list(range(6))


@pytest.mark.parametrize(
    ("standardise", "expected"),
    [("per_section", [[-1, 1], [-1, 1], [-1, 1], [-1, 1]]), ("per_cohort", [[-1, -1], [1, 1], [-1, -1], [1, 1]])],
)
def test_scaling_tells_sections_of_one_name_in_two_cohorts_apart(monkeypatch, standardise, expected):
    values = {"per_section": [0, 2, 10, 30, 5, 6, 100, 200], "per_cohort": [0, 0, 2, 2, 10, 10, 30, 30]}[standardise]
    x = np.array(values, np.float32)[:, None]

    class Stub:
        widths, spaces, modalities = [1], {}, []

        def __init__(self, *given):
            pass

        def __call__(self, rows):
            return x[rows].copy()

    monkeypatch.setattr(build, "Features", Stub)
    obs = pd.DataFrame({"cohort": list("aaaabbbb"), "sample": list("sstt") * 2, "obs_id": list("01234567")})
    inputs, _ = open_inputs(obs, {Need.FEATURES}, {"inputs": ["e"]}, {}, {"spec": {}}, standardise)
    np.testing.assert_allclose(inputs.features().ravel(), np.ravel(expected), atol=1e-6)


def test_a_constant_float32_column_with_rounding_spread_is_not_blown_up():
    x = np.full((1000, 1), 0.1, np.float32)
    x[::3] = np.nextafter(np.float32(0.1), np.float32(1))
    assert fit_scaler(x).scale.tolist() == [1.0]


def test_one_training_patient(tmp_path):
    world = World(tmp_path, patients={"A": ["A1"], "B": ["B1"]})
    for selection in ("fixed", "val_patient", "inner_cv"):
        bench = lay(world, tmp_path / selection, selection=selection)
        for model in (model_spec("mlp", **SMALL), model_spec("ridge")):
            predictions, path = run(bench, model)
            assert len(predictions) == 122
            name = "patient-A.0" if model["kind"] == "mlp" else "patient-A"
            choice = read_metadata(path)["choices"][name]
            assert choice["how"] == (
                "fixed" if selection == "fixed" else "fixed: no validation with one training patient"
            )
            assert choice.get("epochs", 3) == 3
            assert choice.get("alpha", 100.0) == 100.0


def test_ridge_chooses_alpha_on_training_patients_by_an_independent_search(tmp_path):
    from scipy.stats import pearsonr
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    world = World(tmp_path, noise=2.0, dim=30)
    bench = lay(world, tmp_path / "e", selection="val_patient")
    alphas = [0.1, 10.0, 1000.0, 1e5]
    _, path = run(bench, model_spec("ridge", alphas=alphas))
    choices = read_metadata(path)["choices"]
    target, (table, meta) = read_target(bench.target), read_folds(bench.folds)
    x = np.stack(
        [
            world.features[s][world.ids().index(o)]
            for s, o in zip(target.obs["sample"], target.obs["obs_id"], strict=True)
        ]
    )
    for fold, val in meta["validation"].items():
        if fold == "all":
            continue
        rows = table[table["fold"] == fold]
        train = target.obs["sample"].isin(rows.loc[rows["role"] == "train", "sample"]).to_numpy()
        assert not set(target.obs.loc[train, "patient"]) & {val, fold.removeprefix("patient-")}
        scale = StandardScaler().fit(x[train])
        scores = []
        for alpha in alphas:
            fitted = Ridge(alpha=alpha).fit(scale.transform(x[train]), target.values[train])
            cc = []
            for sample in world.patients[val]:
                at = (target.obs["sample"] == sample).to_numpy()
                p = fitted.predict(scale.transform(x[at]))
                cc.append(np.mean([pearsonr(p[:, i], target.values[at, i])[0] for i in range(4)]))
            scores.append(np.mean(cc))
        assert choices[fold]["alpha"] == alphas[int(np.argmax(scores))], (fold, scores)
        assert choices[fold]["how"] == f"val_patient {val}"
    assert choices["all"]["how"] == "median of the folds' choices"


def test_test_as_published_is_stamped(bench, world, tmp_path):
    bench = lay(world, tmp_path / "tap", selection="test_as_published")
    predictions, _ = run(bench, model_spec("ridge"))
    assert json.loads(predictions.uns["histoloom"])["protocol"]["tuned_on_test"] is True
    predictions, _ = run(bench, model_spec("train_mean"))
    assert json.loads(predictions.uns["histoloom"])["protocol"]["tuned_on_test"] is False


def test_transfer_with_shared_patients_is_stamped(tmp_path):
    one = World(tmp_path / "w", patients={"A": ["A1"], "B": ["B1"]})
    two = World(tmp_path / "w", patients={"A": ["X1"], "Z": ["Z1"]}, cohort="other", seed=3)
    spec = {"split": "transfer", "train_cohorts": ["demo"], "test_cohorts": ["other"]}
    results = {}
    for on_overlap in ("drop", "allow"):
        entry = experiment(**spec, on_overlap=on_overlap)
        folder = tmp_path / on_overlap
        folder.mkdir()
        bench = SimpleNamespace(
            folder=folder, spec=entry, target=folder / "t.h5ad", folds=folder / "f.parquet", more={}
        )
        bench.panel = None
        files = {"samples": one.samples + two.samples, "tiles": one.tiles + two.tiles}
        make_target(spec=entry, files=files | {"labels": [one.write_labels(), two.write_labels()]}, out=bench.target)
        make_folds(spec=entry, target=bench.target, seed=0, out=bench.folds)
        bench.embeddings = {"enc": [*one.write_embeddings(), *two.write_embeddings()]}
        predictions, _ = run(bench, model_spec("ridge"))
        assert set(predictions.obs["cohort"]) == {"other"}
        assert set(predictions.obs["sample"]) == {"X1", "Z1"}
        protocol = json.loads(predictions.uns["histoloom"])["protocol"]
        assert (protocol["on_overlap"], protocol["overlap_patients"]) == (on_overlap, ["A"])
        results[on_overlap] = predictions.X
    assert not np.allclose(results["drop"], results["allow"])


def test_a_constant_column_and_a_constant_feature_do_no_harm(tmp_path):
    world = World(tmp_path)
    for name in world.labels:
        world.labels[name][:, 2] = 4.0
        world.features[name][:, 3] = 0.1
    bench = lay(world, tmp_path / "e")
    for model in (model_spec("mlp", **SMALL), model_spec("ridge")):
        predictions, _ = run(bench, model)
        np.testing.assert_allclose(predictions.X[:, 2], 4.0, atol=1.5)
        assert json.loads(predictions.uns["histoloom"])["constant_types"] == ["epithelial"]


# bad input ---------------------------------------------------------------------------------------------------------
