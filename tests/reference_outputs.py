"""Weights and inputs that follow from names, to compare networks with stored outputs of the official codes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "reference_outputs"
needs_reference = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no reference outputs at {FOLDER}")


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def normal(name: str, shape: Any) -> np.ndarray:
    return generator(name).standard_normal(tuple(shape))


def load_recipe(folder: str) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads((FOLDER / folder / "recipe.json").read_text())
    return recipe


def load_outputs(path: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / path) as stored:
        return dict(stored)


def paper_c_value(key: str, shape: Any) -> np.ndarray:
    """A weight by the recipe of reference_outputs/cmrcnet."""
    last, z = key.rpartition(".")[2], normal(key, shape)
    if last == "num_batches_tracked":
        return np.zeros(shape)
    if last == "running_var":
        return 1 + 0.1 * abs(z)
    if last == "running_mean":
        return 0.02 * z
    if key.endswith("projection.layer_norm.weight"):
        return 0.1 * (1 + 0.1 * abs(z))
    if len(shape) == 1:
        return 1 + 0.1 * abs(z) if last == "weight" else 0.02 * z
    if len(shape) == 3:
        return 0.2 * z
    return z / np.sqrt(np.prod(shape[1:]))


def prefixed_value(prefix: str) -> Callable[[str, Any], np.ndarray]:
    """A weight by the recipe of reference_outputs/hist2cell and cellsymphony."""

    def value(key: str, shape: Any) -> np.ndarray:
        z = normal(prefix + key, shape)
        if key.endswith("num_batches_tracked"):
            return np.zeros(shape)
        if key.endswith("running_var"):
            return 1 + 0.1 * abs(z)
        if key.endswith("running_mean"):
            return 0.02 * z
        if len(shape) >= 2:
            return z / np.sqrt(np.prod(shape[1:]))
        return 1 + 0.1 * abs(z) if key.endswith(".weight") else 0.02 * z

    return value


def fill(
    network: torch.nn.Module, value: Callable[[str, Any], np.ndarray], tied: Mapping[str, str] | None = None
) -> None:
    """Load weights made from the key names, strictly."""
    state = {}
    for key, tensor in network.state_dict().items():
        drawn = np.asarray(value((tied or {}).get(key, key), tuple(tensor.shape)), np.float32)
        state[key] = torch.from_numpy(drawn).to(tensor.dtype)
    network.load_state_dict(state, strict=True)


def without_dropout(network: torch.nn.Module) -> torch.nn.Module:
    """Set every dropout's p to 0, attention's own too."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.AlphaDropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    return network


def assert_grad_norms(network: torch.nn.Module, names: Any, norms: Any, rtol: float) -> None:
    """Compare every parameter's gradient norm; NaN stands for no gradient."""
    ours = dict(network.named_parameters())
    got = [np.nan if ours[str(n)].grad is None else float(ours[str(n)].grad.norm()) for n in names]
    np.testing.assert_allclose(got, np.asarray(norms, float), rtol=rtol, atol=1e-9)
