"""Hist2Cell: ResNet-18, graph attention and a transformer over the spots of a batch.

Zhao et al., Cell Genomics 2025 (bioRxiv 2024, doi:10.1101/2024.02.17.580852); public code Weiqin-Zhao/Hist2Cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

WIDTH = 256


def with_self_loops(edges: torch.Tensor, n_nodes: int) -> torch.Tensor:
    """Return edges (2, E) with exactly one self loop per node."""
    nodes = torch.arange(n_nodes, device=edges.device)
    return torch.cat([edges[:, edges[0] != edges[1]], nodes.expand(2, -1)], dim=1)


class GATv2(nn.Module):
    """Graph attention of Brody et al. 2022 (arXiv:2105.14491): heads concatenated, one bias, no residual.

    ``lin_l`` carries the messages of the sources, ``lin_r`` the targets. (n, n_features) to (n, heads * width).
    """

    def __init__(self, n_features: int, width: int = 32, heads: int = 8, slope: float = 0.2) -> None:
        super().__init__()
        self.heads, self.slope = heads, slope
        self.lin_l = nn.Linear(n_features, heads * width)
        self.lin_r = nn.Linear(n_features, heads * width)
        self.att = nn.Parameter(torch.empty(1, heads, width))
        self.bias = nn.Parameter(torch.zeros(heads * width))
        for weight in (self.lin_l.weight, self.lin_r.weight, self.att):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.lin_l.bias)
        nn.init.zeros_(self.lin_r.bias)

    def forward(self, features: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        n_nodes = len(features)
        source, target = with_self_loops(edges, n_nodes)
        messages = self.lin_l(features).unflatten(-1, (self.heads, -1))
        targets = self.lin_r(features).unflatten(-1, (self.heads, -1))
        scores = (F.leaky_relu(messages[source] + targets[target], self.slope) * self.att).sum(-1)
        by_target = target[:, None].expand_as(scores)
        highest = scores.new_full((n_nodes, self.heads), -torch.inf)
        highest = highest.scatter_reduce(0, by_target, scores.detach(), "amax")
        weights = (scores - highest[target]).exp()
        sums = weights.new_zeros(n_nodes, self.heads).index_add(0, target, weights)
        weighted = messages[source] * (weights / sums[target]).unsqueeze(-1)
        return weighted.new_zeros(messages.shape).index_add(0, target, weighted).flatten(1) + self.bias


class GraphNorm(nn.Module):
    """One mean and one population standard deviation over all nodes and channels of the batch."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        centred = features - features.mean()
        return centred / (centred.std(correction=0) + self.eps) * self.weight + self.bias


