"""Models from artefact to artefact: floors, ridge, files, protocol, leaks, bad input."""

from __future__ import annotations

import json
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from modelworld import TILES, World, experiment, model_spec

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.folds import make_folds, read_folds
from histoloom.identity import canonical_json
from histoloom.models import apply_model, predict_model, train_model
from histoloom.models.artefact import load_model
from histoloom.models.floor import section_coordinates
from histoloom.targets import build_target, read_target

SMALL = {"hidden_layers": 1, "width": 8, "epochs": 3, "batch_size": 32}


def lay(world: World, folder, **spec):
    """Write target, folds and embeddings of an experiment."""
    folder.mkdir(exist_ok=True)
    entry = experiment(**spec)
    target, folds = folder / "target.h5ad", folder / "folds.parquet"
    build_target(
        spec=entry, samples=world.samples, tiles=world.tiles, labels=[world.write_labels()], truth=[], out=target
    )
    make_folds(spec=entry, target=target, seed=entry["seed"], out=folds)
    return SimpleNamespace(
        folder=folder, spec=entry, target=target, folds=folds, embeddings={"enc": world.write_embeddings()}
    )


def run(bench, model, name="m", predict=True):
    """Train and predict; return the predictions and the model's path."""
    path, out = bench.folder / f"{name}.pt", bench.folder / f"{name}.h5ad"
    inputs = {
        "spec": model,
        "experiment": bench.spec,
        "target": bench.target,
        "folds": bench.folds,
        "embeddings": bench.embeddings,
    }
    train_model(**inputs, out=path, efficiency=bench.folder / "e.json", threads=1, device="cpu")
    if not predict:
        return None, path
    predict_model(model=path, **inputs, variant="default", out=out)
    return anndata.read_h5ad(out), path


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One laid experiment for all tests that only read it."""
    folder = tmp_path_factory.mktemp("shared")
    world = World(folder)
    return world, lay(world, folder / "e")


@pytest.fixture
def world(shared):
    return shared[0]


@pytest.fixture
def bench(shared, tmp_path):
    """The shared experiment, with an empty folder for what the test writes."""
    return SimpleNamespace(**{**vars(shared[1]), "folder": tmp_path})


def section_mean_cc(predictions):
    """Mean over sections and types of Pearson's r, by numpy."""
    values = []
    for _, rows in predictions.obs.groupby(["fold", "sample"], observed=True):
        part = predictions[rows.index]
        for i in range(part.n_vars):
            values.append(np.corrcoef(part.X[:, i], part.layers["truth"][:, i])[0, 1])
    return np.array(values)


def test_ridge_recovers_a_planted_linear_map(tmp_path):
    world = World(tmp_path)
    for name, x in world.features.items():
        world.labels[name] = (x @ world.map + 3.0).astype(np.float64)
    bench = lay(world, tmp_path / "e")
    predictions, path = run(bench, model_spec("ridge", alpha=1e-6))
    np.testing.assert_allclose(predictions.X, predictions.layers["truth"], atol=1e-4)
    state = load_model(path)[0].state["all"]
    np.testing.assert_allclose(state["coefficients"] / state["scale"][:, None], world.map, atol=1e-4)


