"""Networks of the expression models against outputs of the official codes (reference_outputs/cmrcnet)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reference_outputs import (
    assert_grad_norms,
    fill,
    generator,
    load_outputs,
    load_recipe,
    needs_reference,
    normal,
    paper_c_value,
    without_dropout,
)

pytestmark = needs_reference


def drawn(model: str, name: str, recipe: dict) -> torch.Tensor:
    """An input of the recipe as float64 with float32 values."""
    entry = recipe["models"][model]["inputs"][name]
    full, shape = f"input/{model}/{name}", entry["shape"]
    if entry["kind"] == "int":
        return torch.from_numpy(generator(full).integers(entry["low"], entry["high"], shape))
    if entry["kind"] == "uniform":
        values = generator(full).random(shape)
    else:
        values = normal(full, shape)
        values = np.maximum(values, 0) * 1.5 if entry["kind"] == "relu" else values * entry.get("scale", 1)
    return torch.from_numpy(values.astype(np.float32)).double()


def close(got: torch.Tensor, expected: np.ndarray, rtol: float = 1e-6) -> None:
    """Compare relative to the largest value; stored arrays are float32."""
    scale = max(float(abs(expected).max()), 1e-30)
    np.testing.assert_allclose(got.detach().numpy() / scale, expected / scale, atol=rtol, rtol=0)


def trace_losses(network: torch.nn.Module, optimiser: torch.optim.Optimizer, loss, steps: int = 3) -> list[float]:
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    return [*losses, loss().item()]


def test_stnet_equals_the_official_network():
    from histoloom.networks.stnet import eight_symmetries, stnet, stnet_loss

    recipe, expected = load_recipe("cmrcnet"), load_outputs("cmrcnet/stnet.npz")
    network = stnet(30)
    assert sorted(network.state_dict()) == list(expected["keys"])
    fill(network, paper_c_value)
    assert sum(p.numel() for p in network.parameters()) == 6_984_606
    network = network.double().eval()
    image, gene = drawn("stnet", "image", recipe), drawn("stnet", "gene", recipe)
    with torch.no_grad():
        prediction = network(image)
        close(prediction, expected["eval_prediction"])
        assert float(stnet_loss(prediction, gene)) == pytest.approx(float(expected["eval_loss"]), rel=1e-9)
        entry = recipe["models"]["stnet"]["inputs"]["raw_image"]
        raw = drawn("stnet", "raw_image", recipe).permute(2, 0, 1)[None]
        mean, std = (torch.tensor(entry[k]).double().view(1, 3, 1, 1) for k in ("mean", "std"))
        eight = network(((eight_symmetries(raw)[:, 0].double() / 255) - mean) / std)
        close(eight, expected["eight_predictions"])
        close(eight.mean(0), expected["eight_mean"])
        close(network.float()(image.float()), expected["eval_prediction"], 1e-5)
    network = network.double().train()
    fill(network, paper_c_value)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    loss = stnet_loss(network(image), gene)
    loss.backward()
    assert_grad_norms(network, expected["grad_names"], expected["grad_norms"], 1e-8)
    losses = trace_losses(network, optimiser, lambda: stnet_loss(network(image), gene))
    np.testing.assert_allclose(losses, expected["loss_trace_sgd"], rtol=1e-9)


def test_bleep_equals_the_official_network():
    from histoloom.networks.bleep import Bleep
    from histoloom.networks.contrastive import contrastive_losses, similarity_logits, soft_targets

    recipe, expected = load_recipe("cmrcnet"), load_outputs("cmrcnet/bleep.npz")
    network = Bleep(40)
    assert sorted(network.state_dict()) == list(expected["keys"])
    fill(network, paper_c_value)
    network = without_dropout(network).double()
    image, spots = drawn("bleep", "image", recipe), drawn("bleep", "reduced_expression", recipe)
    for mode in ("eval", "train"):
        network.train(mode == "train")
        features = network.image_encoder(image)
        images, profiles = network.image_projection(features), network.embed_spots(spots)
        close(features, expected[f"{mode}_image_features"])
        close(images, expected[f"{mode}_image_embeddings"])
        close(profiles, expected[f"{mode}_spot_embeddings"])
        close(similarity_logits(images, profiles), expected[f"{mode}_logits"])
        close(soft_targets(images, profiles), expected[f"{mode}_targets"])
        losses = contrastive_losses(images, profiles)
        close(losses, expected[f"{mode}_loss_per_sample"])
        assert losses.mean().item() == pytest.approx(float(expected[f"{mode}_loss"]), rel=1e-9)
    close(network.image_encoder.model.bn1.running_mean, expected["train_bn1_running_mean"])
    close(network.image_encoder.model.bn1.running_var, expected["train_bn1_running_var"])
    losses.mean().backward()
    assert_grad_norms(network, expected["grad_names"], expected["grad_norms"], 1e-7)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-3)
    trace = trace_losses(
        network, optimiser, lambda: contrastive_losses(network.embed_images(image), network.embed_spots(spots)).mean()
    )
    np.testing.assert_allclose(trace, expected["loss_trace_adamw"][: len(trace)], rtol=1e-8)


def test_histogene_equals_the_official_network():
    from histoloom.networks.histogene import HisToGene

    recipe, expected = load_recipe("cmrcnet"), load_outputs("cmrcnet/histogene.npz")
    network = HisToGene(23, patch_size=14, dim=64, n_layers=2)
    assert sorted(network.state_dict()) == list(expected["keys"])
    fill(network, paper_c_value)
    network = without_dropout(network).double()
    patches, positions, genes = (drawn("histogene", n, recipe) for n in ("patches", "positions", "expression"))
    close(network(patches, positions), expected["prediction"])
    loss = torch.nn.functional.mse_loss(network(patches, positions), genes)
    assert loss.item() == pytest.approx(float(expected["loss"]), rel=1e-9)
    loss.backward()
    assert_grad_norms(network, expected["grad_names"], expected["grad_norms"], 1e-8)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-5)
    trace = trace_losses(network, optimiser, lambda: torch.nn.functional.mse_loss(network(patches, positions), genes))
    np.testing.assert_allclose(trace, expected["loss_trace_adam"], rtol=1e-9)


def test_cmrcnet_equals_the_official_network():
    from histoloom.networks.cmrcnet import Cmrcnet, cmrcnet_loss
    from histoloom.networks.contrastive import contrastive_losses, similarity_logits, soft_targets

    recipe, expected = load_recipe("cmrcnet"), load_outputs("cmrcnet/cmrcnet.npz")
    entry = recipe["models"]["cmrcnet"]
    network = Cmrcnet(40, unused_classifier=True)
    assert sorted(network.state_dict()) == list(expected["keys"])
    fill(network, paper_c_value, entry["tied"])
    assert sum(p.numel() for p in network.parameters()) == entry["parameters"]
    network = without_dropout(network).double().eval()
    image, genes, uniform = (drawn("cmrcnet", n, recipe) for n in ("image", "st_data", "mask_uniform"))
    mask = (uniform < 0.5).double()
    tokens = network.image_tokens(image)
    close(tokens.mean(1), expected["image_tokens_mean"])
    close(tokens[:2, :, :24], expected["image_tokens_slice"])
    gene_tokens = network.gene_tokens(genes)
    close(gene_tokens[:, :, ::4], expected["spot_tokens_slice"])
    first = network.attend(tokens, gene_tokens, mask)
    close(first[:, ::7, ::4], expected["first_attention_slice"])
    fused = network.cross_modal_image_layers[0](first, gene_tokens)
    close(fused[:, ::7, ::4], expected["fusion1_slice"])
    images, spots, reconstruction = network(image, genes, mask)
    close(images, expected["image_embeddings"])
    close(spots, expected["spot_embeddings"])
    close(reconstruction, expected["reconstruction"])
    close(similarity_logits(images, spots), expected["logits"])
    close(soft_targets(images, spots), expected["targets"])
    close(contrastive_losses(images, spots), expected["contrastive_per_sample"])
    alone = cmrcnet_loss(images, spots, None)
    assert alone.item() == pytest.approx(float(expected["loss_contrastive"]), rel=1e-9)
    loss = cmrcnet_loss(images, spots, reconstruction)
    assert loss.item() == pytest.approx(float(expected["loss_total"]), rel=1e-9)
    network.train()
    cmrcnet_loss(*network(image, genes, mask)).backward()
    assert_grad_norms(network, expected["grad_names"], expected["grad_norms"], 1e-8)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=1e-3)
    trace = trace_losses(network, optimiser, lambda: cmrcnet_loss(*network(image, genes, mask)), steps=1)
    np.testing.assert_allclose(trace, expected["loss_trace_adamw"][: len(trace)], rtol=1e-8)


def retrieval_inputs(recipe: dict) -> dict[str, np.ndarray]:
    sizes = recipe["models"]["retrieval"]["sizes"]
    m, q, g = sizes["M"], sizes["Q"], sizes["G"]

    def uniform(name: str, shape: tuple[int, int]) -> np.ndarray:
        return generator(f"input/retrieval/{name}").random(shape)

    def relu(name: str, shape: tuple[int, int]) -> np.ndarray:
        return np.maximum(normal(f"input/retrieval/{name}", shape), 0) * 1.5

    scale = 3 * uniform("gene_scale", (1, g))
    keys = normal("input/retrieval/keys", (m, 256)) * 0.1 * (0.5 + uniform("key_scale", (m, 1)))
    expression = {"key": relu("key_expression", (m, g)) * scale, "query": relu("query_expression", (q, g)) * scale}
    expression["key"][:, 1] = 0.25
    expression["query"][:, 0] = 0
    queries = normal("input/retrieval/query", (q, 256)) * 0.1
    rounded = {"keys": keys, "queries": queries, "key": expression["key"], "query": expression["query"]}
    return {name: values.astype(np.float32) for name, values in rounded.items()}


def test_retrieval_equals_the_official_searches():
    from histoloom.networks.retrieval import distance_weights, find_neighbours, predict_from_neighbours

    recipe, expected = load_recipe("cmrcnet"), load_outputs("cmrcnet/retrieval.npz")
    given = {name: torch.from_numpy(values) for name, values in retrieval_inputs(recipe).items()}
    index = find_neighbours(given["queries"], given["keys"], 50, query_block=16, key_block=70)
    np.testing.assert_array_equal(index.numpy(), expected["indices"])
    close(predict_from_neighbours(given["key"], index), expected["average_expression"], 1e-6)
    close(predict_from_neighbours(given["keys"], index)[:, ::8], expected["average_embedding"], 1e-6)
    close(predict_from_neighbours(given["key"], index, "simple"), expected["simple_expression"], 1e-6)
    weights = distance_weights(given["queries"], given["keys"], index)
    close(predict_from_neighbours(given["key"], index, "weighted", weights), expected["weighted_expression"], 1e-5)


def test_ctranspath_equals_the_official_network():
    from histoloom.embeddings.architectures import conv_stem_swin
    from histoloom.embeddings.keymaps import KEY_MAPS

    recipe, expected = load_recipe("cmrcnet"), load_outputs("cmrcnet/ctranspath.npz")
    official = {}
    for key, shape in zip(expected["keys"].tolist(), expected["shapes"].tolist(), strict=True):
        if not key.endswith(("relative_position_index", "attn_mask")):
            size = [] if shape == "scalar" else [int(n) for n in shape.split("x")]
            official[key] = torch.from_numpy(np.asarray(paper_c_value(key, size), np.float32).reshape(size))
    network = conv_stem_swin({"num_classes": 0, "norm_layer": torch.nn.LayerNorm})
    state = KEY_MAPS["old_swin"]({k: v for k, v in official.items() if not k.startswith("head.")})
    network.load_state_dict({k: v.to(torch.float32) for k, v in state.items()}, strict=True)
    network = network.double().eval()
    image = drawn("ctranspath", "image", recipe)
    with torch.no_grad():
        close(network.patch_embed(image).flatten(1, 2)[:1, ::97, ::4], expected["stem_slice"])
        close(network.forward_features(image).mean((1, 2)), expected["features"])
