"""Trained models that are handed on, and what predictions on new slides say of themselves."""

import json
import shutil

import anndata
import numpy as np
import pytest
from modelbench import SMALL, files_of, lay, run
from modelworld import World, model_spec

from error_codes import has_code
from histoloom.bundles import FACTS, TRAINING, WEIGHTS
from histoloom.config import load_config
from histoloom.errors import InputError
from histoloom.metrics.rows import assemble
from histoloom.models import apply_models
from histoloom.models.predict import RunningSpread, check_um_per_px
from histoloom.models.training_range import (
    LIMIT,
    TrainingRange,
    fit_distances,
    read_training_range,
    summarise_training,
)
from histoloom.report.bundle import write_bundle
from histoloom.tiles.spec import TileSpec

APPLY = {"task": "apply", "from": "e", "bundle": None, "models": ["m"], "cohorts": ["slides"], "title": ""}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An experiment with a trained MLP, its bundle, and a new cohort to apply it to."""
    folder = tmp_path_factory.mktemp("bundles")
    world = World(folder)
    bench = lay(world, folder / "e")
    model = model_spec("mlp", **SMALL)
    _, weights = run(bench, model, predict=False)
    training, metrics, bundle = folder / "training.npz", folder / "metrics.parquet", folder / "bundle"
    summarise_training(spec=model, experiment=bench.spec, files=files_of(bench), sections=world.samples, out=training)
    rows = assemble([]).reindex(range(2))
    rows = rows.assign(metric="cc", aggregation="cohort", against="labels", cohort="demo", value=[0.5, 0.25],
                       target=["", "B"], train_seed=-1, qc_flag="", target2="", variant="default", n=4, n_nan=0,
                       patient="")  # fmt: skip
    rows.to_parquet(metrics)
    spec = {
        "experiment": "e",
        "model": model,
        "tiles": {"name": "um112", "entry": {"size_px": 224, "um_per_px": 0.5}},
        "encoders": {"enc": {"card": "stain_texture", "tiles": "um112"}},
        "cards": {},
        "licences": {"enc": {"licence": "MIT", "gate": None}},
    }
    write_bundle(models=[weights], training=training, metrics=metrics, spec=spec, out=bundle)
    new = World(folder / "new", patients={"N": ["N1"]}, cohort="slides", seed=8)
    files = {"samples": new.samples, "embeddings_enc": new.write_embeddings(), "training": [training]}
    return {"bench": bench, "model": model, "weights": weights, "bundle": bundle, "new": new, "files": files}


def apply(made, models, out, **files):
    apply_models(models=[models], spec=made["model"], experiment=APPLY, files=made["files"] | files, out=out)
    return anndata.read_h5ad(out)


def test_a_bundle_predicts_what_its_experiment_predicts(made, tmp_path):
    own = apply(made, made["weights"], tmp_path / "own.h5ad")
    handed = apply(made, made["bundle"] / WEIGHTS, tmp_path / "b.h5ad", training=[made["bundle"] / TRAINING])
    assert own.X.tobytes() == handed.X.tobytes()
    for name in own.layers:
        assert own.layers[name].tobytes() == handed.layers[name].tobytes()
    assert own.obs.equals(handed.obs)
    facts = json.loads((made["bundle"] / FACTS).read_text())
    assert facts["training"]["patients"] == [f"demo/{name}" for name in "ABCD"]
    assert facts["scores"] == [
        {"variant": "default", "against": "labels", "cohort": "demo", "metric": "cc", "value": 0.5, "interval": None,
         "patients": 0, "by_output": {"B": 0.25}}
    ]  # fmt: skip


def test_the_spread_is_that_of_all_folds_and_seeds(made, tmp_path):
    from histoloom.inputs import open_inputs
    from histoloom.models.artefact import load_models
    from histoloom.models.base import JobContext

    found = apply(made, made["weights"], tmp_path / "x.h5ad")
    saved = load_models(made["weights"])
    table = found.obs.astype({"cohort": str, "sample": str})
    inputs, _ = open_inputs(table, {"features"}, made["model"], made["files"], saved.metadata["tiles"])
    every = [saved.fitted(*key).predict(inputs, {}, JobContext()) for key in saved.names()]
    assert len(every) == 5 * 3  # four patients and all, three seeds
    np.testing.assert_allclose(found.layers["spread"], np.std(every, axis=0, ddof=1), rtol=1e-5)


def test_slides_of_training_patients_are_named(made, tmp_path):
    assert json.loads(apply(made, made["weights"], tmp_path / "x.h5ad").uns["histoloom"])["shared_patients"] == []
    same = World(tmp_path / "same", patients={"N": ["N1"], "B": ["N2"]}, cohort="slides", seed=8)
    files = {"samples": same.samples, "embeddings_enc": same.write_embeddings()}
    found = apply(made, made["weights"], tmp_path / "y.h5ad", **files)
    assert json.loads(found.uns["histoloom"])["shared_patients"] == ["B"]


def test_running_spread_of_one_model_is_unknown():
    spread, values = RunningSpread(), np.random.default_rng(0).normal(size=(7, 5, 2)) + 1e4
    spread.add(values[0])
    assert np.isnan(spread.standard_deviation()).all()
    for value in values[1:]:
        spread.add(value)
    np.testing.assert_allclose(spread.standard_deviation(), values.std(axis=0, ddof=1), rtol=1e-6)


def test_what_damaged_bundles_say(made, tmp_path):
    copy = tmp_path / "b"

    def again():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made["bundle"], copy)

    for name in (WEIGHTS, TRAINING):
        again()
        content = bytearray((copy / name).read_bytes())
        content[-3] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(InputError, check=has_code("bundle-changed")):
            apply(made, copy / WEIGHTS, tmp_path / "x.h5ad")
        (copy / name).unlink()
        with pytest.raises(InputError, check=has_code("bundle-incomplete")):
            apply(made, copy / WEIGHTS, tmp_path / "x.h5ad")
    for text, code in (("{", "bundle-facts"), ('{"format": 2}', "bundle-format"), ("[]", "bundle-facts")):
        again()
        (copy / FACTS).write_text(text)
        with pytest.raises(InputError, check=has_code(code)):
            apply(made, copy / WEIGHTS, tmp_path / "x.h5ad")
    other = made["new"].write_embeddings("other", revision="another")
    with pytest.raises(InputError, check=has_code("model-encoder")):
        apply(made, made["bundle"] / WEIGHTS, tmp_path / "x.h5ad", embeddings_enc=other)
    assert not (tmp_path / "x.h5ad").exists()


def config(folder, bundle, **more):
    (folder / "s.tsv").write_text("sample\tpatient\timage\nN1\tN\ta.png\n")
    raw = {
        "cohorts": {"slides": {"source": "slides", "sheet": "s.tsv", "root": ".", "grid_um": 112}},
        "experiments": {"new": {"task": "apply", "cohorts": ["slides"], "bundle": str(bundle), **more.pop("new", {})}},
        **more,
    }
    return load_config(raw, [folder / "c.yaml"])


def test_a_bundle_brings_its_entries_to_a_config(made, tmp_path):
    read = config(tmp_path, made["bundle"])
    assert read.entries["experiments"]["new"]["models"] == ["m"]
    assert read.entries["models"]["m"]["width"] == SMALL["width"]
    assert read.entries["encoders"]["enc"]["card"] == "stain_texture"
    assert read.entries["tiles"]["um112"]["um_per_px"] == 0.5
    same = {"enc": {"card": "stain_texture", "tiles": "um112", "weights": "/my/weights"}}
    with pytest.raises(InputError, check=has_code("bundle-name")):
        config(tmp_path, made["bundle"], models={"m": {"kind": "train_mean"}})
    with pytest.raises(InputError, check=has_code("bundle-name")):
        config(tmp_path, made["bundle"], encoders={"enc": same["enc"] | {"card": "colour_only"}})
    with pytest.raises(InputError, check=has_code("bundle-models")):
        config(tmp_path, made["bundle"], new={"models": ["other"]})
    with pytest.raises(InputError, check=has_code("bundle-incomplete")):
        config(tmp_path, tmp_path / "nowhere")
    with pytest.raises(InputError, check=has_code("apply-source")):
        config(tmp_path, made["bundle"], new={"bundle": None, "models": ["m"]}, models={"m": {"kind": "train_mean"}})


# unlike training -----------------------------------------------------------------------------------------------------


def cohort(seed, n=600, width=12, patients=6, shift=1.0):
    """Features of tiles of patients, each patient with a shift of its own."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), n // patients)
    mixing = np.random.default_rng(99).normal(size=(4, width))
    centres = rng.normal(size=(patients, width)) * shift
    values = rng.normal(size=(n, 4)) @ mixing + centres[groups] + 0.3 * rng.normal(size=(n, width))
    return values.astype(np.float32), groups