def test_predictions_artefact(bench):
    predictions, _ = run(bench, model_spec("mlp", **SMALL))
    target = read_target(bench.target)
    assert set(predictions.obs["fold"]) == {"patient-A", "patient-B", "patient-C", "patient-D"}
    assert len(predictions) == len(target.obs)  # each observation is tested once, and "all" never
    key = (
        predictions.obs["fold"].astype(str)
        + "/demo/"
        + predictions.obs["sample"].astype(str)
        + "/"
        + predictions.obs["obs_id"].astype(str)
    )
    assert (predictions.obs_names == key).all()
    assert (predictions.obs["fold"].astype(str) == "patient-" + predictions.obs["patient"].astype(str)).all()
    assert list(predictions.var_names) == target.types
    at = target.obs.index.get_indexer([name.split("/", 1)[1] for name in predictions.obs_names])
    np.testing.assert_array_equal(predictions.layers["truth"], target.values[at])
    np.testing.assert_array_equal(predictions.obsm["spatial"], target.spatial[at])
    seeds = np.stack([predictions.layers[f"seed_{s}"] for s in (0, 1, 2)])
    np.testing.assert_allclose(predictions.X, seeds.mean(axis=0), rtol=1e-12)
    assert (seeds.std(axis=0) > 0).any()
    meta = json.loads(predictions.uns["histoloom"])
    protocol = meta["protocol"]
    assert (meta["experiment"], meta["model"], meta["variant"]) == ("e", "m", "default")
    assert canonical_json(protocol)
    assert protocol["encoders"] == {"enc": {"card": "toy", "revision": "1", "weights_sha256": None}}
    assert protocol["chosen"] == {"epochs": 3}
    assert (protocol["transductive"], protocol["uses_test_labels"], protocol["tuned_on_test"]) == (False, False, False)
    assert protocol["train_seeds"] == [0, 1, 2]
    cost = json.loads((bench.folder / "e.json").read_text())
    assert cost["items"] == 5 * 3
    assert cost["peak_rss_mb"] > 1
    assert cost["peak_gpu_mb"] is None


@pytest.mark.parametrize("kind", ["ridge", "mlp", "train_mean", "section_mean", "coordinates"])
def test_same_bytes_twice_and_safe_to_load(bench, kind):
    model = model_spec(kind, **(SMALL if kind == "mlp" else {}))
    first, path = run(bench, model, "first")
    _, again = run(bench, model, "again")
    assert path.read_bytes() == again.read_bytes()
    assert (bench.folder / "first.h5ad").read_bytes() == (bench.folder / "again.h5ad").read_bytes()
    assert torch.load(path, weights_only=True)["spec"]["kind"] == kind
    side = read_metadata(path)
    assert side["identity"]["sha256"] == read_metadata(again)["identity"]["sha256"]
    assert set(side["choices"]) == {"patient-A", "patient-B", "patient-C", "patient-D", "all"}
    assert np.isfinite(first.X).all()


def test_section_mean_known_answer(bench):
    predictions, _ = run(bench, model_spec("section_mean"))
    for _, rows in predictions.obs.groupby("sample", observed=True):
        part = predictions[rows.index]
        np.testing.assert_allclose(part.X, np.tile(part.layers["truth"].mean(axis=0), (len(part), 1)))
    assert json.loads(predictions.uns["histoloom"])["protocol"]["uses_test_labels"] is True
    assert not [name for name in predictions.layers if name.startswith("seed_")]


def test_train_mean_known_answer(bench):
    predictions, _ = run(bench, model_spec("train_mean"))
    target = read_target(bench.target)
    for fold, rows in predictions.obs.groupby("fold", observed=True):
        others = target.values[("patient-" + target.obs["patient"]) != fold]
        np.testing.assert_allclose(predictions[rows.index].X, np.tile(others.mean(axis=0), (len(rows), 1)))


def test_section_coordinates_of_square_and_hexagonal_arrays():
    row, col = np.divmod(np.arange(49), 7)
    obs = pd.DataFrame({"cohort": "c", "sample": "s", "array_row": row + 3, "array_col": col * 1 + 10})
    out = section_coordinates(obs)
    np.testing.assert_allclose(out[24], [0.5, 0.5, 1.0])  # the middle
    np.testing.assert_allclose(out[0], [0, 0, 0.25])  # a corner, one of four cells deep
    hexagonal = obs.assign(array_row=row, array_col=2 * col + row % 2)
    deep = section_coordinates(hexagonal)[:, 2]
    assert deep.argmax() in range(21, 28)
    assert deep[24] > 2 * deep[0]
    shifted = section_coordinates(obs.assign(array_row=obs["array_row"] + 5))
    np.testing.assert_array_equal(out, shifted)
    two = pd.concat([obs, obs.assign(sample="t", array_row=obs["array_row"] * 2)])
    np.testing.assert_array_equal(section_coordinates(two)[:49], out)


