"""Models on tile pixels: the packed cache, the training loop, ST-Net; interrupted fits, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from modelbench import files_of, lay
from modelworld import TILES, World, model_spec
from PIL import Image

from error_codes import has_code
from histoloom.artefacts import read_metadata, read_table, write_parquet
from histoloom.checkpoints import Checkpoint
from histoloom.errors import InputError
from histoloom.identity import sha256_text
from histoloom.inputs import Inputs, pack_tiles
from histoloom.models import fit_models, predict_models
from histoloom.models.artefact import load_models
from histoloom.models.base import JobContext
from histoloom.models.pixel_training import Preparation, Tiles, channel_moments, symmetric
from histoloom.models.setup import Setup
from histoloom.models.stnet import STNet, STNetTask
from histoloom.networks.stnet import eight_symmetries

SPEC = {**TILES, "size_px": 16, "background": {"method": "none"}}
SMALL = {"weights": "random", "growth_rate": 4, "blocks": [1, 1, 1, 1], "input_px": 32, "epochs": 3, "lr": 1e-3,
         "batch_size": 16, "standardise_target": True}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """Sections whose tiles' colour is what is to be predicted, packed; expression of three genes follows it."""
    folder = tmp_path_factory.mktemp("pixels")
    world = World(folder, patients={"A": ["A1"], "B": ["B1"], "C": ["C1"]}, side=6)
    packed = []
    for number, name in enumerate(world.features):
        rng = np.random.default_rng(number)
        n = world.side**2
        grey = rng.integers(40, 220, n)
        world.labels[name] = np.stack([grey, 255 - grey, rng.normal(size=n) * 9 + 99, grey / 2], 1) / 10.0
        tiles = read_metadata(world.tiles[number]) | {"spec": SPEC}
        import pandas as pd

        write_parquet(pd.read_parquet(world.tiles[number]), world.tiles[number], tiles)
        ids = [i for k, i in enumerate(world.ids()) if k != 1]
        data = np.repeat(grey[[k for k in range(n) if k != 1]], 16 * 16 * 3).reshape(-1, 16, 16, 3).astype(np.uint8)
        packed.append(folder / f"{name}.npy")
        np.save(packed[-1], data + rng.integers(0, 9, data.shape, dtype=np.uint8))
        facts = {"cohort": "demo", "sample": name, "obs_id": ids, "spec": SPEC,
                 "identity": {"sha256": sha256_text("p" + name), "inputs": {"tiles": tiles["identity"]["sha256"]}}}  # fmt: skip
        packed[-1].with_name(f"{name}.npy.json").write_text(json.dumps(facts))
    bench = lay(world, folder / "e", train_seeds=[0, 1])
    bench.embeddings, bench.more, bench.world = {}, {"pixels": packed}, world
    return bench


@pytest.fixture
def bench(pixels, tmp_path):
    return SimpleNamespace(**{**vars(pixels), "folder": tmp_path, "more": dict(pixels.more)})


def fit(bench, name="m", scratch=None, fold="patient-A", seed=0, device="cpu", **given):
    out = bench.folder / f"{name}.pt"
    fit_models(
        spec=model_spec("stnet", **{**SMALL, **given}), experiment=bench.spec, files=files_of(bench), out=out,
        efficiency=bench.folder / "e.json", fold=fold, seed=seed, scratch=scratch, device=device,
    )  # fmt: skip
    return out


