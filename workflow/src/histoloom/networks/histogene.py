"""HisToGene: a vision transformer whose tokens are the spots of one section.

Pang et al., bioRxiv 2021, doi:10.1101/2021.11.28.470212; public code maxpmx/HisToGene.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_LONG = 2048
"""Above so many spots the backward pass computes a layer's activations anew: a third more time, the same gradients."""


class _PreNorm(nn.Module):
    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fn(self.norm(tokens))


class _Attention(nn.Module):
    """Self-attention of 64 dimensions per head whatever the width; no bias to q, k, v, no dropout on weights."""

    def __init__(self, dim: int, heads: int, dropout: float, dim_head: int = 64) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, heads * dim_head * 3, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(dropout))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        n_sections, n_spots, _ = tokens.shape
        packed = self.to_qkv(tokens).view(n_sections, n_spots, 3, self.heads, -1)
        queries, keys, values = packed.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.to_out(mixed.transpose(1, 2).reshape(n_sections, n_spots, -1))


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.net(tokens)


class _Transformer(nn.Module):
    def __init__(self, dim: int, n_layers: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    _PreNorm(dim, _Attention(dim, heads, dropout)),
                    _PreNorm(dim, _FeedForward(dim, hidden, dropout)),
                ]
            )
            for _ in range(n_layers)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        layers: Any = self.layers
        for layer in layers:
            if self.training and tokens.shape[1] > _LONG:
                tokens = checkpoint(_through, layer, tokens, use_reentrant=False)
            else:
                tokens = _through(layer, tokens)
        return tokens


def _through(layer: Any, tokens: torch.Tensor) -> torch.Tensor:
    attention, feed_forward = layer
    tokens = tokens + attention(tokens)
    return tokens + feed_forward(tokens)


class _ViT(nn.Module):
    def __init__(self, dim: int, n_layers: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.transformer = _Transformer(dim, n_layers, heads, hidden, dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.transformer(self.dropout(tokens))


class HisToGene(nn.Module):
    """Predict expression of all spots of a section at once.

    Parameters
    ----------
    patch_size
        Side of the square patches, px.
    n_pos
        Entries of each of the two position tables.
    """

    def __init__(
        self,
        n_genes: int,
        patch_size: int = 112,
        dim: int = 1024,
        n_layers: int = 8,
        heads: int = 16,
        n_pos: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(3 * patch_size**2, dim)
        self.x_embed = nn.Embedding(n_pos, dim)
        self.y_embed = nn.Embedding(n_pos, dim)
        self.vit = _ViT(dim, n_layers, heads, 2 * dim, dropout)
        self.gene_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, n_genes))

    def forward(self, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return expression (1, n, n_genes).

        Parameters
        ----------
        patches
            (1, n, 3 * patch_size**2), each flattened in the order x, y, channel.
        positions
            (1, n, 2) integers x, y below ``n_pos``.
        """
        tokens = self.patch_embedding(patches)
        tokens = tokens + self.x_embed(positions[..., 0]) + self.y_embed(positions[..., 1])
        return self.gene_head(self.vit(tokens))
