"""Models from artefact to artefact: floors, ridge, files, bad input."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from modelbench import SMALL, files_of, lay, run, section_mean_cc
from modelworld import TILES, World, model_spec

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.identity import canonical_json
from histoloom.models import apply_models, predict_models
from histoloom.models.artefact import load_models
from histoloom.models.baselines import section_coordinates
from histoloom.models.training_range import summarise_training
from histoloom.targets import read_target


def test_ridge_recovers_a_known_linear_map(tmp_path):
    world = World(tmp_path)
    for name, x in world.features.items():
        world.labels[name] = (x @ world.map + 3.0).astype(np.float64)
    bench = lay(world, tmp_path / "e")
    predictions, path = run(bench, model_spec("ridge", alpha=1e-6))
    np.testing.assert_allclose(predictions.X, predictions.layers["labels"], atol=1e-4)
    state = load_models(path).fitted("all", -1).state()
    np.testing.assert_allclose(state["coefficients"] / state["scale"][:, None], world.map, atol=1e-4)


def test_predictions_artefact(bench):
    predictions, _ = run(bench, model_spec("mlp", **SMALL))
    target = read_target(bench.target)
    assert set(predictions.obs["fold"]) == {"patient-A", "patient-B", "patient-C", "patient-D"}
    assert len(predictions) == len(target.obs)  # each observation is tested once, and "all" never
    key = "demo/" + predictions.obs["sample"].astype(str) + "/" + predictions.obs["obs_id"].astype(str)
    assert (predictions.obs_names == key).all()
    assert (predictions.obs["fold"].astype(str) == "patient-" + predictions.obs["patient"].astype(str)).all()
    assert list(predictions.var_names) == target.outputs
    at = target.obs.index.get_indexer(predictions.obs_names)
    np.testing.assert_array_equal(predictions.layers["labels"], target.values[at])
    np.testing.assert_array_equal(predictions.obsm["spatial"], target.spatial[at])
    seeds = np.stack([predictions.layers[f"seed_{s}"] for s in (0, 1, 2)])
    np.testing.assert_allclose(predictions.X, seeds.mean(axis=0), rtol=1e-5)
    assert (seeds.std(axis=0) > 0).any()
    meta = json.loads(predictions.uns["histoloom"])
    protocol = meta["protocol"]
    assert (meta["experiment"], meta["model"], meta["variant"]) == ("e", "m", "default")
    assert predictions.X.dtype == np.float32
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
    assert load_models(path).metadata["spec"]["kind"] == kind
    side = read_metadata(path)
    assert side["identity"]["sha256"] == read_metadata(again)["identity"]["sha256"]
    assert {name.partition(".")[0] for name in side["choices"]} == {f"patient-{p}" for p in "ABCD"} | {"all"}
    assert np.isfinite(first.X).all()


def test_section_mean_known_answer(bench):
    predictions, _ = run(bench, model_spec("section_mean"))
    for _, rows in predictions.obs.groupby("sample", observed=True):
        part = predictions[rows.index]
        np.testing.assert_allclose(part.X, np.tile(part.layers["labels"].mean(axis=0), (len(part), 1)), rtol=1e-6)
    assert json.loads(predictions.uns["histoloom"])["protocol"]["uses_test_labels"] is True
    assert not [name for name in predictions.layers if name.startswith("seed_")]


def test_train_mean_known_answer(bench):
    predictions, _ = run(bench, model_spec("train_mean"))
    target = read_target(bench.target)
    for fold, rows in predictions.obs.groupby("fold", observed=True):
        others = target.values[("patient-" + target.obs["patient"]) != fold]
        np.testing.assert_allclose(predictions[rows.index].X, np.tile(others.mean(axis=0), (len(rows), 1)), rtol=1e-6)


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


def test_nan_in_embeddings_names_the_file(world, bench):
    bad = world.features["B1"].copy()
    bad[30, 2] = np.nan
    bench.embeddings = {"enc": world.write_embeddings("bad", change={"B1": bad})}
    with pytest.raises(InputError, check=has_code("embeddings-nan")):
        run(bench, model_spec("ridge"))
    assert not (bench.folder / "m.pt").exists()


def test_embeddings_of_other_tiles(world, bench):
    bench.embeddings = {"enc": world.write_embeddings("native", tiles={**TILES, "um_per_px": "native"})}
    with pytest.raises(InputError, check=has_code("embeddings-tiles")):
        run(bench, model_spec("ridge"))


def test_missing_encoder_and_missing_observations(world, bench):
    whole = bench.embeddings
    bench.embeddings = {"enc": whole["enc"][:2]}
    with pytest.raises(InputError, check=has_code("embeddings-lacking")):
        run(bench, model_spec("ridge"))
    bench.embeddings = {"other": whole["enc"]}
    with pytest.raises(InputError, check=has_code("embeddings-not-given")):
        run(bench, model_spec("ridge"))


def test_predicting_with_other_weights_than_trained(world, bench):
    _, path = run(bench, model_spec("ridge"))
    bench.embeddings = {"enc": world.write_embeddings("other", weights_sha256="f" * 64)}
    with pytest.raises(InputError, check=has_code("model-encoder")):
        predict_models(
            models=[path], spec=model_spec("ridge"), experiment=bench.spec, files=files_of(bench), variant="default",
            out=bench.folder / "x.h5ad",
        )  # fmt: skip
    assert not (bench.folder / "x.h5ad").exists()


def test_a_file_that_is_no_model(bench):
    path = bench.folder / "junk.pt"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, check=has_code("model-file")):
        load_models(path)


# apply -------------------------------------------------------------------------------------------------------------


def test_apply_to_slides_without_labels(world, bench, tmp_path):
    new = World(tmp_path / "new", patients={"N": ["N1", "N2"]}, cohort="slides", seed=8)
    files = {"samples": new.samples, "embeddings_enc": new.write_embeddings()}
    apply_spec = {"task": "apply", "from": "e", "models": ["m"], "cohorts": ["slides"], "title": ""}
    training = bench.folder / "training.npz"
    files["training"] = [training]
    for kind in ("ridge", "mlp", "train_mean", "coordinates"):
        model = model_spec(kind, **(SMALL if kind == "mlp" else {}))
        _, path = run(bench, model, kind, predict=False)
        summarise_training(
            spec=model, experiment=bench.spec, files=files_of(bench), sections=world.samples, out=training
        )
        out = bench.folder / "apply.h5ad"
        apply_models(models=[path], spec=model, experiment=apply_spec, files=files, out=out)
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
            state = load_models(path).fitted("all", -1).state()
            expected = (new.features["N1"][9] - state["mean"]) / state["scale"] @ state["coefficients"] + state[
                "intercept"
            ]
            np.testing.assert_allclose(found["slides/N1/1x1"].X[0], expected, rtol=1e-5)
    _, path = run(bench, model_spec("section_mean"), "sm", predict=False)
    with pytest.raises(InputError, check=has_code("section-mean-labels")):
        apply_models(models=[path], spec=model_spec("section_mean"), experiment=apply_spec, files=files, out=out)
    other = {"embeddings_enc": new.write_embeddings(tiles={**TILES, "size_px": 112})}
    _, path = run(bench, model_spec("ridge"), "r", predict=False)
    with pytest.raises(InputError, check=has_code("embeddings-tiles")):
        apply_models(models=[path], spec=model_spec("ridge"), experiment=apply_spec, files=files | other, out=out)
