"""Stacked MLPs: their start, their forward pass, and the loss of the decomposition paper."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from histoloom.models.base import Spec

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]
# Below the square of any spread of interest; keeps the gradient of a square root finite at zero.
_TINY = 1e-24


@dataclass(frozen=True)
class MLPSpec(Spec):
    """Keys of ``model.mlp``."""

    hidden_layers: int
    width: int
    dropout: float
    init: str
    norm: str
    l1: float
    l2: float
    pearson_axis: str
    pearson_eps: float
    standardise_target: bool
    lr: float
    warmup_steps: int
    weight_decay: float
    batch_size: int
    epochs: int
    min_steps: int


def initial_layers(
    sizes: Sequence[int], init: str, generator: torch.Generator
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Draw one model's start; `sizes` are widths from input to output.

    ``pytorch``: U(-1/sqrt(in), 1/sqrt(in)) for weights and biases, as ``torch.nn.Linear``; ``he``: He et al. 2015,
    uniform, the last layer as above, biases 0.
    """
    layers = []
    for number, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        plain_bound = fan_in**-0.5
        hidden = number < len(sizes) - 2
        bound = (6 / fan_in) ** 0.5 if init == "he" and hidden else plain_bound
        weight = (torch.rand((fan_in, fan_out), generator=generator) * 2 - 1) * bound
        bias = (torch.rand(fan_out, generator=generator) * 2 - 1) * (0.0 if init == "he" else plain_bound)
        layers.append((weight, bias))
    return layers


def forward(
    x: torch.Tensor, layers: Layers, draw: Callable[[int], torch.Tensor] | None = None, *, norm: str = "none"
) -> torch.Tensor:
    """Run a stack of MLPs on (S, B, D), with (S, in, out) weights and (S, 1, out) biases; return (S, B, T).

    `norm` "layer": each observation's hidden units get zero mean and unit variance before the activation (Ba et al.
    2016, without gains), so that the signal neither fades nor grows over seven layers. `draw` gives, in training with
    dropout, the factors (S, B, width) that hidden units are multiplied with.
    """
    for weight, bias in layers[:-1]:
        x = torch.baddbmm(bias, x, weight)
        x = torch.nn.functional.silu(torch.nn.functional.layer_norm(x, x.shape[2:]) if norm == "layer" else x)
        if draw is not None:
            x = x * draw(x.shape[2])
    weight, bias = layers[-1]
    return torch.baddbmm(bias, x, weight)


def pearson(
    a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor, dim: int | tuple[int, ...], eps: float
) -> torch.Tensor:
    """Return Pearson's r as the paper's formula has it (section 2.1), along ``dim`` of masked entries."""
    n = mask.sum(dim, keepdim=True).clamp_min(1)
    a = (a - (a * mask).sum(dim, keepdim=True) / n) * mask
    b = (b - (b * mask).sum(dim, keepdim=True) / n) * mask
    norm_a = (a * a).sum(dim).clamp_min(_TINY).sqrt()
    norm_b = (b * b).sum(dim).clamp_min(_TINY).sqrt()
    return (a * b).sum(dim) / (norm_a * norm_b + eps)


def losses(prediction: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, spec: MLPSpec) -> torch.Tensor:
    """Return each model's (S,) loss: MSE + l1 MAE - l2 Pearson (decomposition paper, section 2.1).

    Prediction and labels are (S, B, T); the mask (S, B) is 1 for a row of the batch, 0 for padding.
    """
    full = mask[:, :, None].expand_as(prediction)
    count = full.sum((1, 2))
    error = (prediction - labels) * full
    total = error.square().sum((1, 2)) / count
    if spec.l1:
        total = total + spec.l1 * error.abs().sum((1, 2)) / count
    if spec.l2:
        eps = spec.pearson_eps
        if spec.pearson_axis == "type":
            r = pearson(prediction, labels, full, 1, eps).mean(1)
        elif spec.pearson_axis == "observation":
            r = (pearson(prediction, labels, full, 2, eps) * mask).sum(1) / mask.sum(1)
        else:
            r = pearson(prediction, labels, full, (1, 2), eps)
        total = total - spec.l2 * r
    return total