@pytest.mark.parametrize("method", ["knn", "ridge"])
def test_coordinates_find_a_gradient_and_see_no_pixel(tmp_path, method):
    world = World(tmp_path)
    row = np.divmod(np.arange(64), 8)[0]
    for label in world.labels.values():
        label[:, 0] = row + world.rng.normal(scale=0.1, size=64)
        label[:, 1] = world.rng.normal(size=64)
    bench = lay(world, tmp_path / "e")
    bench.embeddings = {}
    predictions, _ = run(bench, model_spec("coordinates", method=method, n_neighbors=8))
    cc = section_mean_cc(predictions).reshape(-1, 4)
    assert (cc[:, 0] > 0.9).all()
    assert abs(cc[:, 1].mean()) < 0.3


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
        states.append(load_model(run(bench, model_spec(kind, **extra), predict=False)[1])[0].state)
    suffix = "" if kind == "ridge" else "/0"

    def flat(state):
        return torch.cat([t.double().flatten() for v in state.values() for t in (v if isinstance(v, list) else [v])])

    assert torch.equal(flat(states[0]["patient-A" + suffix]), flat(states[1]["patient-A" + suffix]))
    assert not torch.equal(flat(states[0]["patient-B" + suffix]), flat(states[1]["patient-B" + suffix]))


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
        error[standardise] = np.abs(predictions.X - predictions.layers["truth"]).mean()
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
    np.testing.assert_allclose(one.X, two.X, rtol=1e-12)
    assert list(load_model(path)[1]["encoders"]) == ["left", "right"]


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
    at = truth.obs.index.get_indexer([name.split("/", 1)[1] for name in predictions.obs_names])
    np.testing.assert_array_equal(predictions.layers["truth"], truth.values[at])  # the test's labels stay
    # Predictions of a fold share their training labels, so folds (patients) are the independent units.
    per_patient = section_mean_cc(predictions).reshape(6, 12).mean(axis=1)
    if null:
        assert abs(per_patient.mean()) < 2 * per_patient.std(ddof=1) / np.sqrt(6)
    else:
        assert per_patient.mean() > 0.8


def test_shuffle_permutes_within_sections_of_the_training_side(world, bench):
    from histoloom.models.data import build_training

    target, (table, _) = read_target(bench.target), read_folds(bench.folds)
    data = build_training(target, table, None, experiment(shuffle_labels="within_section"))
    section = (target.obs["cohort"] + target.obs["sample"]).to_numpy()
    for fold in data.folds:
        np.testing.assert_array_equal(section[fold.label_rows], section)
        np.testing.assert_array_equal(np.sort(fold.label_rows), np.arange(len(section)))
        np.testing.assert_array_equal(fold.label_rows[fold.test], fold.test)
        assert (fold.label_rows[fold.train] != fold.train).mean() > 0.9


def test_one_training_patient(tmp_path):
    world = World(tmp_path, patients={"A": ["A1"], "B": ["B1"]})
    for selection in ("fixed", "val_patient", "inner_cv"):
        bench = lay(world, tmp_path / selection, selection=selection)
        for model in (model_spec("mlp", **SMALL), model_spec("ridge")):
            predictions, path = run(bench, model)
            assert len(predictions) == 122
            choice = read_metadata(path)["choices"]["patient-A"]
            assert choice["how"] == (
                "fixed" if selection == "fixed" else "fixed: no validation with one training patient"
            )
            assert choice.get("epochs", [3, 3, 3]) == [3, 3, 3]
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
        bench = SimpleNamespace(folder=folder, spec=entry, target=folder / "t.h5ad", folds=folder / "f.parquet")
        build_target(
            spec=entry, samples=one.samples + two.samples, tiles=one.tiles + two.tiles,
            labels=[one.write_labels(), two.write_labels()], truth=[], out=bench.target,
        )  # fmt: skip
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


def test_nan_in_embeddings_names_the_file(world, bench):
    bad = world.features["B1"].copy()
    bad[30, 2] = np.nan
    bench.embeddings = {"enc": world.write_embeddings("bad", change={"B1": bad})}
    with pytest.raises(InputError, match=r"b2\.h5.*NaN.*3x6"):
        run(bench, model_spec("ridge"))
    assert not (bench.folder / "m.pt").exists()


