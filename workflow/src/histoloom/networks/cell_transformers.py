"""The four transformers of the CellSymphony paper and its contrastive projections.

Keys are those of the public code (paulhacosta/xenium_project). What it calls relative positional attention has one key,
the cell's own position, repeated: in evaluation it adds a constant to each token, and no other cell takes part.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

Kind = Literal["unimodal", "spatial", "dual", "multi"]
_GENE_PROJECTION = {"unimodal": "input_proj", "spatial": "feature_proj", "dual": "gene_proj", "multi": "gene_proj"}


class PositionEncoding(nn.Module):
    """Sine and cosine of 2 pi x and 2 pi y, then a linear layer; (n, 2) to (n, width).

    Parameters
    ----------
    frequencies
        Multiples of one period; the public code has (1,).
    """

    def __init__(self, width: int, frequencies: tuple[float, ...] = (1.0,)) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.proj = nn.Linear(4 * len(frequencies), width)

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        parts = []
        for frequency in self.frequencies:
            # The phase is formed in this order in float32: at 5e4 px another order is off by 0.02 rad.
            phase = (coordinates * frequency * 2) * math.pi
            x, y = phase[:, :1], phase[:, 1:]
            parts += [x.sin(), x.cos(), y.sin(), y.cos()]
        return self.proj(torch.cat(parts, 1))


class PositionLayer(nn.TransformerEncoderLayer):
    """A post-norm encoder layer with an attention to the cell's own position between its two halves."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(width, heads, hidden, dropout, batch_first=True)
        self.pos_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.pos_norm = nn.LayerNorm(width)

    def attend(self, tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Return tokens (n, s, width) after the layer; position is (n, width)."""
        tokens = self.norm1(tokens + self._sa_block(tokens, None, None))
        keys = position[:, None].expand(-1, tokens.shape[1], -1)
        tokens = self.pos_norm(tokens + self.pos_attn(tokens, keys, keys, need_weights=False)[0])
        return self.norm2(tokens + self._ff_block(tokens))


class CellTransformer(nn.Module):
    """Classify cells from embeddings of genes and morphology and from their place.

    Parameters
    ----------
    kind
        ``unimodal``: genes; ``spatial``: genes and position as tokens; ``dual``: genes and morphology; ``multi``: genes
        and morphology, position through `PositionLayer` only.
    """

    def __init__(
        self,
        kind: Kind,
        n_classes: int,
        gene_dim: int = 512,
        morph_dim: int = 1536,
        width: int = 512,
        heads: int = 8,
        n_layers: int = 6,
        hidden: int = 2048,
        dropout: float = 0.1,
        frequencies: tuple[float, ...] = (1.0,),
    ) -> None:
        super().__init__()
        self.kind = kind
        self.add_module(_GENE_PROJECTION[kind], nn.Linear(gene_dim, width))
        if kind in ("dual", "multi"):
            self.morph_proj = nn.Linear(morph_dim, width)
            self.gene_type = nn.Parameter(torch.randn(1, width))
            self.morph_type = nn.Parameter(torch.randn(1, width))
        self.has_position = kind in ("spatial", "multi")
        if self.has_position:
            self.spatial_pe = PositionEncoding(width, frequencies)
            self.layers = nn.ModuleList(PositionLayer(width, heads, hidden, dropout) for _ in range(n_layers))
        else:
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(width, heads, hidden, dropout, batch_first=True) for _ in range(n_layers)
            )
        self.classifier = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_classes))

    def tokens(
        self, genes: torch.Tensor, morphology: torch.Tensor | None, position: torch.Tensor | None
    ) -> torch.Tensor:
        """Return tokens (n, s, width) before the first layer; position is encoded, (n, width)."""
        gene = self.get_submodule(_GENE_PROJECTION[self.kind])(genes)
        if self.kind == "unimodal":
            return gene[:, None]
        if position is not None and self.kind == "spatial":
            return torch.stack([gene, position], 1)
        return torch.stack([gene + self.gene_type, self.morph_proj(morphology) + self.morph_type], 1)

    def forward(
        self,
        genes: torch.Tensor,
        morphology: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits (n, n_classes).

        Parameters
        ----------
        genes, morphology
            (n, gene_dim) and (n, morph_dim).
        coordinates
            (n, 2), in periods of the position encoding. The public code passes pixels, which makes them a hash of the
            sub-pixel remainder.
        """
        position = self.spatial_pe(coordinates) if self.has_position else None
        tokens = self.tokens(genes, morphology, position)
        layers: Any = self.layers
        for layer in layers:
            tokens = layer.attend(tokens, position) if self.has_position else layer(tokens)
        return self.classifier(tokens.mean(1))


class AlignmentHead(nn.Module):
    """Project an embedding to the shared space of genes and morphology: linear, ReLU, linear."""

    def __init__(self, n_features: int, hidden: int = 256, width: int = 128) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.net(features)


def info_nce(
    genes: torch.Tensor, morphology: torch.Tensor, temperature: float = 0.07
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return InfoNCE of genes to morphology and back; rows are pairs, normalised here."""
    logits = F.normalize(genes, dim=1) @ F.normalize(morphology, dim=1).T / temperature
    pairs = torch.arange(len(genes), device=genes.device)
    return F.cross_entropy(logits, pairs), F.cross_entropy(logits.T, pairs)
