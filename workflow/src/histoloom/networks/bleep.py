"""BLEEP: ResNet-50 and expression projected to one space; prediction by retrieval.

Xie et al., NeurIPS 2023, arXiv:2306.01859, section 3.1; public code bowang-lab/BLEEP.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from histoloom.networks.contrastive import ProjectionHead


class ImageEncoder(nn.Module):
    """A timm network without its classifier; (n, 3, h, w) to (n, n_features)."""

    def __init__(self, architecture: str = "resnet50", **options: Any) -> None:
        super().__init__()
        self.model: Any = timm.create_model(architecture, pretrained=False, num_classes=0, global_pool="avg", **options)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images)


class Bleep(nn.Module):
    """Image encoder and two projection heads; keys are those of the public checkpoints.

    Parameters
    ----------
    n_genes
        Length of the expression profile.
    architecture, options
        timm's name of the image encoder and its keyword arguments.
    """

    def __init__(
        self, n_genes: int, width: int = 256, dropout: float = 0.1, architecture: str = "resnet50", **options: Any
    ) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(architecture, **options)
        self.image_projection = ProjectionHead(self.image_encoder.model.num_features, width, dropout)
        self.spot_projection = ProjectionHead(n_genes, width, dropout)

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (n, 3, h, w) to (n, width)."""
        return self.image_projection(self.image_encoder(images))

    def embed_spots(self, expression: torch.Tensor) -> torch.Tensor:
        """Map expression (n, n_genes) to (n, width)."""
        return self.spot_projection(expression)

    def forward(self, images: torch.Tensor, expression: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both embeddings, each (n, width)."""
        return self.embed_images(images), self.embed_spots(expression)