def test_embeddings_of_other_tiles(world, bench):
    bench.embeddings = {"enc": world.write_embeddings("native", tiles={**TILES, "um_per_px": "native"})}
    with pytest.raises(InputError, match="other tiles"):
        run(bench, model_spec("ridge"))


def test_missing_encoder_and_missing_observations(world, bench):
    whole = bench.embeddings
    bench.embeddings = {"enc": whole["enc"][:2]}
    with pytest.raises(InputError, match="no embedding"):
        run(bench, model_spec("ridge"))
    bench.embeddings = {"other": whole["enc"]}
    with pytest.raises(InputError, match=r"'enc'.*no embeddings were given"):
        run(bench, model_spec("ridge"))


def test_predicting_with_other_weights_than_trained(world, bench):
    _, path = run(bench, model_spec("ridge"))
    args = {
        "spec": model_spec("ridge"),
        "experiment": bench.spec,
        "target": bench.target,
        "folds": bench.folds,
        "variant": "default",
    }
    other = {"enc": world.write_embeddings("other", weights_sha256="f" * 64)}
    with pytest.raises(InputError, match=r"was trained on encoder 'enc'"):
        predict_model(model=path, embeddings=other, out=bench.folder / "x.h5ad", **args)
    assert not (bench.folder / "x.h5ad").exists()


def test_a_file_that_is_no_model(bench):
    path = bench.folder / "junk.pt"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match="is no model file"):
        load_model(path)


# apply -------------------------------------------------------------------------------------------------------------


def test_apply_to_slides_without_labels(world, bench, tmp_path):
    new = World(tmp_path / "new", patients={"N": ["N1", "N2"]}, cohort="slides", seed=8)
    embeddings = {"enc": new.write_embeddings()}
    apply_spec = {"task": "apply", "from": "e", "models": ["m"], "cohorts": ["slides"], "title": ""}
    for kind in ("ridge", "mlp", "train_mean", "coordinates"):
        model = model_spec(kind, **(SMALL if kind == "mlp" else {}))
        _, path = run(bench, model, kind, predict=False)
        out = bench.folder / "apply.h5ad"
        apply_model(
            model=path,
            spec=model,
            experiment=apply_spec,
            embeddings=embeddings,
            samples=new.samples,
            out={"predictions": out},
        )
        found = anndata.read_h5ad(out)
        assert list(found.var_names) == world.types
        # embedded tiles only, where pixels are needed (number 0 has no tile)
        assert len(found) == (126 if kind in {"ridge", "mlp"} else 128)
        assert found.obs_names[-1] == "slides/N2/7x7"
        assert {"cohort", "sample", "obs_id", "x", "y"} <= set(found.obs.columns)
        meta = json.loads(found.uns["histoloom"])
        assert meta["sections"][0]["size_level0_px"] == 224
        assert meta["sections"][0]["cohort"] == "slides"
        if kind == "ridge":
            state = {k: v.numpy() for k, v in load_model(path)[0].state["all"].items()}
            expected = (new.features["N1"][9] - state["mean"]) / state["scale"] @ state["coefficients"] + state[
                "intercept"
            ]
            np.testing.assert_allclose(found["slides/N1/1x1"].X[0], expected, rtol=1e-5)
    _, path = run(bench, model_spec("section_mean"), "sm", predict=False)
    with pytest.raises(InputError, match="section_mean"):
        apply_model(
            model=path,
            spec=model_spec("section_mean"),
            experiment=apply_spec,
            embeddings={},
            samples=new.samples,
            out={"predictions": out},
        )
    other = {"enc": new.write_embeddings(tiles={**TILES, "size_px": 112})}
    _, path = run(bench, model_spec("ridge"), "r", predict=False)
    with pytest.raises(InputError, match="other tiles"):
        apply_model(
            model=path,
            spec=model_spec("ridge"),
            experiment=apply_spec,
            embeddings=other,
            samples=new.samples,
            out={"predictions": out},
        )
