"""Architectures with seeded random weights: timm's, and two that it lacks, whose modules bear the checkpoints' names.

CONCH's image tower: Lu et al., Nat. Med. 30 (2024) 863, doi:10.1038/s41591-024-02856-4 (a CoCa; Yu et al. 2022, section
3.2). CTransPath's Swin behind convolutions: Wang et al., Med. Image Anal. 81 (2022) 102559,
doi:10.1016/j.media.2022.102559, section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histoloom.errors import InputError


def seeded(card: Mapping[str, Any], seed: int, make: Any) -> Any:
    """Call `make` with the card's arch_kwargs (classes by name) under a seed, then apply the card's ``norm_eps``.

    Torch's global generator is left as it was.
    """
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


def conch_tower(trunk_kwargs: Mapping[str, Any], *, dim: int = 512, heads: int = 8) -> Any:
    """Return a ViT and its attentional pooler of one learnt query: images (n, 3, h, w) to (n, dim)."""
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    class Pooler(nn.Module):
        """One learnt query over all tokens of the trunk, class token included."""

        def __init__(self, width: int) -> None:
            import torch

            super().__init__()
            self.query = nn.Parameter(torch.randn(1, dim))
            self.attn = nn.MultiheadAttention(dim, heads, kdim=width, vdim=width, batch_first=True)
            self.ln_q = nn.LayerNorm(dim)
            self.ln_k = nn.LayerNorm(width)

        def forward(self, tokens: Any) -> Any:
            keys = self.ln_k(tokens)
            query = self.ln_q(self.query).unsqueeze(0).expand(len(tokens), -1, -1)
            return self.attn(query, keys, keys, need_weights=False)[0][:, 0]

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = VisionTransformer(**trunk_kwargs)
            self.attn_pool_contrast = Pooler(self.trunk.num_features)
            self.ln_contrast = nn.LayerNorm(dim)

        def forward(self, images: Any) -> Any:
            return self.ln_contrast(self.attn_pool_contrast(self.trunk.forward_features(images)))

    return Tower()


def conv_stem_swin(kwargs: Mapping[str, Any]) -> Any:
    """Return timm's SwinTransformer with CTransPath's stem; its map is (n, h, w, channels)."""
    from timm.models.swin_transformer import SwinTransformer
    from torch import nn

    class ConvStem(nn.Module):
        """3x3 stride 2 twice, then 1x1, in the place of the 4x4 patch embedding."""

        def __init__(self, *, img_size: int, patch_size: int, embed_dim: int, norm_layer: Any = None, **_: Any) -> None:
            super().__init__()
            self.grid_size = (img_size // patch_size, img_size // patch_size)
            layers: list[nn.Module] = []
            before = 3
            for after in (embed_dim // 8, embed_dim // 4):
                layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after)]
                layers += [nn.ReLU(inplace=True)]
                before = after
            self.proj = nn.Sequential(*layers, nn.Conv2d(before, embed_dim, 1))
            self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

        def forward(self, images: Any) -> Any:
            return self.norm(self.proj(images).permute(0, 2, 3, 1))

    return SwinTransformer(embed_layer=ConvStem, **kwargs)
