"""Projection head and contrastive loss with soft targets, shared by BLEEP and CMRCNet.

BLEEP: Xie et al., NeurIPS 2023, arXiv:2306.01859, section 3; public code bowang-lab/BLEEP.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


class ProjectionHead(nn.Module):
    """Map features to the shared space: y = LayerNorm(p + dropout(W2 gelu(p))), p = W1 x.

    Shapes: (n, n_features) to (n, width).
    """

    def __init__(self, n_features: int, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Linear(n_features, width)
        self.gelu = nn.GELU()
        self.fc = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        projected = self.projection(features)
        return self.layer_norm(self.dropout(self.fc(self.gelu(projected))) + projected)


def similarity_logits(images: torch.Tensor, spots: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return (n, n) logits: rows are spots, columns images; embeddings are not normalised."""
    return spots @ images.T / temperature


def soft_targets(
    images: torch.Tensor,
    spots: torch.Tensor,
    temperature: float = 1.0,
    temperature_in_targets: Literal["multiply", "divide"] = "multiply",
) -> torch.Tensor:
    """Return (n, n) targets: softmax by rows of the mean of image-image and spot-spot similarity.

    CMRCNet's code multiplies by the temperature, BLEEP's ResNet class divides; they are equal at 1.
    """
    similarity = (images @ images.T + spots @ spots.T) / 2
    scale = temperature if temperature_in_targets == "multiply" else 1 / temperature
    return F.softmax(similarity * scale, dim=-1)


def contrastive_losses(
    images: torch.Tensor,
    spots: torch.Tensor,
    temperature: float = 1.0,
    temperature_in_targets: Literal["multiply", "divide"] = "multiply",
    detach_targets: bool = False,
    halve: bool = True,
) -> torch.Tensor:
    """Return the loss of each pair (n,): cross-entropy of spots to images and images to spots.

    Parameters
    ----------
    images, spots
        (n, width) embeddings; row i of both is one observation.
    detach_targets
        Whether gradients stop at the soft targets. In the public codes they do not.
    halve
        Mean of the two cross-entropies (public codes); False is their sum (CMRCNet paper).
    """
    logits = similarity_logits(images, spots, temperature)
    targets = soft_targets(images, spots, temperature, temperature_in_targets)
    if detach_targets:
        targets = targets.detach()
    of_spots = -(targets * F.log_softmax(logits, dim=-1)).sum(1)
    of_images = -(targets.T * F.log_softmax(logits.T, dim=-1)).sum(1)
    total = of_spots + of_images
    return total / 2 if halve else total
