"""Known answers of the models on pixels: nothing is learnt of shuffled labels, names do not matter, odd sections do no harm."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from modelbench import files_of, lay
from modelworld import model_spec
from test_models_papers import SIDE, fold, make, world
from test_models_pixels import one_thread, pixels

from error_codes import has_code
from histoloom.artefacts import read_table, write_parquet
from histoloom.errors import InputError
from histoloom.folds import read_folds
from histoloom.inputs import Inputs
from histoloom.models import fit_models, predict_models
from histoloom.models.artefact import load_models
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.models.histogene import HisToGeneSpec, array_positions
from histoloom.models.setup import Setup
from histoloom.networks import histogene
from histoloom.targets.sections import common_genes

__all__ = ["one_thread", "pixels"]

SMALL = {
    "bleep": {"weights": "random", "architecture": "resnet10t", "batch_size": 22, "epochs": 10, "lr": 1e-3, "width": 32, "k": 5},
    "cmrcnet": {"input_px": 32, "patch_px": 16, "depth": 1, "encoder_dim": 96, "width": 64, "batch_size": 22, "epochs": 8,
                "lr": 1e-3, "min_lr": 1e-4, "k": 5},
    "histogene": {"input_px": 16, "dim": 32, "n_layers": 1, "heads": 1, "epochs": 60, "lr": 3e-3},
    "stnet": {"weights": "random", "growth_rate": 4, "blocks": [1, 1, 1, 1], "input_px": 32, "epochs": 12, "lr": 2e-3,
              "batch_size": 16, "standardise_target": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def colours(pixels, tmp_path_factory):
    """The same sections with tiles whose red, green and blue are three types; the fold that tests patient A alone."""
    folder, world = tmp_path_factory.mktemp("colours"), pixels.world
    for number, (name, path) in enumerate(zip(world.features, pixels.more["pixels"], strict=True)):
        rng = np.random.default_rng(number)
        rgb = rng.integers(40, 220, (world.side**2, 3))
        world.labels[name] = np.column_stack([rgb, rng.integers(40, 220, len(rgb))]) / 30.0
        kept = rgb[np.arange(len(rgb)) != 1]
        tiles = np.broadcast_to(kept[:, None, None], (len(kept), 16, 16, 3)).astype(np.uint8)
        np.save(path, tiles + rng.integers(0, 9, tiles.shape, dtype=np.uint8))
    bench = lay(world, folder / "e", train_seeds=[0])
    bench.embeddings, bench.more = {}, pixels.more
    table, facts = read_folds(bench.folds)
    folds = folder / "one.parquet"
    write_parquet(table[table["fold"] == "patient-A"].astype("string"), folds, facts)
    bench.files = files_of(bench) | {"folds": [folds]}
    return bench


@pytest.fixture
def one_fold(colours, tmp_path):
    return SimpleNamespace(**{**vars(colours), "folder": tmp_path})


def run(bench, kind, name="m", experiment=None, **changes):
    """Train one fold and predict its test section; return the table and the model's path."""
    spec = {**model_spec(kind, **{**SMALL[kind], **changes}), "name": name}
    given = {"spec": spec, "experiment": {**bench.spec, "train_seeds": [0], **(experiment or {})}, "files": bench.files}
    model, out = bench.folder / f"{name}.pt", bench.folder / f"{name}.h5ad"
    fit_models(**given, out=model, efficiency=bench.folder / "e.json", fold="patient-A", seed=0, device="cpu")
    predict_models(models=[model], **given, variant="default", out=out)
    return read_table(out), model


def r_of_colours(table):
    """Correlations of the three types that a tile shows."""
    return [np.corrcoef(table.X[:, i], table.layers["labels"][:, i])[0, 1] for i in range(3)]


@pytest.mark.parametrize("kind", ["cmrcnet", "histogene", "stnet"])
def test_shuffled_labels_teach_nothing(one_fold, kind):
    """What is fitted to a shuffle follows a colour up or down by chance: only the mean over shuffles is 0."""
    assert np.mean(r_of_colours(run(one_fold, kind)[0])) > 0.6
    shuffles = [{"shuffle_labels": "everywhere", "seed": seed} for seed in range(4)]
    shuffled = [r_of_colours(run(one_fold, kind, experiment=shuffle)[0]) for shuffle in shuffles]
    assert abs(np.mean(shuffled)) < 0.3, shuffled


