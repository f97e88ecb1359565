"""Hist2Cell and the CellSymphony networks against outputs of the official codes, and what follows from their design."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from reference_outputs import (
    assert_grad_norms,
    fill,
    generator,
    load_outputs,
    load_recipe,
    needs_reference,
    normal,
    prefixed_value,
    without_dropout,
)


def f32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))


def close(got: torch.Tensor, expected: np.ndarray, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(got.detach().numpy(), expected, atol=atol, rtol=1e-5)


@pytest.fixture(scope="module")
def hist2cell():
    from histoloom.networks.hist2cell import Hist2Cell

    recipe, expected = load_recipe("hist2cell"), load_outputs("hist2cell/expected.npz")
    network = Hist2Cell(12)
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == recipe["state"]
    fill(network, prefixed_value(""))
    images = f32(normal("x", (31, 3, 64, 64)) + 2 * normal("x_offset", (31, 3, 1, 1)))
    assert np.allclose(images.flatten()[:4], recipe["first_values"]["x"], atol=1e-7)
    labels = f32(abs(normal("labels", (31, 12)))) * 0.5
    return without_dropout(network), recipe, expected, images, labels


@needs_reference
def test_hist2cell_equals_the_official_network(hist2cell):
    network, _, expected, images, _ = hist2cell
    network.eval()
    edges = torch.from_numpy(expected["edges_published"]).long()
    with torch.no_grad():
        features = network.image_features(images)
        got = network.branches(features, edges)
        close(features[:, :64], expected["published/resnet"])
        close(got.gat[:, :64], expected["published/gat"])
        close(got.local_features[:, :64], expected["published/norm1"])
        close(got.spot_features[:, :64], expected["published/spot_feat"])
        close(got.global_features[:, :64], expected["published/global_feat"])
        for name, value in {"spot": got.spot, "local": got.local, "global": got.whole, "fused": got.fused}.items():
            close(value, expected[f"published/{name}_pred"])
        close(got.merged, expected["published/merged"])
        close(network(images, edges), expected["published/out"])
        nodes = torch.from_numpy(expected["batch/nodes"]).long()
        close(network(images[nodes], torch.from_numpy(expected["batch/edges"]).long()), expected["batch/out"])


@needs_reference
def test_hist2cell_trains_like_the_official_network(hist2cell):
    network, recipe, expected, images, labels = hist2cell
    nodes, edges = torch.from_numpy(expected["batch/nodes"]).long(), torch.from_numpy(expected["batch/edges"]).long()
    images, labels = images[nodes], labels[nodes]
    for rectify, key in ((True, "losses"), (False, "losses_without_final_relu_2024")):
        fill(network, prefixed_value(""))
        network.train()
        network.rectify = rectify
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=1e-4)
        losses = []
        for step in range(4):
            optimiser.zero_grad()
            prediction = network(images, edges)
            loss = F.mse_loss(prediction, labels)
            loss.backward()
            if step == 0 and rectify:
                close(prediction, expected["train/train_out"])
                norms = recipe["training"]["grad_norms_step0"]
                assert_grad_norms(network, list(norms), list(norms.values()), 1e-3)
                close(network.resnet18[1].running_mean, expected["train/bn1_running_mean"])
                close(network.resnet18[1].running_var, expected["train/bn1_running_var"])
            optimiser.step()
            losses.append(loss.item())
        np.testing.assert_allclose(losses, recipe["training"][key], rtol=1e-3)
    network.rectify = True


def test_permuted_nodes_permute_hist2cell_and_edges_reach_only_the_graph_branch():
    from histoloom.networks.hist2cell import Hist2Cell

    torch.manual_seed(0)
    network = Hist2Cell(3, depth=1).eval()
    features = torch.randn(9, 512)
    edges = torch.randint(0, 9, (2, 20))
    order = torch.randperm(9)
    with torch.no_grad():
        whole = network.predict_from_features(features, edges)
        permuted = network.predict_from_features(features[order], torch.argsort(order)[edges])
        torch.testing.assert_close(permuted, whole[order], atol=1e-5, rtol=1e-5)
        some, none = network.branches(features, edges), network.branches(features, edges[:, :0])
    assert torch.equal(some.spot, none.spot)
    assert not torch.allclose(some.gat, none.gat)


def test_hist2cell_runs_under_autocast_close_to_full_precision():
    from histoloom.networks.hist2cell import Hist2Cell

    torch.manual_seed(0)
    network, features, edges = Hist2Cell(3, depth=1).eval(), torch.randn(9, 512), torch.randint(0, 9, (2, 20))
    with torch.no_grad():
        full = network.predict_from_features(features, edges)
        with torch.autocast("cpu", torch.bfloat16):
            half = network.predict_from_features(features, edges)
    torch.testing.assert_close(half.float(), full, atol=0.03, rtol=0.05)


SIZES = {"small": (64, 4, 2), "full": (512, 8, 6)}


def cell_inputs(recipe: dict, size: str) -> dict[str, torch.Tensor]:
    entry, n, prefix = recipe["models"][f"{size}/dual"], recipe["n"], f"{size}:"
    return {
        "genes": F.normalize(f32(normal(prefix + "gene", (n, entry["gene_dim"]))), dim=1),
        "morphology": f32(0.7 * normal(prefix + "morph", (n, entry["morph_dim"]))),
        "unit": f32(generator(prefix + "coords").random((n, 2))),
        "px": f32(generator(prefix + "coords_px").random((n, 2)) * [48000, 36000]),
    }


@needs_reference
@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("kind", ["unimodal", "spatial", "dual", "multi"])
def test_cell_transformers_equal_the_official_networks(size, kind):
    from histoloom.networks.cell_transformers import CellTransformer

    recipe, expected = load_recipe("cellsymphony"), load_outputs(f"cellsymphony/{size}.npz")
    entry, inputs = recipe["models"][f"{size}/{kind}"], cell_inputs(recipe, size)
    width, heads, n_layers = SIZES[size]
    network = CellTransformer(kind, 6, width=width, heads=heads, n_layers=6 if kind == "multi" else n_layers)
    assert {k: list(v.shape) for k, v in network.state_dict().items()} == entry["state"]
    fill(network, prefixed_value(entry["prefix"]))
    without_dropout(network)
    labels = torch.tensor(recipe["labels"])
    weights = torch.tensor(recipe["class_weights"], dtype=torch.float32)

    def logits(case: str) -> torch.Tensor:
        return network(inputs["genes"], inputs["morphology"], inputs.get(case))

    for case, facts in entry["cases"].items():
        network.eval()
        with torch.no_grad():
            got = logits(case)
            name = kind if case == "only" else f"{kind}_{case}"
            close(got, expected[f"{name}/logits"])
            assert F.cross_entropy(got, labels).item() == pytest.approx(facts["ce_plain"], rel=1e-4)
            assert F.cross_entropy(got, labels, weights).item() == pytest.approx(facts["ce_weighted"], rel=1e-4)
    if "training" not in entry:
        return
    training, case = entry["training"], entry["training"]["case"]
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-5, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-5, total_steps=6) if kind == "multi" else None
    losses, rates, betas = [], [], []
    for step in range(6):
        group = optimiser.param_groups[0]
        rates.append(group["lr"])
        betas.append(group["betas"][0])
        optimiser.zero_grad()
        loss = F.cross_entropy(logits(case), labels, weights if kind == "multi" else None)
        loss.backward()
        if step == 0:
            norms = training["grad_norms_step0"]
            assert_grad_norms(network, list(norms), [np.nan if v is None else v for v in norms.values()], 1e-3)
        optimiser.step()
        if schedule is not None:
            schedule.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, training["losses"], rtol=1e-3)
    np.testing.assert_allclose(rates, training["lr"], rtol=1e-6)
    np.testing.assert_allclose(betas, training["beta1"], rtol=1e-6)


@needs_reference
@pytest.mark.parametrize("name", ["script_mlp", "notebook_net"])
def test_contrastive_projections_equal_the_official_ones(name):
    from histoloom.networks.cell_transformers import AlignmentHead, info_nce

    recipe, expected = load_recipe("cellsymphony")["contrastive"], load_outputs("cellsymphony/contrastive.npz")
    entry, n = recipe["nets"][name], recipe["n"]
    inputs = {
        "gene": F.normalize(f32(normal("nce_gene", (n, 512))), dim=1),
        "morph": f32(0.7 * normal("nce_morph", (n, 1536))),
    }
    heads = {}
    for side, features in inputs.items():
        heads[side] = AlignmentHead(features.shape[1])
        value = prefixed_value(entry[f"prefix_{side}"])
        official = name.partition("_")[2]
        fill(heads[side], lambda key, shape, value=value, official=official: value(key.replace("net", official), shape))
        close(heads[side](features), expected[f"{name}/{side}"])
    optimiser = torch.optim.Adam([p for head in heads.values() for p in head.parameters()], lr=1e-3)
    losses = []
    for step in range(8):
        optimiser.zero_grad()
        sides = info_nce(heads["gene"](inputs["gene"]), heads["morph"](inputs["morph"]), entry["temperature"])
        if step == 0:
            assert sides[0].item() == pytest.approx(entry["loss_gene_to_morph"], rel=1e-5)
            assert sides[1].item() == pytest.approx(entry["loss_morph_to_gene"], rel=1e-5)
        loss = sum(sides) / 2
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, entry["losses_adam_1e-3_full_batch"], rtol=2e-3)


def test_only_the_own_position_moves_a_cell():
    from histoloom.networks.cell_transformers import CellTransformer

    torch.manual_seed(0)
    network = CellTransformer("multi", 4, gene_dim=8, morph_dim=8, width=16, heads=2, n_layers=2, hidden=32).eval()
    genes, morphology, place = torch.randn(6, 8), torch.randn(6, 8), torch.rand(6, 2)
    moved = place.clone()
    moved[0] += 0.25
    with torch.no_grad():
        before, after = network(genes, morphology, place), network(genes, morphology, moved)
        whole_periods = network(genes, morphology, place + 3)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1:], after[1:])
    torch.testing.assert_close(before, whole_periods, atol=1e-4, rtol=1e-4)