def test_a_fold_is_learnt_and_its_cost_is_recorded(bench):
    models = [fit(bench, f"{p}{s}", fold=f"patient-{p}", seed=s, epochs=12) for p in "ABC" for s in (0, 1)]
    cost = json.loads((bench.folder / "e.json").read_text())
    assert (cost["items"], cost["epochs"]) == (1, 12)
    assert cost["examples"] == 12 * 66
    assert cost["examples_per_s"] > 0
    spec = model_spec("stnet", **{**SMALL, "epochs": 12}, variants={"one": {}, "eight": {"symmetries": 8}})
    results = {}
    for variant in ("one", "eight"):
        out = bench.folder / f"{variant}.h5ad"
        predict_models(models=models, spec=spec, experiment=bench.spec, files=files_of(bench), variant=variant, out=out)
        results[variant] = read_table(out)
    table = results["one"]
    assert {"labels", "seed_0", "seed_1"} == set(table.layers)
    assert table.X.dtype == np.float32
    for name, rows in table.obs.groupby("sample").indices.items():
        assert np.corrcoef(table.X[rows, 0], table.layers["labels"][rows, 0])[0, 1] > 0.8, name
    assert not np.array_equal(results["one"].X, results["eight"].X)
    np.testing.assert_allclose(results["one"].X, results["eight"].X, atol=1.5)
    assert table.metadata["protocol"]["weights"] == "random"
    with pytest.raises(InputError, check=has_code("variant-unknown")):
        predict_models(
            models=models,
            spec=spec,
            experiment=bench.spec,
            files=files_of(bench),
            variant="k50",
            out=bench.folder / "x",
        )
    with pytest.raises(InputError, check=has_code("model-fold-missing")):
        predict_models(
            models=models[:-1], spec=spec, experiment=bench.spec, files=files_of(bench), variant="one",
            out=bench.folder / "x",
        )  # fmt: skip


class Crash(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("selection", ["fixed", "val_patient"])
def test_a_killed_fit_goes_on_to_the_same_bytes(pixels, tmp_path, monkeypatch, selection):
    bench = SimpleNamespace(**{**vars(pixels), "folder": tmp_path})
    if selection == "val_patient":
        world = World(tmp_path / "w", patients={p: [f"{p}1"] for p in "ABCD"}, side=6)
        del world  # too few patients here for a validation: the rule falls back, and says so
        bench.spec = {**bench.spec, "selection": selection}
    whole = fit(bench, "whole").read_bytes()
    tick = Checkpoint.tick
    for stop in (1, 4, 9):
        count = 0

        def stopping(self, *arguments, stop=stop):
            nonlocal count
            count += 1
            self._next = 0.0 if count == stop else float("inf")
            tick(self, *arguments)
            if count == stop + 1:
                raise Crash

        scratch = tmp_path / f"scratch{stop}"
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "tick", stopping)
            with pytest.raises(Crash):
                fit(bench, "again", scratch=scratch)
        assert list(scratch.glob("*.ckpt"))
        assert fit(bench, "again", scratch=scratch).read_bytes() == whole


def test_symmetries_and_preparation():
    images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)
    views = eight_symmetries(images)
    for code in range(8):
        assert torch.equal(symmetric(images, torch.full((2,), code)), views[code])
    assert torch.equal(symmetric(images, torch.tensor([3, 6]))[1], views[6][1])
    x = Preparation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))(images)
    torch.testing.assert_close(x, (images.float() / 255 - 0.5) / 0.25)
    assert Preparation((0.0,) * 3, (1.0,) * 3, 2)(images).shape == (2, 3, 2, 2)


