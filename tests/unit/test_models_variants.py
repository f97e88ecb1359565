"""Settings of the retrieval models, the choice of epochs by loss, fine-tuning, and retrieval on frozen embeddings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from modelworld import experiment
from test_models_papers import PX, fold, make, one_thread, world

from error_codes import has_code
from histoloom.embeddings.cards import full_card
from histoloom.errors import InputError
from histoloom.folds.artefact import build_folds
from histoloom.folds.roles import roles_of
from histoloom.inputs import Inputs
from histoloom.models.base import JobContext, Part
from histoloom.models.bleep import BleepSpec, BleepTask
from histoloom.models.bleep_embeddings import BleepEmbeddings, BleepEmbeddingsSpec
from histoloom.models.cmrcnet import CmrcnetSpec, CmrcnetTask
from histoloom.models.fine_tuned import FineTuned, FineTunedSpec
from histoloom.models.pixel_training import Preparation, even_batches, run_network
from histoloom.models.selection import rule_of

__all__ = ["one_thread"]


def with_val(inputs, y, how="val_spots: some", val=range(10)):
    """The first fold of `fold` with some of its observations held out to choose epochs by."""
    from dataclasses import replace

    whole = fold(inputs, y)
    rows = np.arange(len(whole.train))
    held = np.isin(rows, list(val))
    return replace(whole, train=whole.train.take(rows[~held]), val=whole.train.take(rows[held]), rule="val", how=how)


def test_the_settings_of_2023_see_colours_in_the_other_order_and_0_to_255():
    spec = BleepSpec.from_json({"settings": "as_code_2023"})
    assert (spec.normalise, spec.channel_order, spec.augment_at_test, spec.reshuffle) == ("raw", "bgr", True, False)
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    raw = Preparation((0.0,) * 3, (1 / 255,) * 3, None, "bgr")(images)
    np.testing.assert_allclose(raw.numpy(), images.numpy()[:, ::-1], rtol=1e-6)
    for name in ("default", "as_code", "as_paper"):
        assert BleepSpec.from_json({"settings": name}).channel_order == "rgb"


def test_test_tiles_are_turned_at_random_only_where_asked_and_always_the_same_way():
    inputs, _, _ = world()
    corner = torch.zeros(1, 3, PX, PX)
    corner[..., : PX // 2, : PX // 2] = 1
    tiles = (np.repeat(corner.permute(0, 2, 3, 1).numpy(), len(inputs), 0) * 255).astype(np.uint8)
    inputs = Inputs(inputs.obs, {"pixels": lambda rows: tiles[rows]}, inputs.rows)

    def seen(**options):
        quarter = lambda x: x[:, 0, : PX // 2, : PX // 2].mean((1, 2))[:, None]  # noqa: E731
        preparation = Preparation((0.0,) * 3, (1.0,) * 3)
        return run_network(torch.nn.Identity(), quarter, inputs, preparation, "cpu", **options).ravel()

    assert (seen() == 1).all()
    turned = seen(augment_seed=0)
    assert 0.1 < turned.mean() < 0.5  # a quarter of the symmetries leaves the corner there
    np.testing.assert_array_equal(turned, seen(augment_seed=0))


def test_without_reshuffling_every_epoch_has_the_batches_of_the_first():
    inputs, y, _ = world()
    orders = {}
    for reshuffle in (True, False):
        task = BleepTask(make("bleep", reshuffle=reshuffle).spec, fold(inputs, y), "cpu")
        task.batch_size = 24
        generator = torch.Generator().manual_seed(1)
        orders[reshuffle] = [torch.cat(task.batches(72, generator)).tolist() for _ in range(2)]
    assert orders[False][0] == orders[False][1]
    assert orders[True][0] != orders[True][1]


@pytest.mark.parametrize("name", ["bleep", "cmrcnet"])
def test_keys_hold_what_chose_the_epoch_only_on_request_and_never_test_observations(name):
    inputs, y, _ = world()
    sizes = {}
    for keys in ("train", "train_and_val"):
        fitted = make(name, epochs=1, keys=keys).fit(with_val(inputs, y), JobContext())
        sizes[keys] = len(fitted.state()["keys"])
    assert sizes == {"train": 62, "train_and_val": 72}
    published = with_val(inputs, y, how="test_as_published: on the test observations")
    fitted = make(name, epochs=1, keys="train_and_val").fit(published, JobContext())
    assert len(fitted.state()["values"]) == 62


def test_too_many_neighbours_and_a_batch_of_one_stop_before_training():
    inputs, y, _ = world()
    for changes, code in (({"k": 73}, "retrieval-k"), ({"variants": {"k5": {"k": 5}, "k500": {"k": 500}}}, "retrieval-k"),
                          ({"batch_size": 1}, "retrieval-batch")):  # fmt: skip
        job = JobContext()
        with pytest.raises(InputError, check=has_code(code)):
            make("bleep", **changes).fit(fold(inputs, y), job)
        assert "epochs" not in job.record  # nothing was trained


def test_the_validation_loss_covers_every_observation_with_the_same_draws_and_leaves_the_generator_alone():
    inputs, y, _ = world()
    data = fold(inputs, y)
    torch.manual_seed(0)
    task = CmrcnetTask(make("cmrcnet").spec, data, "cpu")
    task.batch_size = 25
    state = torch.get_rng_state()
    first = task.validation_loss(data.train)
    assert torch.equal(state, torch.get_rng_state())
    assert task.validation_loss(data.train) == first  # masks are drawn in evaluation too, with a fixed seed
    changed = Part(
        data.train.inputs, data.train.y + np.eye(1, len(data.train), 40).T, data.train.patient, data.train.section
    )
    assert task.validation_loss(changed) != first
    assert sorted(map(len, even_batches(torch.arange(72), 25))) == [24, 24, 24]
    assert [len(b) for b in even_batches(torch.arange(51), 25)] == [17, 17, 17]


def test_the_epoch_with_the_smallest_validation_loss_is_kept(monkeypatch):
    inputs, y, _ = world()
    losses = iter([3.0, 1.0, 2.0, 5.0])
    monkeypatch.setattr("histoloom.models.bleep.BleepTask.validation_loss", lambda self, part: next(losses))
    fitted = make("bleep", epochs=4, select_by="loss").fit(with_val(inputs, y), JobContext())
    assert fitted.choices["epochs"] == 2
    assert CmrcnetSpec.from_json({"settings": "as_code"}).select_by == "loss"
    assert CmrcnetSpec.from_json({}).select_by == "score"


def test_val_spots_are_a_fifth_of_each_training_section_and_no_test_observation():
    obs = pd.DataFrame(
        [(s, s[0], f"o{i}") for s in ("A1", "A2", "B1", "C1") for i in range(50)], columns=["sample", "patient", "obs_id"]
    ).assign(cohort="c", array_row=0, array_col=0, pitch_um=100.0)  # fmt: skip
    spec = {**experiment(cohorts=["c"], selection="val_spots"), "name": "e"}
    table, facts = build_folds(spec, obs, 0)
    roles = roles_of(table, obs)
    for patient in "ABC":
        own = obs.assign(role=roles[f"patient-{patient}"])
        counts = own.groupby(["patient", "sample", "role"]).size()
        for (who, _), part in counts.groupby(level=[0, 1]):
            found = part.droplevel([0, 1]).to_dict()
            assert found == ({"test": 50} if who == patient else {"train": 40, "val": 10})
    assert set(roles["all"]) == {"train"}
    assert facts["validation"]["patient-A"].startswith("20%")
    assert (roles["patient-A"] != roles["patient-B"])[obs["sample"] == "C1"].any()  # a draw of each fold's own
    assert rule_of("val_spots", "patient-A", 2, [])[0] == "val"
    assert rule_of("val_spots", "all", 3, [])[0] == "median"
    with pytest.raises(InputError, check=has_code("val-spots-split")):
        build_folds({**spec, "split": "random", "n_folds": 2, "on_overlap": "allow"}, obs, 0)


def test_retrieval_on_embeddings_finds_what_they_say():
    inputs, y, _ = world()
    signal = np.column_stack([y[:, 0], y[:, 0] ** 2, np.random.default_rng(0).normal(size=len(y))]).astype(np.float32)
    inputs = Inputs(inputs.obs, {"features": lambda rows: signal[rows]}, inputs.rows)
    spec = BleepEmbeddingsSpec.from_json({"batch_size": 24, "epochs": 40, "width": 32, "k": 5, "lr": 3e-3})
    model, data = BleepEmbeddings(spec), fold(inputs, y)
    job = JobContext()
    fitted = model.fit(data, job)
    test = inputs.take(np.arange(72, 108))
    predicted = fitted.predict(test, {}, job)
    assert np.corrcoef(predicted[:, 0], y[72:, 0])[0, 1] > 0.8
    assert (predicted >= data.train.y.min(0) - 1e-5).all()
    assert (predicted <= data.train.y.max(0) + 1e-5).all()
    again = model.restore(fitted.state(), fitted.choices).predict(test, {}, job)
    assert again.tobytes() == predicted.tobytes()
    assert not np.array_equal(predicted, fitted.predict(test, {"k": 1}, job))
    nothing = []
    for seed in range(10):  # one shuffle of 72 observations can correlate by chance, their mean does not
        shuffled = y.copy()
        shuffled[:72] = np.random.default_rng(seed).permutation(y[:72])
        given = model.fit(fold(inputs, shuffled), job).predict(test, {}, job)
        nothing.append(np.corrcoef(given[:, 0], y[72:, 0])[0, 1])
    assert abs(np.mean(nothing)) < 0.4, nothing
    chosen = BleepEmbeddings(BleepEmbeddingsSpec.from_json({**spec.__dict__, "epochs": 3, "select_by": "loss"}))
    assert 1 <= chosen.fit(with_val(inputs, y), job).choices["epochs"] <= 3
    with pytest.raises(InputError, check=has_code("retrieval-k")):
        BleepEmbeddings(BleepEmbeddingsSpec.from_json({"k": 80})).fit(data, job)


def tuned(**changes):
    card = full_card({
        "kind": "timm", "about": "a small network", "arch": "resnet10t", "arch_kwargs": {"num_classes": 0},
        "default_weights": "random", "input_px": PX, "pooling": "mean", "dim": 512, "licence": "none", "citation": "none",
    }, "small")  # fmt: skip
    encoder = {"name": "small", "card": card, "weights": "random", "seed": 3, "batch_size": "auto", "upsample": False,
               "compile": False, "tokens": None, "tiles_spec": {"size_px": PX, "um_per_px": 1.0}}  # fmt: skip
    return FineTunedSpec.from_json({"encoder": encoder, "batch_size": 24, "epochs": 12, "lr": 1e-3, **changes})


def test_a_fine_tuned_encoder_starts_from_its_weights_and_learns():
    inputs, y, _ = world()
    job, test = JobContext(), inputs.take(np.arange(72, 108))
    still = FineTuned(tuned(lr=1e-12, head_lr=1e-12, epochs=1, weight_decay=0.0)).fit(fold(inputs, y), job)
    from histoloom.kinds import load

    encoder, _, _ = load("encoders", "timm").load(tuned().tuned)
    for name, value in encoder.named_parameters():
        np.testing.assert_allclose(still.state()[f"network/encoder.{name}"], value.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(still.state()["network/head.bias"], y[:72].mean(axis=0), rtol=1e-5)
    fitted = FineTuned(tuned()).fit(fold(inputs, y), job)
    predicted = fitted.predict(test, {}, job)
    assert min(np.corrcoef(predicted[:, k], y[72:, k])[0, 1] for k in range(2)) > 0.7
    again = FineTuned(tuned()).restore(fitted.state(), fitted.choices).predict(test, {}, job)
    assert again.tobytes() == predicted.tobytes()
    assert fitted.predict(test, {"symmetries": 8}, job).shape == predicted.shape


def test_a_loss_that_is_no_number_names_epoch_and_batch():
    inputs, y, _ = world()
    y = y.copy()
    y[3] = np.nan
    with pytest.raises(InputError, check=has_code("loss-not-finite"), match=r"epoch 1, batch \d"):
        FineTuned(tuned(epochs=1)).fit(fold(inputs, y), JobContext())