@pytest.mark.parametrize("kind", ["bleep", "cmrcnet"])
def test_keys_and_values_of_a_shuffled_run_are_the_shuffled_rows(one_fold, kind):
    bench, change = one_fold, {"shuffle_labels": "everywhere"}
    _, model = run(bench, kind, experiment=change, epochs=1)
    spec = model_spec(kind, **{**SMALL[kind], "epochs": 1})
    setup = Setup(spec, {**bench.spec, "train_seeds": [0], **change}, bench.files)
    (first,) = setup.folds
    given = setup.target.values[first.label_rows[first.train]].astype(np.float32)
    fitted = load_models(model).fitted("patient-A", 0)
    np.testing.assert_array_equal(fitted.state()["values"], given)
    assert (given != setup.target.values[first.train].astype(np.float32)).any(axis=1).mean() > 0.9
    with torch.inference_mode():
        keys = fitted.network("cpu").eval().embed_spots(torch.from_numpy(given)).numpy()
    np.testing.assert_allclose(fitted.state()["keys"], keys, atol=1e-5)


@pytest.mark.parametrize("kind", ["cmrcnet", "stnet"])
def test_a_model_under_another_name_predicts_the_same_bytes(one_fold, kind):
    torch.manual_seed(5)  # whatever ran before in the process
    first = run(one_fold, kind, "one", epochs=1)[0]
    torch.manual_seed(6)
    assert run(one_fold, kind, "other", epochs=1)[0].X.tobytes() == first.X.tobytes()


def with_a_lone_spot():
    """Three sections, of which B1 has a single spot."""
    inputs, y, _ = world()
    sample = inputs.obs["sample"].to_numpy()
    keep = np.flatnonzero((sample != "B1") | (np.arange(len(sample)) == np.flatnonzero(sample == "B1")[4]))
    obs = inputs.obs.iloc[keep].reset_index(drop=True)
    return Inputs(obs, {"pixels": lambda rows: inputs.pixels(keep[rows])}, np.arange(len(obs)), "square8"), y[keep]


@pytest.mark.parametrize("name", ["bleep", "cmrcnet", "histogene", "hist2cell"])
def test_a_section_with_one_spot_is_trained_on_and_predicted(name):
    inputs, y = with_a_lone_spot()
    job = JobContext()
    fitted = make(name, epochs=1).fit(fold(inputs, y, train=("A1", "B1")), job)
    lone = np.flatnonzero((inputs.obs["sample"] == "B1").to_numpy())
    assert len(lone) == 1
    predicted = fitted.predict(inputs.take(lone), {}, job)
    assert predicted.shape == (1, 3)
    assert np.isfinite(predicted).all()


@pytest.mark.parametrize("name", ["cmrcnet", "histogene"])
def test_constant_genes_stay_finite_and_do_not_change_the_rows(name):
    inputs, y, _ = world()
    y = np.column_stack([y, np.zeros(len(y)), np.full(len(y), 2.5)]).astype(np.float32)
    data = fold(inputs, y, outputs=("a", "b", "noise", "zero", "flat"))
    fitted = make(name, epochs=2).fit(data, JobContext())
    predicted = fitted.predict(inputs.take(np.arange(72, 108)), {}, JobContext())
    assert np.isfinite(predicted).all()
    if name == "cmrcnet":  # a retrieval cannot say but what it has seen
        np.testing.assert_array_equal(predicted[:, 3], 0)
        np.testing.assert_allclose(predicted[:, 4], 2.5, rtol=1e-6)


def test_activations_that_are_computed_anew_change_no_gradient(monkeypatch):
    gradients, calls = [], []
    whole = histogene.checkpoint
    monkeypatch.setattr(histogene, "checkpoint", lambda *args, **kw: (calls.append(1), whole(*args, **kw))[1])
    for longest in (2048, 8):
        monkeypatch.setattr(histogene, "_LONG", longest)
        torch.manual_seed(0)
        network = histogene.HisToGene(3, patch_size=4, dim=32, n_layers=2, heads=2).train()
        network(torch.rand(1, 9, 48), torch.randint(0, 8, (1, 9, 2))).square().mean().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    assert len(calls) == 2  # a layer each
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_input_that_cannot_be_used_is_refused():
    inputs, y, _ = world()
    with pytest.raises(InputError, check=has_code("bleep-weights")):
        make("bleep", weights="imagenet")
    spec = HisToGeneSpec.from_json({"n_pos": SIDE})
    for obs in (inputs.obs.drop(columns="array_row"), inputs.obs.assign(array_col=np.nan)):
        with pytest.raises(InputError, check=has_code("histogene-coordinates")):
            array_positions(Inputs(obs, {}, inputs.rows), spec)
    names = [pd.Index(["a", "b"]), pd.Index(["c", "d"])]
    with pytest.raises(InputError, check=has_code("genes-none")):
        common_genes(names, ["one.h5ad", "two.h5ad"])
    few = fold(inputs, y)
    lone = Part(few.train.inputs.take(np.arange(1)), y[:1], few.train.patient[:1], few.train.section[:1])
    one: FoldData = replace(few, train=lone)
    with pytest.raises(InputError, check=has_code("retrieval-batch")):
        make("cmrcnet", k=1).fit(one, JobContext())
