"""CMRCNet: contrastive alignment with a masked cross-modal reconstruction of the image embedding.

The paper's equations and its public code (ngfufdrdh/CMRCNet) differ; `Cmrcnet` is the code, `cmrcnet_loss` has both.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from histoloom.networks.contrastive import ProjectionHead, contrastive_losses


class _CrossAttention(nn.Module):
    """Attention whose values are made from the rectified queries and keys; added to the first value, no projection."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.fc_q = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        self.fc_k = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        self.fc_v1 = nn.Linear(dim, dim)
        self.fc_v2 = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def _split(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        queries, keys = self.dropout(self.fc_q(x)), self.dropout(self.fc_k(y))
        mixed = F.scaled_dot_product_attention(self._split(queries), self._split(keys), self._split(self.fc_v2(keys)))
        return self.fc_v1(queries) + mixed.transpose(1, 2).flatten(2)


class _Fusion(nn.Module):
    """Pre-norm self-attention and MLP over image tokens, then cross-attention to gene tokens."""

    def __init__(self, dim: int, heads: int, dropout: float, cross_dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads=heads, qkv_bias=True, proj_drop=dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, drop=dropout)
        self.cross_attention = _CrossAttention(dim, heads, cross_dropout)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x + self.cross_attention(x, y)


class Cmrcnet(nn.Module):
    """Image encoder, two projection heads and the reconstruction branch; keys are those of the public code.

    Parameters
    ----------
    n_genes
        Length of the expression profile.
    image_px, patch_px, depth, encoder_dim
        Of the vision transformer: ViT-B/32 with eight blocks by default, trained from scratch.
    mask_keep
        Share of elements of the image tokens that the mask keeps (the paper's mask rate is 1 - this).
    unused_classifier
        The public encoder carries a 768 to 1000 head that nothing uses; True keeps its keys.
    """

    def __init__(
        self,
        n_genes: int,
        image_px: int = 224,
        patch_px: int = 32,
        depth: int = 8,
        encoder_dim: int = 768,
        width: int = 256,
        n_gene_tokens: int = 8,
        mask_keep: float = 0.5,
        activation: Literal["elu", "selu"] = "elu",
        unused_classifier: bool = False,
    ) -> None:
        super().__init__()
        self.mask_keep, self.n_gene_tokens = mask_keep, n_gene_tokens
        self.image_encoder: Any = VisionTransformer(
            img_size=image_px,
            patch_size=patch_px,
            embed_dim=encoder_dim,
            depth=depth,
            num_heads=encoder_dim // 96,
            num_classes=1000 if unused_classifier else 0,
            global_pool="token",
        )
        self.image_projection = ProjectionHead(encoder_dim, width)
        self.spot_projection = ProjectionHead(n_genes, width)
        self.spot_projection_restruction = nn.Sequential(
            nn.Linear(n_genes, n_gene_tokens * width),
            nn.ELU() if activation == "elu" else nn.SELU(),
            nn.AlphaDropout(0.25),
        )
        self.latent_linear_768_2_256 = nn.Linear(encoder_dim, width)
        self.first_attention = nn.MultiheadAttention(width, width // 64, batch_first=True)
        fusion = _Fusion(width, heads=8, dropout=0.1, cross_dropout=0.25)
        # One module under two keys, as in the public code.
        self.cross_modal_image_layers = nn.ModuleList([fusion, fusion])

    def image_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Return all tokens (n, 1 + patches, encoder_dim), class token first."""
        return self.image_encoder.forward_features(images)

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """Map images to (n, width): the mean of all tokens, projected."""
        return self.image_projection(self.image_tokens(images).mean(1))

    def embed_spots(self, expression: torch.Tensor) -> torch.Tensor:
        """Map expression (n, n_genes) to (n, width)."""
        return self.spot_projection(expression)

    def gene_tokens(self, expression: torch.Tensor) -> torch.Tensor:
        """Return gene tokens (n, n_gene_tokens, width)."""
        return self.spot_projection_restruction(expression).unflatten(-1, (self.n_gene_tokens, -1))

    def attend(self, tokens: torch.Tensor, genes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return what masked image tokens read from gene tokens, (n, 1 + patches, width)."""
        queries = self.latent_linear_768_2_256(tokens) * mask
        return self.first_attention(queries, genes, genes, need_weights=False)[0]

    def forward(
        self, images: torch.Tensor, expression: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return image embeddings, spot embeddings and the reconstruction, each (n, width).

        Parameters
        ----------
        mask
            (n, 1 + patches, width), 1 where an element is kept; drawn when not given, in evaluation too.
        """
        tokens, genes = self.image_tokens(images), self.gene_tokens(expression)
        if mask is None:
            shape = (*tokens.shape[:2], genes.shape[-1])
            mask = (torch.rand(shape, device=tokens.device) < self.mask_keep).to(tokens.dtype)
        fused = self.attend(tokens, genes, mask)
        for layer in self.cross_modal_image_layers:
            fused = layer(fused, genes)
        return self.image_projection(tokens.mean(1)), self.embed_spots(expression), fused.mean(1)


def init_like_public_code(network: Cmrcnet) -> None:
    """Draw the image encoder as the public code does; other layers keep torch's defaults."""
    for module in network.image_encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(network.image_encoder.cls_token, std=0.02)
    nn.init.trunc_normal_(network.image_encoder.pos_embed, std=0.02)


def reconstruction_error(
    reconstruction: torch.Tensor, target: torch.Tensor, kind: Literal["mse", "cosine"] = "mse"
) -> torch.Tensor:
    """Return the error of the reconstructed embedding (n, width); gradients reach the target too."""
    if kind == "mse":
        return F.mse_loss(reconstruction, target)
    return (1 - F.cosine_similarity(reconstruction, target)).mean()


def cmrcnet_loss(
    images: torch.Tensor,
    spots: torch.Tensor,
    reconstruction: torch.Tensor | None,
    *,
    form: Literal["code", "paper"] = "code",
    temperature: float = 1.0,
    kind: Literal["mse", "cosine"] = "mse",
    target: Literal["image", "expression"] = "image",
) -> torch.Tensor:
    """Return the loss of a batch.

    Parameters
    ----------
    reconstruction
        (n, width); None is the ablation without reconstruction.
    form
        ``code``: mean over pairs of log(1 + half the sum of both cross-entropies), plus log(1 + error). ``paper``:
        log(1 + mean over pairs of the sum), plus the same.
    target
        What is reconstructed: the image embedding, or the spot embedding (ablation).
    """
    pairs = contrastive_losses(images, spots, temperature, halve=form == "code")
    loss = torch.log1p(pairs).mean() if form == "code" else torch.log1p(pairs.mean())
    if reconstruction is None:
        return loss
    return loss + torch.log1p(reconstruction_error(reconstruction, images if target == "image" else spots, kind))