@contextmanager
def _running_statistics_kept(block: nn.Module) -> Iterator[None]:
    """Leave the running mean and variance as they are: a second pass over the same batch must not count twice."""
    norms = [part for part in block.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [
        (norm.momentum, norm.num_batches_tracked.clone()) for norm in norms if norm.num_batches_tracked is not None
    ]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, torch.zeros_like(norm.num_batches_tracked)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of a block's first pass and of its second one."""
    return nullcontext(), _running_statistics_kept(block)


class _Mlp(nn.Module):
    """Linear, GELU, linear; dropout before each linear layer."""

    def __init__(self, n_in: int, hidden: int, n_out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_in, hidden)
        self.fc2 = nn.Linear(hidden, n_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.dropout(F.gelu(self.fc1(self.dropout(features)))))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.weight_dropout = nn.Dropout(dropout)
        self.proj_dropout = nn.Dropout(dropout)

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        queries, keys, values = self.qkv(nodes).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        dropout = self.weight_dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries[None], keys[None], values[None], dropout_p=dropout)[0]
        return self.proj_dropout(self.proj(mixed.transpose(0, 1).flatten(1)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = _Mlp(width, hidden, width, dropout)

    def forward(self, nodes: torch.Tensor) -> torch.Tensor:
        nodes = nodes + self.attn(self.norm1(nodes))
        return nodes + self.mlp(self.norm2(nodes))


class _CellTransformer(nn.Module):
    """All nodes of the batch as one sequence, no positions; returns features and the rectified prediction."""

    def __init__(self, width: int, n_types: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, 8, 2 * width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = _Mlp(width, width // 2, n_types)

    def forward(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for block in self.blocks:
            nodes = block(nodes)
        features = self.norm(nodes)
        return features, F.relu(self.head(features))


@dataclass(frozen=True)
class Branches:
    """Features (n, 256) and predictions (n, n_types) of the four branches."""

    gat: torch.Tensor
    local_features: torch.Tensor
    spot_features: torch.Tensor
    global_features: torch.Tensor
    spot: torch.Tensor
    local: torch.Tensor
    whole: torch.Tensor
    fused: torch.Tensor

    @property
    def merged(self) -> torch.Tensor:
        """Return the mean of the four predictions, before the last ReLU."""
        return (self.spot + self.local + self.whole + self.fused) / 4


class Hist2Cell(nn.Module):
    """Predict abundance of n_types for every node of a batch; keys are those of the public checkpoints.

    A prediction depends on what else is in the batch: `norm1` and the transformer see all its nodes.

    Parameters
    ----------
    rectify
        Whether predictions end in a ReLU. The training notebook of 2024 trains without it.
    checkpoint_activations
        Whether training keeps only what each block of the image network is given and computes the rest again: a
        fifth of the memory for a forward pass more. The image network holds nearly all of it.
    """

    def __init__(
        self,
        n_types: int,
        depth: int = 3,
        dropout: float = 0.3,
        rectify: bool = True,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        trunk: Any = timm.create_model("resnet18", pretrained=False)
        self.resnet18 = nn.Sequential(
            trunk.conv1,
            trunk.bn1,
            trunk.act1,
            trunk.maxpool,
            trunk.layer1,
            trunk.layer2,
            trunk.layer3,
            trunk.layer4,
        )
        self.conv1 = GATv2(512)
        self.norm1 = GraphNorm(WIDTH)
        self.cell_transformer = _CellTransformer(WIDTH, n_types, depth, dropout)
        self.spot_fc = nn.Linear(512, WIDTH)
        self.spot_head = _Mlp(WIDTH, 4 * WIDTH, n_types)
        self.local_head = _Mlp(WIDTH, 4 * WIDTH, n_types)
        self.fused_head = _Mlp(WIDTH, 4 * WIDTH, n_types)
        self.rectify = rectify
        self.checkpoint_activations = checkpoint_activations

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, 512) of images (n, 3, h, w); in eval mode they do not depend on the batch."""
        if not (self.checkpoint_activations and torch.is_grad_enabled()):
            return self.resnet18(images).mean((-2, -1))
        layers = list(self.resnet18.children())
        for block in (nn.Sequential(*layers[:4]), *(block for layer in layers[4:] for block in layer.children())):
            images = checkpoint(block, images, use_reentrant=False, context_fn=partial(_contexts, block))
        return images.mean((-2, -1))

    def branches(self, features: torch.Tensor, edges: torch.Tensor) -> Branches:
        """Return all branches from image features (n, 512) and edges (2, E), source over target."""
        gat = self.conv1(features, edges)
        local = self.norm1(gat)
        spot = self.spot_fc(features)
        whole, whole_prediction = self.cell_transformer(local)
        fused = (spot + local + whole) / 3
        return Branches(
            gat,
            local,
            spot,
            whole,
            self.spot_head(spot),
            self.local_head(local),
            whole_prediction,
            self.fused_head(fused),
        )

    def predict_from_features(self, features: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Return predictions (n, n_types) from image features."""
        merged = self.branches(features, edges).merged
        return F.relu(merged) if self.rectify else merged

    def forward(self, images: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.predict_from_features(self.image_features(images), edges)
