"""Contrastive alignment: pairs find each other where modalities share something, test cells take no part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.inputs.scaling import fit_scaler, fit_scaler_of
from histoloom.models import cell_transformer
from histoloom.models.alignment import Alignment, AlignmentSpec, fit_aligned, in_batch_retrieval
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.models.cell_transformer import CellTransformerModel, CellTransformerSpec
from histoloom.targets import kind_of

N, TEST = 600, 200
CLASSES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Features:
    widths = (12, 9)
    modalities = ("counts", "morphology")

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __call__(self, rows: Any) -> np.ndarray:
        return self.values[rows]


def cells(related: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Features of both modalities, from a common or from two latent states, and classes that genes know of."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(N, 5))
    other = latent if related else rng.normal(size=(N, 5))
    genes = latent @ rng.normal(size=(5, 12)) + 0.05 * rng.normal(size=(N, 12))
    morphology = other @ rng.normal(size=(5, 9)) + 0.05 * rng.normal(size=(N, 9))
    return np.hstack([genes, morphology]).astype(np.float32), latent[:, :3].argmax(axis=1)


def inputs_of(features: np.ndarray) -> Inputs:
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({"cohort": "toy", "sample": "S", "patient": "P", "obs_id": [f"c{i}" for i in range(N)],
                        "x": rng.random(N) * 1000, "y": rng.random(N) * 1000, "um_per_px": 0.5})  # fmt: skip
    return Inputs(obs, {"features": Features(features)}, np.arange(N))


def fold(features: np.ndarray, classes: np.ndarray, everyone: bool = False) -> tuple[FoldData, Inputs]:
    """The last cells are tested."""
    inputs, train, none = inputs_of(features), np.arange(N - TEST), np.zeros(N - TEST, np.intp)
    part = Part(inputs.take(train), classes[train], none, none)
    data = FoldData("f", part, None, kind_of("cell_class"), CLASSES, 0, everyone=inputs if everyone else None)
    return data, inputs.take(np.arange(N - TEST, N))


SMALL = {"batch_size": 100, "epochs": 60, "hidden": 32, "width": 16}


def retrieved(related: bool) -> dict[tuple[str, int], float]:
    features, classes = cells(related)
    data, test = fold(features, classes)
    aligned = fit_aligned(data, JobContext(), AlignmentSpec.from_json(SMALL))
    projected = aligned.project(test)
    return in_batch_retrieval(projected[:, :16], projected[:, 16:], 100, 0)


def test_held_out_pairs_find_each_other_where_modalities_share_a_state() -> None:
    shares = retrieved(related=True)
    for way in ("genes to morphology", "morphology to genes"):
        assert shares[way, 1] > 0.6
        assert shares[way, 5] > 0.9


def test_unrelated_pairs_find_each_other_by_chance_alone() -> None:
    shares = retrieved(related=False)
    # k of 100 by chance; four standard errors of 200 cells.
    for way in ("genes to morphology", "morphology to genes"):
        assert shares[way, 1] == pytest.approx(0.01, abs=0.03)
        assert shares[way, 5] == pytest.approx(0.05, abs=0.06)


def test_one_vector_for_all_cells_retrieves_nothing() -> None:
    same = np.ones((50, 4), np.float32)
    assert set(in_batch_retrieval(same, same, 50, 0).values()) == {0.0}
    distinct = np.eye(50, dtype=np.float32)
    assert set(in_batch_retrieval(distinct, distinct, 20, 0).values()) == {1.0}


@pytest.mark.parametrize("trained_on", ["train", "all"])
def test_test_cells_take_no_part_unless_it_is_asked_for_by_name(trained_on: str) -> None:
    features, classes = cells()
    changed = features.copy()
    changed[N - TEST :] = np.random.default_rng(3).normal(size=(TEST, 21))
    spec = AlignmentSpec.from_json({**SMALL, "epochs": 3, "trained_on": trained_on})
    assert spec.sees_test_inputs == (trained_on == "all")
    made = [
        fit_aligned(fold(values, classes, everyone=trained_on == "all")[0], JobContext(), spec).arrays()
        for values in (features, changed)
    ]
    same = all(np.array_equal(made[0][name], made[1][name]) for name in made[0])
    assert same == (trained_on == "train")
    with pytest.raises(TypeError):
        fit_aligned(fold(features, classes)[0], JobContext(), replace(spec, trained_on="all"))


def test_the_probe_knows_classes_and_a_restored_model_predicts_the_same() -> None:
    features, classes = cells()
    data, test = fold(features, classes)
    model = Alignment(AlignmentSpec.from_json(SMALL))
    fitted = model.fit(data, JobContext())
    predicted = fitted.predict(test, {}, JobContext())
    assert (predicted.argmax(axis=1) == classes[N - TEST :]).mean() > 0.75
    np.testing.assert_allclose(predicted.sum(axis=1), 1)
    again = model.restore(fitted.state(), fitted.choices).predict(test, {}, JobContext())
    assert again.tobytes() == predicted.tobytes()
    # A subset in another order sees its own cells.
    rows = np.random.default_rng(0).permutation(TEST)[:50]
    np.testing.assert_allclose(fitted.predict(test.take(rows), {}, JobContext()), predicted[rows], atol=1e-6)


@pytest.mark.parametrize("architecture", ["unimodal", "multi"])
def test_transformers_take_projections_and_see_no_test_cell(architecture: str) -> None:
    features, classes = cells()
    entry = {"architecture": architecture, "width": 32, "heads": 2, "n_layers": 1, "hidden": 64, "lr": 2e-3,
             "epochs": 12, "class_weights": False, "projections": SMALL}  # fmt: skip
    model = CellTransformerModel(CellTransformerSpec.from_json(entry))
    data, test = fold(features, classes)
    fitted = model.fit(data, JobContext())
    predicted = fitted.predict(test, {}, JobContext())
    assert (predicted.argmax(axis=1) == classes[N - TEST :]).mean() > 0.7
    assert (
        model.restore(fitted.state(), fitted.choices).predict(test, {}, JobContext()).tobytes() == predicted.tobytes()
    )
    changed = features.copy()
    changed[N - TEST :] += 1
    other = model.fit(fold(changed, classes)[0], JobContext())
    assert all(np.array_equal(other.arrays[name], fitted.arrays[name]) for name in fitted.arrays)
    # One modality is read through the heads that both were trained for.
    read = changed.copy()
    read[:, 12:] = 0
    without = fitted.predict(inputs_of(read).take(np.arange(N - TEST)), {}, JobContext())
    with_both = fitted.predict(inputs_of(changed).take(np.arange(N - TEST)), {}, JobContext())
    assert np.array_equal(without, with_both) == (architecture == "unimodal")


def test_features_that_are_held_give_the_model_that_reading_them_at_every_step_gives(monkeypatch: Any) -> None:
    features, classes = cells()
    entry = {"architecture": "multi", "width": 16, "heads": 2, "n_layers": 1, "hidden": 16, "epochs": 2}
    model = CellTransformerModel(CellTransformerSpec.from_json(entry))
    data, _ = fold(features, classes)
    read = model.fit(data, JobContext())
    asked: list[int] = []
    monkeypatch.setattr(cell_transformer, "fits_on_gpu", lambda size, device: asked.append(size) or True)
    held = model.fit(data, JobContext())
    assert asked == [4 * (N - TEST) * 21]
    assert all(np.array_equal(read.arrays[name], held.arrays[name]) for name in read.arrays)


def test_alignments_that_cannot_be_made_are_refused() -> None:
    features, classes = cells()
    data, _ = fold(features, classes)
    one = Inputs(data.train.inputs.obs, {"features": type("One", (Features,), {"widths": (21,)})(features)},
                 np.arange(N - TEST))  # fmt: skip
    spec = AlignmentSpec.from_json(SMALL)
    with pytest.raises(InputError, check=has_code("alignment-inputs")):
        fit_aligned(replace(data, train=replace(data.train, inputs=one)), JobContext(), spec)
    with pytest.raises(InputError, check=has_code("alignment-cells")):
        fit_aligned(replace(data, train=data.train.take(np.arange(1))), JobContext(), spec)


def test_a_scaler_by_blocks_is_that_of_the_whole() -> None:
    features, _ = cells()
    features[:, 3] = 7.0
    whole, by_block = fit_scaler(features), fit_scaler_of(inputs_of(features), block=77)
    np.testing.assert_allclose(by_block.mean, whole.mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(by_block.scale, whole.scale, rtol=1e-6)
    assert by_block.scale[3] == 1.0
    off = fit_scaler_of(inputs_of(features), active=False)
    np.testing.assert_array_equal(off(features), features)