def test_tiles_of_a_new_patient_are_like_training_and_others_are_not():
    features, groups = cohort(0)
    known = TrainingRange({}, fit_distances(features, groups))
    new, _ = cohort(1)
    assert (known.share_nearer(new) > LIMIT).mean() < 0.1
    assert (known.share_nearer(features) > LIMIT).mean() <= 0.01
    assert (known.share_nearer(new + 40) > LIMIT).all()
    # Far off in a direction in which training does not vary: its principal components do not show it.
    flat = np.column_stack([features, np.random.default_rng(3).normal(size=(len(features), 60)) * 1e-3]).astype("f4")
    plane = TrainingRange({}, fit_distances(flat, groups))
    off = flat.copy()
    off[:, -1] += 1
    assert (plane.share_nearer(off) > LIMIT).all()


def test_limits_come_from_other_patients():
    features, groups = cohort(0, shift=3.0)
    by_patient = TrainingRange({}, fit_distances(features, groups))
    by_tile = TrainingRange({}, fit_distances(features, np.arange(len(features))))
    new, _ = cohort(5, shift=3.0)
    assert (by_patient.share_nearer(new) > LIMIT).mean() < 0.15
    assert (by_tile.share_nearer(new) > LIMIT).mean() > 0.5


def test_distances_are_those_of_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    features, groups = cohort(2, n=120)
    arrays = fit_distances(features, groups)
    new, _ = cohort(4, n=60)
    scaled = lambda x: (x - features.mean(0)) / features.std(0)  # noqa: E731
    u, _, vt = np.linalg.svd(scaled(features), full_matrices=False)
    assert u.shape[1] == 12  # all directions kept: the map is a rotation and nothing lies beyond it
    distance, _ = NearestNeighbors(n_neighbors=10).fit(scaled(features)).kneighbors(scaled(new))
    expected = np.searchsorted(arrays["quantiles"], distance.mean(1), side="right") / 101
    np.testing.assert_allclose(TrainingRange({}, arrays).share_nearer(new), expected, atol=0.0101)


def test_native_tiles_of_another_scan_are_refused(caplog):
    slide = [{"cohort": "slides", "sample": "N1", "mpp": 0.5}]
    native, um = TileSpec.from_dict({"um_per_px": "native"}), TileSpec.from_dict({"um_per_px": 0.5})
    for tile in (native, um):
        check_um_per_px(slide, tile, [0.46, 0.7])
        check_um_per_px(slide, tile, None)
    assert not caplog.records
    for trained in ([0.25, 0.4], [0.6, 0.7]):
        with pytest.raises(InputError, check=has_code("apply-um-per-px")):
            check_um_per_px(slide, native, trained)
        check_um_per_px(slide, um, trained)
    assert len(caplog.records) == 2


def test_a_file_that_says_nothing_of_training(tmp_path):
    path = tmp_path / "training.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, check=has_code("training-range")):
        read_training_range(path)