def test_channel_moments_against_numpy():
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (7, 5, 5, 3)).astype(np.uint8)
    import pandas as pd

    inputs = Inputs(pd.DataFrame(index=range(7)), {"pixels": lambda rows: tiles[rows]}, np.arange(7))
    mean, sd = channel_moments(inputs)
    np.testing.assert_allclose(mean, (tiles / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(sd, (tiles / 255).std(axis=(0, 1, 2)))
    batch = Tiles(inputs, "cpu").batch(torch.tensor([3, 1]))
    np.testing.assert_array_equal(batch.numpy(), tiles[[3, 1]].transpose(0, 3, 1, 2))


def test_tiles_are_packed_once(tmp_path):
    from histoloom.inputs.pixels import Pixels

    world = World(tmp_path, patients={"A": ["A1"]}, side=4)
    picture = np.random.default_rng(0).integers(0, 255, (2000, 2000, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "s.png")
    import pandas as pd

    table = pd.read_parquet(world.tiles[0]).assign(x=np.arange(16) * 50.0 + 300, y=400.0)
    meta = {**read_metadata(world.tiles[0]), "size_level0_px": 16.0, "spec": SPEC,
            "identity": {"sha256": "t", "inputs": {"sample": read_metadata(world.samples[0])["identity"]["sha256"]}}}  # fmt: skip
    write_parquet(table, world.tiles[0], meta)
    out, index = tmp_path / "A1.npy", tmp_path / "A1.npy.json"
    given = {"sample": world.samples[0], "slide": tmp_path / "s.png", "tiles": world.tiles[0]}
    pack_tiles(**given, spec=SPEC, out=out, index=index)
    packed = np.load(out)
    assert packed.shape == (15, 16, 16, 3)
    np.testing.assert_array_equal(packed[1], picture[392:408, 392:408])
    obs = pd.DataFrame({"cohort": "demo", "sample": "A1", "obs_id": ["3x3", "0x2"]})
    np.testing.assert_array_equal(Pixels(obs, [out], SPEC, ["t"])(np.array([1, 0])), packed[[1, 14]])
    with pytest.raises(InputError, check=has_code("pixels-missing")):
        Pixels(obs.assign(obs_id=["0x1", "0x0"]), [out], SPEC)
    with pytest.raises(InputError, check=has_code("pixels-other-tiles")):
        Pixels(obs, [out], SPEC, ["u"])


def test_a_cache_of_other_tiles_or_cut_short_is_refused(bench):
    first = bench.more["pixels"][0]
    copy = bench.folder / first.name
    for change, code in (({"spec": {**SPEC, "um_per_px": 1.0}}, "pixels-spec"), ({}, "pixels-truncated")):
        facts = json.loads(first.with_name(first.name + ".json").read_text()) | change
        copy.with_name(copy.name + ".json").write_text(json.dumps(facts))
        copy.write_bytes(first.read_bytes()[:-100])
        bench.more["pixels"] = [copy, *bench.more["pixels"][1:]]
        with pytest.raises(InputError, check=has_code(code)):
            fit(bench)
    copy.with_name(copy.name + ".json").unlink()
    with pytest.raises(InputError, check=has_code("pixels-index")):
        fit(bench)


def test_standardised_targets_come_back_in_their_own_units(bench):
    setup = Setup(model_spec("stnet", **{**SMALL, "standardise_target": True}), bench.spec, files_of(bench))
    data = setup.fold_data(setup.folds[0], 0)
    task = STNetTask(setup.model.spec, data, "cpu")
    np.testing.assert_allclose(task.y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(task.y.std(0, correction=0), 1, atol=1e-5)
    # Before it has learnt anything, the network says the mean.
    fitted = STNet(replace(setup.model.spec, lr=0.0)).fit(data, JobContext())
    bias = torch.from_numpy(fitted.state()["network/classifier.bias"])
    np.testing.assert_allclose(bias, 0, atol=1e-5)
    predicted = fitted.predict(data.train.inputs, {}, JobContext())
    np.testing.assert_allclose(predicted.mean(0), data.train.y.mean(0), atol=2 * data.train.y.std(0).max())
    np.testing.assert_allclose(fitted.state()["y_scale"], data.train.y.std(0), rtol=1e-5)


def test_bad_settings(bench, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, check=has_code("stnet-width")):
        fit(bench, weights="imagenet")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, check=has_code("gpu-none")):
            fit(bench, device="cuda")
    with pytest.raises(InputError, check=has_code("precision-device")):
        fit(bench, precision="16-mixed")
    with pytest.raises(InputError, check=has_code("loss-not-finite")):
        fit(bench, lr=1e30)


def test_a_model_of_another_run_is_refused(bench):
    path = fit(bench)
    spec = model_spec("stnet", **SMALL)
    given = {"spec": spec, "files": files_of(bench), "variant": "default", "out": bench.folder / "x.h5ad"}
    for change in ({"seed": 7}, {"shuffle_labels": "everywhere"}):
        with pytest.raises(InputError, check=has_code("model-other-run")):
            predict_models(models=[path], experiment={**bench.spec, **change}, **given)
    saved = load_models(path)
    assert saved.names() == [("patient-A", 0)]
