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
