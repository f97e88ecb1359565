"""The papers' models on toy inputs: they learn, their predictions keep their invariants, bad input is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.inputs import Inputs
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.models.baselines import _position
from histoloom.models.bleep import BLEEP, BleepSpec
from histoloom.models.cell_transformer import CellTransformerModel, CellTransformerSpec, one_cycle, place
from histoloom.models.cmrcnet import CMRCNet, CmrcnetSpec
from histoloom.models.hist2cell import Hist2CellModel, Hist2CellSpec, SpotGraph, predict_nodes
from histoloom.models.histogene import HisToGeneModel, HisToGeneSpec, array_positions
from histoloom.models.pixel_training import IMAGENET, Preparation
from histoloom.models.retrieval import retrieve
from histoloom.networks.hist2cell import Hist2Cell
from histoloom.networks.retrieval import find_neighbours
from histoloom.targets import kind_of

PX, SIDE = 32, 6


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Features:
    widths = (4, 3)

    def __init__(self, values):
        self.values = values

    def __call__(self, rows):
        return self.values[rows]


def world(sections=("A1", "B1", "C1"), seed=0):
    """Square arrays of tiles whose grey is the target, with the coordinates in another order than the rows."""
    rng = np.random.default_rng(seed)
    tables, grey = [], []
    for name in sections:
        order = rng.permutation(SIDE * SIDE)
        row, column = np.divmod(order, SIDE)
        ids = [f"{r}x{c}" for r, c in zip(row, column, strict=True)]
        tables.append(
            pd.DataFrame(
                {
                    "cohort": "toy", "sample": name, "patient": name[0], "obs_id": ids,
                    "array_row": row, "array_col": column, "x": column * 10.0, "y": row * 10.0, "pitch_um": 200.0,
                }
            )
        )  # fmt: skip
        grey.append(rng.integers(30, 225, SIDE * SIDE))
    obs, grey = pd.concat(tables, ignore_index=True), np.concatenate(grey)
    pixels = np.repeat(grey, PX * PX * 3).reshape(-1, PX, PX, 3).astype(np.uint8)
    pixels += rng.integers(0, 9, pixels.shape, dtype=np.uint8)
    y = np.stack([grey / 50, 5 - grey / 50, rng.random(len(grey))], 1).astype(np.float32)
    features = rng.normal(size=(len(grey), 7)).astype(np.float32)
    readers = {"pixels": lambda rows: pixels[rows], "features": Features(features)}
    return Inputs(obs, readers, np.arange(len(obs)), "square8"), y, features


def fold(inputs, y, target="expression", outputs=("a", "b", "noise"), train=("A1", "B1"), seed=0):
    sample = inputs.obs["sample"].astype(str)
    rows = np.flatnonzero(sample.isin(train).to_numpy())
    code = pd.factorize(sample.iloc[rows])[0]
    part = Part(inputs.take(rows), y[rows], code, code)
    return FoldData("toy", part, None, kind_of(target), tuple(outputs), seed=seed, standardise=False)


SMALL = {
    "bleep": (BLEEP, BleepSpec, {"weights": "random", "architecture": "resnet18", "batch_size": 24, "epochs": 12, "lr": 1e-3,
                                 "width": 32, "k": 5}),
    "cmrcnet": (CMRCNet, CmrcnetSpec, {"batch_size": 24, "epochs": 12, "lr": 1e-3, "min_lr": 1e-4, "input_px": PX, "patch_px": 16,
                                       "depth": 1, "encoder_dim": 96, "width": 64, "k": 5}),
    "histogene": (HisToGeneModel, HisToGeneSpec, {"input_px": 8, "dim": 32, "n_layers": 1, "heads": 1, "epochs": 150, "lr": 3e-3}),
    "hist2cell": (Hist2CellModel, Hist2CellSpec, {"weights": "random", "depth": 1, "batch_size": 18, "epochs": 8, "lr": 1e-3,
                                                  "min_lr": 1e-4, "graph": "square8"}),
}  # fmt: skip


def make(name, **changes):
    model, spec, given = SMALL[name]
    return model(spec.from_json({**given, **changes}))


@pytest.mark.parametrize("name", SMALL)
def test_a_model_learns_what_the_pixels_say_and_nothing_else(name):
    inputs, y, _ = world()
    test = np.flatnonzero((inputs.obs["sample"] == "C1").to_numpy())
    job = JobContext()
    fitted = make(name).fit(fold(inputs, y), job)
    predicted = fitted.predict(inputs.take(test), {}, job)
    assert predicted.shape == (len(test), 3)
    r = [np.corrcoef(predicted[:, k], y[test, k])[0, 1] for k in range(2)]
    assert min(r) > 0.7, r
    restored = make(name).restore(fitted.state(), fitted.choices).predict(inputs.take(test), {}, job)
    assert restored.tobytes() == predicted.tobytes()
    assert job.record["epochs"] == fitted.choices["epochs"]


@pytest.mark.parametrize("name", ["bleep", "cmrcnet"])
def test_retrieval_stays_within_training_values_and_its_variants_share_one_fit(name):
    inputs, y, _ = world()
    job = JobContext()
    data = fold(inputs, y)
    fitted = make(name, epochs=1).fit(data, job)
    test = inputs.take(np.arange(72, 108))
    for variant in ({"k": 1}, {"k": 5}, {"k": 72}, {"k": 9, "method": "weighted"}, {"method": "simple"}):
        predicted = fitted.predict(test, variant, job)
        assert (predicted >= data.train.y.min(0) - 1e-5).all()
        assert (predicted <= data.train.y.max(0) + 1e-5).all()
    everything = fitted.predict(test, {"k": 72}, job)
    np.testing.assert_allclose(everything, np.broadcast_to(data.train.y.mean(0), everything.shape), rtol=1e-5)
    same = fitted.predict(test, {"method": "simple"}, job)
    np.testing.assert_array_equal(same, fitted.predict(test, {"k": 1}, job))
    with pytest.raises(InputError, check=has_code("retrieval-k")):
        fitted.predict(test, {"k": 73}, job)


@pytest.mark.parametrize("name", ["bleep", "cmrcnet"])
def test_keys_values_and_profiles_are_the_labels_that_training_was_given(name):
    inputs, y, _ = world()
    shuffled = y.copy()
    shuffled[:72] = np.random.default_rng(1).permutation(y[:72])
    fitted = make(name, epochs=1).fit(fold(inputs, shuffled), JobContext())
    np.testing.assert_array_equal(fitted.state()["values"], shuffled[:72])
    other = y.copy()
    other[72:] = np.nan  # test labels
    again = make(name, epochs=1).fit(
        fold(inputs, np.where(np.arange(len(y))[:, None] < 72, shuffled, other)), JobContext()
    )
    for key, value in fitted.state().items():
        assert value.tobytes() == again.state()[key].tobytes(), key


def test_weights_do_not_depend_on_how_many_neighbours_are_gathered_at_once(monkeypatch):
    rng = np.random.default_rng(1)
    queries, keys, values = (
        torch.from_numpy(rng.normal(size=s).astype(np.float32)) for s in ((23, 8), (60, 8), (60, 5))
    )
    whole = retrieve(queries, keys, values, 7, "weighted")
    monkeypatch.setattr("histoloom.networks.retrieval._GATHERED", 100)
    torch.testing.assert_close(retrieve(queries, keys, values, 7, "weighted"), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_keys", [40, 61, 400, 403, 997])
def test_neighbours_are_those_of_a_full_sort_whatever_the_blocks(n_keys):
    rng = np.random.default_rng(n_keys)
    queries, keys = (torch.from_numpy(rng.normal(size=(n, 8))).float() for n in (30, n_keys))
    similarity = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(keys).T
    order = similarity.argsort(dim=1, descending=True)
    for k in (1, 3, 40):
        for key_block in (65536, 150):
            found = find_neighbours(queries, keys, k, query_block=7, key_block=key_block)
            np.testing.assert_array_equal(found, order[:, :k])


def test_retrieval_in_blocks_equals_a_loop_over_queries():
    rng = np.random.default_rng(0)
    queries, keys = (
        torch.from_numpy(rng.normal(size=(50, 8))).float(),
        torch.from_numpy(rng.normal(size=(400, 8))).float(),
    )
    values = torch.from_numpy(rng.random((400, 6))).float()
    got = retrieve(queries, keys, values, 7, "average").numpy()
    for q in range(50):
        similarity = [float(k @ queries[q] / k.norm() / queries[q].norm()) for k in keys]
        nearest = np.argsort(similarity)[::-1][:7]
        np.testing.assert_allclose(got[q], values[nearest.copy()].mean(0), rtol=1e-5)


def test_positions_start_at_each_sections_corner_and_large_arrays_are_refused():
    inputs, _, _ = world()
    spec = HisToGeneSpec.from_json({"n_pos": SIDE})
    xy = array_positions(inputs, spec).numpy()
    assert (xy == inputs.obs[["array_col", "array_row"]].to_numpy()).all()
    with pytest.raises(InputError, check=has_code("histogene-positions")):
        array_positions(inputs, HisToGeneSpec.from_json({"n_pos": SIDE - 1}))
    assert (
        array_positions(inputs, HisToGeneSpec.from_json({"n_pos": SIDE, "positions": "hexagonal_rows"})).max()
        == SIDE - 1
    )


def test_a_batch_of_nodes_is_centres_with_two_hops_and_all_edges_among_them():
    inputs, _, _ = world()
    graph = SpotGraph(inputs)
    sample = inputs.obs["sample"].astype(str).to_numpy()
    edges = graph.adjacency.tocoo()
    assert (sample[edges.row] == sample[edges.col]).all()
    place = inputs.obs[["array_row", "array_col"]].to_numpy()
    centres = np.array([3, 50])
    batch = graph.batch(centres)
    nodes = batch.nodes.numpy()
    assert (nodes[:2] == centres).all()
    expected = {
        n
        for n in range(len(place))
        if any(sample[n] == sample[c] and abs(place[n] - place[c]).max() <= 2 for c in centres)
    }
    assert set(nodes) == expected
    assert len(nodes) == len(set(nodes))
    pairs = {(nodes[i], nodes[j]) for i, j in batch.edges.T.tolist()}
    whole = {
        (i, j)
        for i in nodes
        for j in nodes
        if i != j and sample[i] == sample[j] and abs(place[i] - place[j]).max() <= 1
    }
    assert pairs == whole


def test_features_computed_once_give_what_a_forward_pass_of_every_batch_gives():
    inputs, _, _ = world(("A1", "B1"))
    torch.manual_seed(0)
    network = Hist2Cell(3, depth=1).eval()
    graph, preparation = SpotGraph(inputs), Preparation(*IMAGENET)
    got = predict_nodes(network, inputs, graph, preparation, "cpu", size=16)
    with torch.no_grad():
        for batch in graph.consecutive(16):
            images = preparation(torch.from_numpy(inputs.pixels(batch.nodes.numpy())).permute(0, 3, 1, 2))
            plain = network(images, batch.edges)[: batch.n_centres].numpy()
            np.testing.assert_allclose(got[batch.nodes[: batch.n_centres]], plain, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "inputs_seen"), [("unimodal", "genes"), ("dual", "both"), ("spatial", "genes"), ("multi", "both")]
)
def test_a_transformer_sees_its_own_modalities(architecture, inputs_seen):
    inputs, _, features = world()
    # One class is told apart by genes, one by morphology, the rest by neither.
    classes = np.where(features[:, 0] > 0.5, 0, np.where(features[:, 4] > 0.5, 1, 2))
    small = {"architecture": architecture, "width": 32, "heads": 2, "n_layers": 1, "hidden": 64, "lr": 3e-3, "epochs": 60,
             "batch_size": 24, "class_weights": False}  # fmt: skip
    if architecture in ("unimodal", "spatial"):
        readers = {"features": type("Genes", (Features,), {"widths": (4,)})(features[:, :4])}
        inputs = Inputs(inputs.obs, readers, np.arange(len(features)))
    data = fold(inputs, classes, "cell_class", ("genes", "morph", "rest"))
    fitted = CellTransformerModel(CellTransformerSpec.from_json(small)).fit(data, JobContext())
    test = inputs.take(np.arange(72, 108))
    predicted = fitted.predict(test, {}, JobContext())
    np.testing.assert_allclose(predicted.sum(1), 1, rtol=1e-5)
    right = predicted.argmax(1) == classes[72:]
    recall = [right[classes[72:] == k].mean() for k in range(3)]
    assert recall[0] > 0.6
    assert (recall[1] > 0.4) == (inputs_seen == "both"), recall


def test_unit_coordinates_do_not_move_with_the_section():
    inputs, _, _ = world()
    spec = CellTransformerSpec.from_json({"architecture": "spatial"})
    moved = Inputs(inputs.obs.assign(x=inputs.obs["x"] + 1000, y=inputs.obs["y"] - 5), {}, np.arange(len(inputs)))
    np.testing.assert_allclose(place(moved, spec), place(inputs, spec))
    assert place(inputs, spec).max() == 1


@pytest.mark.parametrize(
    "placed",
    [
        _position,
        lambda inputs: array_positions(inputs, HisToGeneSpec.from_json({"n_pos": SIDE})).numpy(),
        lambda inputs: place(inputs, CellTransformerSpec.from_json({"architecture": "spatial"})),
    ],
    ids=["coordinates", "histogene", "cell_transformer"],
)
def test_a_place_is_one_in_the_whole_section_whatever_part_is_read(placed):
    """Splits by block or at random train on a part of a section, a matched size on a thinned one."""
    inputs, _, _ = world()
    rows = np.random.default_rng(0).permutation(len(inputs))[: len(inputs) // 3]
    part = inputs.take(rows)
    np.testing.assert_array_equal(placed(part), placed(inputs)[rows])
    block = np.flatnonzero(part.obs["array_row"].to_numpy() > SIDE // 2)
    np.testing.assert_array_equal(placed(part.take(block)), placed(inputs)[rows[block]])


def test_the_cycle_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-5, total_steps=37)
    for step in range(37):
        group = optimiser.param_groups[0]
        assert one_cycle(step, 37, 3e-5) == pytest.approx((group["lr"], group["betas"][0]))
        optimiser.step()
        if step < 36:
            schedule.step()


def test_the_wrong_number_of_encoders_is_refused():
    inputs, _, features = world()
    spec = CellTransformerSpec.from_json({"architecture": "unimodal"})
    data = fold(inputs, np.zeros(len(features), int), "cell_class", ("a",))
    with pytest.raises(InputError, check=has_code("cell-transformer-inputs")):
        CellTransformerModel(spec).fit(data, JobContext())
