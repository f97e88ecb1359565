"""Encoders that timm builds: vision transformers and conv nets, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from histoloom.embeddings.tokens import token_block
from histoloom.embeddings.torch_encoder import TorchEncoder
from histoloom.errors import InputError


class TimmEncoder(TorchEncoder):
    """A timm model with the card's pooling."""

    @classmethod
    def build(cls, card: Mapping[str, Any], seed: int) -> Any:
        """Return the timm model; see `create_model`."""
        return create_model(card, seed)

    def _pooled(self, images: Any) -> Any:
        """Return (n, dim)."""
        import torch

        if self.tokens:
            return self._of_tokens(self._patches(self.model.forward_features(images)))
        layer = self.card["layer"]
        if layer is None:
            features = self.model.forward_features(images)
        else:
            features = self.model.forward_intermediates(images, indices=[layer], intermediates_only=True)[0]
        if features.ndim == 4:
            # Swin keeps its channels last.
            return features.mean(dim=(1, 2) if getattr(self.model, "output_fmt", "") == "NHWC" else (2, 3))
        first, patches = features[:, 0], self._patches(features).mean(dim=1)
        pooling = self.card["pooling"]
        return {"cls": first, "mean": patches}[pooling] if pooling != "cls_mean" else torch.cat([first, patches], 1)

    def _of_tokens(self, patches: Any) -> Any:
        settings = self.tokens or {}
        if settings["mode"] == "shared":
            return patches.flatten(1)
        block = token_block(np.zeros((1, 2)), 1.0, self.token_grid, int(settings["k"]))[0]
        return patches[:, block.tolist()].float().mean(dim=1)

    def _token_shape(self, model: Any) -> tuple[int, int]:
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        if grid is None or not hasattr(model, "num_prefix_tokens"):
            return super()._token_shape(model)
        return int(model.num_features), int(grid[0])

    def _patches(self, tokens: Any) -> Any:
        """Return the tokens that stand for patches: class and register tokens lead and are dropped."""
        return tokens[:, int(getattr(self.model, "num_prefix_tokens", 0)) :]


def create_model(card: Mapping[str, Any], seed: int) -> Any:
    """Build the card's architecture with seeded random weights; torch's global generator is left as it was."""
    import timm

    return seeded(card, seed, lambda kwargs: timm.create_model(card["arch"], pretrained=False, **kwargs))


def seeded(card: Mapping[str, Any], seed: int, make: Any) -> Any:
    """Call `make` with the card's arch_kwargs (classes by name) under a seed, then apply the card's ``norm_eps``."""
    import timm
    import torch

    kwargs = dict(card["arch_kwargs"])
    named = {"mlp_layer": timm.layers, "act_layer": torch.nn, "norm_layer": torch.nn}
    try:
        for key, module in named.items():
            if isinstance(kwargs.get(key), str):
                kwargs[key] = getattr(module, kwargs[key])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make(kwargs)
    except (RuntimeError, TypeError, AttributeError, AssertionError, ValueError) as error:
        problem = f"timm {timm.__version__} cannot build '{card['arch']}' ({error})."
        remedy = "fix arch and arch_kwargs."
        raise InputError(f"card {card['name']}", problem, remedy, code="encoder-architecture") from error
    if card.get("norm_eps") is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = float(card["norm_eps"])
    return model
