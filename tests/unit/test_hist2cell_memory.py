"""Hist2Cell's options about memory and speed: the losses of a plain loop, and what a stamp says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import test_models_papers
import torch
from test_models_papers import fold, make, one_thread  # noqa: F401 - a fixture for every test
from torch.nn import functional as F

from histoloom.models.base import FoldData, JobContext
from histoloom.models.hist2cell import Hist2CellModel, Hist2CellTask
from histoloom.models.setup import changed_settings, digits_of
from histoloom.networks.hist2cell import Hist2Cell

EPOCHS, CENTRES = 5, 9  # four batches in an epoch: 20 steps
MEAN, SD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module")
def data() -> FoldData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_models_papers, "PX", 16)
        inputs, y, _ = test_models_papers.world(("A1",))
    return replace(fold(inputs, y, train=("A1",)), seed=3)


def plain_losses(data: FoldData) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train as the public code does, everything kept, neighbours by coordinates; return losses and weights."""
    obs, stream = data.train.inputs.obs, data.stream("fit")
    place, section = obs[["array_row", "array_col"]].to_numpy(), obs["sample"].astype(str).to_numpy()
    steps = abs(place[:, None] - place[None]).max(axis=2)
    steps[section[:, None] != section[None]] = 99
    images = torch.from_numpy(data.train.inputs.pixels(np.arange(len(obs)))).permute(0, 3, 1, 2).float() / 255
    images, y = (images - MEAN) / SD, torch.from_numpy(data.train.dense)
    torch.manual_seed(stream)
    network = Hist2Cell(3, depth=1, dropout=0.0).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=1e-4)
    generator, losses = torch.Generator().manual_seed(stream), []
    for epoch in range(EPOCHS):
        optimiser.param_groups[0]["lr"] = 1e-5 + 0.5 * (1e-4 - 1e-5) * (1 + np.cos(np.pi * epoch / 20))
        for centres in torch.randperm(len(obs), generator=generator).split(CENTRES):
            nodes = np.flatnonzero((steps[centres.numpy()] <= 2).any(axis=0))
            edges = torch.from_numpy(np.stack(np.nonzero(steps[np.ix_(nodes, nodes)] == 1)))
            loss = F.mse_loss(network(images[nodes], edges), y[nodes])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return losses, network.state_dict()


def our_losses(data: FoldData, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[list[float], dict[str, Any]]:
    losses, own = [], Hist2CellTask.image_loss

    def kept(task: Hist2CellTask, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        loss = own(task, images, rows)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(Hist2CellTask, "image_loss", kept)
    model: Hist2CellModel = make(
        "hist2cell", dropout=0.0, epochs=EPOCHS, batch_size=CENTRES, lr=1e-4, min_lr=1e-5, **options
    )
    fitted = model.fit(data, JobContext())
    return losses, {name.removeprefix("network/"): array for name, array in fitted.arrays.items()}


def test_twenty_steps_have_the_losses_of_a_plain_loop(data: FoldData, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, weights = plain_losses(data)
    assert len(plain) == 20
    assert plain[-1] < 0.8 * plain[0]
    losses, state = our_losses(data, monkeypatch, checkpoint_activations=True, channels_last=False)
    np.testing.assert_allclose(losses, plain, rtol=1e-4, atol=1e-4)
    # A block that is computed twice has seen its batch once; counted twice, its mean would be a tenth farther from 0.
    for name, value in weights.items():
        if "num_batches" in name:
            assert int(state[name]) == 20
        elif "running" in name:
            assert np.linalg.norm(state[name] - value.numpy()) < 0.03 * np.linalg.norm(value), name


def saved_bytes(network: Hist2Cell, images: torch.Tensor, edges: torch.Tensor) -> int:
    """Return the bytes of all that a forward pass keeps for the backward one."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(images, edges).square().mean()
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    loss.backward()
    return sum(size for place, size in kept.items() if place not in weights)


def test_kept_activations_are_a_fifth_with_the_same_gradients() -> None:
    torch.manual_seed(0)
    images, edges = torch.randn(12, 3, 64, 64), torch.randint(0, 12, (2, 40))
    networks = [Hist2Cell(3, depth=1, dropout=0.0, checkpoint_activations=chosen).train() for chosen in (False, True)]
    networks[1].load_state_dict(networks[0].state_dict())
    plain, less = (saved_bytes(network, images, edges) for network in networks)
    assert less < plain / 4
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_a_stamp_says_what_changes_digits_and_calls_none_of_it_another_model() -> None:
    chosen = {"precision": "bf16-mixed", "channels_last": False, "checkpoint_activations": True}
    model = make("hist2cell", **chosen)
    spec = {"kind": "hist2cell", "settings": "default", "weights": "random", "graph": "square8", **chosen}
    assert digits_of(spec) == {"digits": {"precision": "bf16-mixed", "channels_last": False}}
    assert digits_of({**spec, "precision": "32-true", "channels_last": True}) == {}
    assert not {*chosen} & set(changed_settings(spec, model))
