"""Published encoders once more: key names with shapes, and forward passes in plain torch from the tensors alone.

Written from the papers and the checkpoints' names, without timm: what the encoders of the library are held against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as f

Shapes = dict[str, tuple[int, ...]]
State = Mapping[str, torch.Tensor]


def random_state(shapes: Shapes, seed: int = 0, scale: float = 0.2) -> dict[str, torch.Tensor]:
    """Weights that matter: biases, scales and running statistics are not at their start."""
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(5)
            continue
        value = torch.randn(shape, generator=draw) * scale
        if len(shape) == 4:
            value *= math.sqrt(2 / math.prod(shape[1:])) / scale
        if len(shape) == 1 and name.endswith(".weight"):
            value += 1
        if name.endswith("running_var"):
            value = value.abs() + 0.8
        state[name] = value
    return state


# Key names ------------------------------------------------------------------------------------------------------------


def pair(name: str, out: int, *inner: int) -> Shapes:
    return {f"{name}.weight": (out, *inner), f"{name}.bias": (out,)}


def vit_shapes(
    dim: int, depth: int, patch: int, tokens: int, hidden: int, *, scales: bool, registers: int = 0, gated: bool = False
) -> Shapes:
    """timm's VisionTransformer without a head; `tokens` positions, which with registers leave the prefix out."""
    shapes: Shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, tokens, dim)}
    if registers:
        shapes["reg_token"] = (1, registers, dim)
    shapes |= pair("patch_embed.proj", dim, 3, patch, patch)
    for i in range(depth):
        b = f"blocks.{i}"
        shapes |= pair(f"{b}.norm1", dim) | pair(f"{b}.norm2", dim)
        shapes |= pair(f"{b}.attn.qkv", 3 * dim, dim) | pair(f"{b}.attn.proj", dim, dim)
        shapes |= pair(f"{b}.mlp.fc1", hidden, dim) | pair(f"{b}.mlp.fc2", dim, hidden // (2 if gated else 1))
        if scales:
            shapes |= {f"{b}.ls1.gamma": (dim,), f"{b}.ls2.gamma": (dim,)}
    return shapes | pair("norm", dim)


def conch_shapes(dim: int = 768, depth: int = 12, grid: int = 28, out: int = 512) -> Shapes:
    """The image tower of CONCH's checkpoint and some of what else is in it."""
    trunk = vit_shapes(dim, depth, 16, grid * grid + 1, 4 * dim, scales=False)
    shapes: Shapes = {f"visual.trunk.{k}": v for k, v in trunk.items()}
    for which, queries in (("contrast", 1), ("caption", 256)):
        p = f"visual.attn_pool_{which}"
        shapes |= {f"{p}.query": (queries, out), f"{p}.attn.in_proj_bias": (3 * out,)}
        shapes |= {f"{p}.attn.{n}_proj_weight": (out, dim if n in "kv" else out) for n in "qkv"}
        shapes |= pair(f"{p}.attn.out_proj", out, out) | pair(f"{p}.ln_q", out) | pair(f"{p}.ln_k", dim)
        shapes |= pair(f"visual.ln_{which}", out)
    shapes |= {"visual.proj_contrast": (out, out), "logit_scale": (), "text.cls_emb": (768,)}
    return shapes | {"text.positional_embedding": (128, 768), "text_decoder.text_projection": (768, 32007)}


def norm_shapes(name: str, dim: int) -> Shapes:
    stats = {f"{name}.running_mean": (dim,), f"{name}.running_var": (dim,), f"{name}.num_batches_tracked": ()}
    return pair(name, dim) | stats


def ctranspath_shapes(dim: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2), heads: int = 3, img: int = 224) -> Shapes:
    """CTransPath's checkpoint: Swin of timm 0.5 (reduction at the end of a stage, buffers kept), stem of convolutions."""
    stem = "patch_embed.proj"
    shapes: Shapes = {f"{stem}.0.weight": (dim // 8, 3, 3, 3), f"{stem}.3.weight": (dim // 4, dim // 8, 3, 3)}
    shapes |= norm_shapes(f"{stem}.1", dim // 8) | norm_shapes(f"{stem}.4", dim // 4)
    shapes |= pair(f"{stem}.6", dim, dim // 4, 1, 1) | pair("patch_embed.norm", dim)
    for s, depth in enumerate(depths):
        width, grid = dim * 2**s, img // 4 // 2**s
        for i in range(depth):
            b = f"layers.{s}.blocks.{i}"
            if i % 2 and grid > 7:
                shapes[f"{b}.attn_mask"] = ((grid // 7) ** 2, 49, 49)
            shapes |= {f"{b}.attn.relative_position_bias_table": (169, heads * 2**s)}
            shapes |= {f"{b}.attn.relative_position_index": (49, 49)}
            shapes |= pair(f"{b}.norm1", width) | pair(f"{b}.norm2", width)
            shapes |= pair(f"{b}.attn.qkv", 3 * width, width) | pair(f"{b}.attn.proj", width, width)
            shapes |= pair(f"{b}.mlp.fc1", 4 * width, width) | pair(f"{b}.mlp.fc2", width, 4 * width)
        if s < len(depths) - 1:
            shapes |= {f"layers.{s}.downsample.reduction.weight": (2 * width, 4 * width)}
            shapes |= pair(f"layers.{s}.downsample.norm", 4 * width)
    return shapes | pair("norm", dim * 2 ** (len(depths) - 1))


def resnet50_shapes() -> Shapes:
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7)} | norm_shapes("bn1", 64) | pair("fc", 1000, 2048)
    before = 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 1):
        for i in range(blocks):
            b = f"layer{stage}.{i}"
            for j, (out, inner, k) in enumerate([(width, before, 1), (width, width, 3), (4 * width, width, 1)], 1):
                shapes |= {f"{b}.conv{j}.weight": (out, inner, k, k)} | norm_shapes(f"{b}.bn{j}", out)
            if i == 0:
                shapes |= {f"{b}.downsample.0.weight": (4 * width, before, 1, 1)}
                shapes |= norm_shapes(f"{b}.downsample.1", 4 * width)
            before = 4 * width
    return shapes


def densenet121_shapes(dot: str = "") -> Shapes:
    """torchvision's names; its first files wrote ``norm.1`` for ``norm1`` and kept no counters."""
    shapes: Shapes = {"features.conv0.weight": (64, 3, 7, 7)} | norm_shapes("features.norm0", 64)
    width = 64
    for block, layers in enumerate((6, 12, 24, 16), 1):
        for i in range(1, layers + 1):
            p = f"features.denseblock{block}.denselayer{i}"
            shapes |= norm_shapes(f"{p}.norm{dot}1", width) | {f"{p}.conv{dot}1.weight": (128, width, 1, 1)}
            shapes |= norm_shapes(f"{p}.norm{dot}2", 128) | {f"{p}.conv{dot}2.weight": (32, 128, 3, 3)}
            width += 32
        if block < 4:
            t = f"features.transition{block}"
            shapes |= norm_shapes(f"{t}.norm", width) | {f"{t}.conv.weight": (width // 2, width, 1, 1)}
            width //= 2
    shapes |= norm_shapes("features.norm5", width) | pair("classifier", 1000, width)
    return {k: v for k, v in shapes.items() if not (dot and k.endswith("tracked"))}


def hf_shapes(dim: int, depth: int, patch: int, tokens: int, hidden: int, *, kind: str, registers: int = 0) -> Shapes:
    """Hugging Face transformers' ViTModel (``vit``) or Dinov2Model (``dinov2``, ``swiglu``)."""
    shapes: Shapes = {"embeddings.cls_token": (1, 1, dim), "embeddings.position_embeddings": (1, tokens + 1, dim)}
    shapes |= pair("embeddings.patch_embeddings.projection", dim, 3, patch, patch)
    if kind != "vit":
        shapes["embeddings.mask_token"] = (1, dim)
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, dim)
    for i in range(depth):
        p = f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            shapes |= pair(f"{p}.attention.attention.{name}", dim, dim)
        shapes |= pair(f"{p}.attention.output.dense", dim, dim)
        if kind == "vit":
            shapes |= pair(f"{p}.layernorm_before", dim) | pair(f"{p}.layernorm_after", dim)
            shapes |= pair(f"{p}.intermediate.dense", hidden, dim) | pair(f"{p}.output.dense", dim, hidden)
            continue
        shapes |= pair(f"{p}.norm1", dim) | pair(f"{p}.norm2", dim)
        shapes |= {f"{p}.layer_scale{j}.lambda1": (dim,) for j in (1, 2)}
        if kind == "swiglu":
            shapes |= pair(f"{p}.mlp.weights_in", 2 * hidden, dim) | pair(f"{p}.mlp.weights_out", dim, hidden)
        else:
            shapes |= pair(f"{p}.mlp.fc1", hidden, dim) | pair(f"{p}.mlp.fc2", dim, hidden)
    return shapes | pair("layernorm", dim)


# Forward passes -------------------------------------------------------------------------------------------------------


def linear(x: torch.Tensor, state: State, key: str) -> torch.Tensor:
    return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]


def layer_norm(x: torch.Tensor, state: State, key: str, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred / spread * state[f"{key}.weight"] + state[f"{key}.bias"]


def gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gated(x: torch.Tensor) -> torch.Tensor:
    gate, value = x.chunk(2, -1)
    return gate * torch.sigmoid(gate) * value


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, bias: Any = 0) -> torch.Tensor:
    """(n, queries, dim) and (n, keys, dim) twice -> (n, queries, dim)."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))
    scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(q.shape[-1]) + bias
    return torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), v).flatten(2)


def patches(images: torch.Tensor, state: State, key: str, patch: int) -> torch.Tensor:
    n, _, size, _ = images.shape
    grid = size // patch
    cut = images.reshape(n, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5).reshape(n, grid * grid, -1)
    weight = state[f"{key}.weight"]
    return cut @ weight.reshape(weight.shape[0], -1).T + state[f"{key}.bias"]


def vit(state: State, images: torch.Tensor, heads: int, patch: int, eps: float = 1e-6) -> torch.Tensor:
    """Tokens (n, prefix + patches, dim) of timm's names (Dosovitskiy et al. 2021, eq. 1-4; pre-norm)."""
    n = len(images)
    tokens = patches(images, state, "patch_embed.proj", patch)
    prefix = [state["cls_token"].expand(n, -1, -1)]
    if "reg_token" in state:
        prefix.append(state["reg_token"].expand(n, -1, -1))
        tokens = torch.cat([*prefix, tokens + state["pos_embed"]], 1)
    else:
        tokens = torch.cat([*prefix, tokens], 1) + state["pos_embed"]
    for i in range(1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))):
        b = f"blocks.{i}"
        q, k, v = linear(layer_norm(tokens, state, f"{b}.norm1", eps), state, f"{b}.attn.qkv").chunk(3, -1)
        tokens = tokens + linear(attend(q, k, v, heads), state, f"{b}.attn.proj") * state.get(f"{b}.ls1.gamma", 1)
        hidden = linear(layer_norm(tokens, state, f"{b}.norm2", eps), state, f"{b}.mlp.fc1")
        packed = state[f"{b}.mlp.fc2.weight"].shape[1] * 2 == hidden.shape[-1]
        hidden = gated(hidden) if packed else gelu(hidden)
        tokens = tokens + linear(hidden, state, f"{b}.mlp.fc2") * state.get(f"{b}.ls2.gamma", 1)
    return layer_norm(tokens, state, "norm", eps)


def hf(state: State, images: torch.Tensor, heads: int, patch: int, eps: float) -> torch.Tensor:
    """Tokens of Hugging Face's names: positions for class token and patches, registers slipped in after."""
    n = len(images)
    first = state["embeddings.cls_token"].expand(n, -1, -1)
    tokens = torch.cat([first, patches(images, state, "embeddings.patch_embeddings.projection", patch)], 1)
    tokens = tokens + state["embeddings.position_embeddings"]
    if "embeddings.register_tokens" in state:
        registers = state["embeddings.register_tokens"].expand(n, -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)
    for i in range(1 + max(int(k.split(".")[2]) for k in state if k.startswith("encoder.layer."))):
        p = f"encoder.layer.{i}"
        old = f"{p}.layernorm_before.weight" in state
        normed = layer_norm(tokens, state, f"{p}.layernorm_before" if old else f"{p}.norm1", eps)
        q, k, v = (linear(normed, state, f"{p}.attention.attention.{name}") for name in ("query", "key", "value"))
        mixed = linear(attend(q, k, v, heads), state, f"{p}.attention.output.dense")
        tokens = tokens + mixed * state.get(f"{p}.layer_scale1.lambda1", 1)
        normed = layer_norm(tokens, state, f"{p}.layernorm_after" if old else f"{p}.norm2", eps)
        if old:
            hidden = linear(gelu(linear(normed, state, f"{p}.intermediate.dense")), state, f"{p}.output.dense")
        elif f"{p}.mlp.fc1.weight" in state:
            hidden = linear(gelu(linear(normed, state, f"{p}.mlp.fc1")), state, f"{p}.mlp.fc2")
        else:
            hidden = linear(gated(linear(normed, state, f"{p}.mlp.weights_in")), state, f"{p}.mlp.weights_out")
        tokens = tokens + hidden * state.get(f"{p}.layer_scale2.lambda1", 1)
    return layer_norm(tokens, state, "layernorm", eps)


def conch(state: State, images: torch.Tensor, heads: int, pool_heads: int = 8) -> torch.Tensor:
    """The vector before proj_contrast, of the checkpoint's names."""
    trunk = {k.removeprefix("visual.trunk."): v for k, v in state.items() if k.startswith("visual.trunk.")}
    p = "visual.attn_pool_contrast"
    keys = layer_norm(vit(trunk, images, heads, 16), state, f"{p}.ln_k", 1e-5)
    query = layer_norm(state[f"{p}.query"], state, f"{p}.ln_q", 1e-5).expand(len(images), 1, -1)
    bias = state[f"{p}.attn.in_proj_bias"].chunk(3)
    q, k, v = (
        x @ state[f"{p}.attn.{n}_proj_weight"].T + b for x, n, b in zip((query, keys, keys), "qkv", bias, strict=True)
    )
    pooled = linear(attend(q, k, v, pool_heads), state, f"{p}.attn.out_proj")[:, 0]
    return layer_norm(pooled, state, "visual.ln_contrast", 1e-5)


def batch_norm(x: torch.Tensor, state: State, key: str) -> torch.Tensor:
    w, b, mean, var = (state[f"{key}.{n}"].view(1, -1, 1, 1) for n in ("weight", "bias", "running_mean", "running_var"))
    return (x - mean) / (var + 1e-5).sqrt() * w + b


def convolve(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """A convolution as one product over cut-out windows."""
    n, size, k = len(x), x.shape[2], weight.shape[2]
    side = (size + 2 * padding - k) // stride + 1
    columns = f.unfold(x, k, padding=padding, stride=stride)
    return (weight.flatten(1) @ columns).reshape(n, -1, side, side)


def ctranspath(state: State, images: torch.Tensor, heads: int = 3) -> torch.Tensor:
    """Mean over the last map, of the checkpoint's (old) names; Liu et al. 2021, section 3, windows of 7."""
    stem = "patch_embed.proj"
    x = batch_norm(convolve(images, state[f"{stem}.0.weight"], 2, 1), state, f"{stem}.1").clamp(min=0)
    x = batch_norm(convolve(x, state[f"{stem}.3.weight"], 2, 1), state, f"{stem}.4").clamp(min=0)
    x = convolve(x, state[f"{stem}.6.weight"], 1, 0) + state[f"{stem}.6.bias"].view(1, -1, 1, 1)
    x = layer_norm(x.permute(0, 2, 3, 1), state, "patch_embed.norm", 1e-5)
    for s in range(1 + max(int(k.split(".")[1]) for k in state if k.startswith("layers."))):
        for i in range(1 + max(int(k.split(".")[3]) for k in state if k.startswith(f"layers.{s}.blocks."))):
            shift = 3 if i % 2 and x.shape[1] > 7 else 0
            x = _swin_block(x, state, f"layers.{s}.blocks.{i}", heads * 2**s, shift)
        if f"layers.{s}.downsample.reduction.weight" in state:
            four = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
            normed = layer_norm(four, state, f"layers.{s}.downsample.norm", 1e-5)
            x = normed @ state[f"layers.{s}.downsample.reduction.weight"].T
    return layer_norm(x, state, "norm", 1e-5).mean((1, 2))


def _swin_block(x: torch.Tensor, state: State, b: str, heads: int, shift: int) -> torch.Tensor:
    """Each px attends, one by one, to those of its window that were its neighbours before the shift."""
    n, size, _, dim = x.shape
    normed = layer_norm(x, state, f"{b}.norm1", 1e-5)
    q, k, v = linear(normed, state, f"{b}.attn.qkv").chunk(3, -1)
    table = state[f"{b}.attn.relative_position_bias_table"]
    mixed = torch.empty_like(x)
    # Windows of the shifted frame, cut where it wraps around.
    edges = [0, *range(shift or 7, size, 7), size]
    for top, bottom in pairwise(edges):
        for left, right in pairwise(edges):
            rows, cols = torch.meshgrid(torch.arange(top, bottom), torch.arange(left, right), indexing="ij")
            rows, cols = rows.flatten(), cols.flatten()
            dy, dx = rows[:, None] - rows[None], cols[:, None] - cols[None]
            bias = table[(dy + 6) * 13 + dx + 6].permute(2, 0, 1)
            window = attend(q[:, rows, cols], k[:, rows, cols], v[:, rows, cols], heads, bias)
            mixed[:, rows, cols] = window
    x = x + linear(mixed, state, f"{b}.attn.proj")
    hidden = gelu(linear(layer_norm(x, state, f"{b}.norm2", 1e-5), state, f"{b}.mlp.fc1"))
    return x + linear(hidden, state, f"{b}.mlp.fc2")


def resnet50(state: State, images: torch.Tensor) -> torch.Tensor:
    """Mean over the third stage's map (He et al. 2015; stride in the 3 x 3, as torchvision has it)."""
    x = batch_norm(convolve(images, state["conv1.weight"], 2, 3), state, "bn1").clamp(min=0)
    x = f.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6), 1):
        for i in range(blocks):
            b = f"layer{stage}.{i}"
            stride = 2 if stage > 1 and i == 0 else 1
            y = batch_norm(convolve(x, state[f"{b}.conv1.weight"], 1, 0), state, f"{b}.bn1").clamp(min=0)
            y = batch_norm(convolve(y, state[f"{b}.conv2.weight"], stride, 1), state, f"{b}.bn2").clamp(min=0)
            y = batch_norm(convolve(y, state[f"{b}.conv3.weight"], 1, 0), state, f"{b}.bn3")
            if i == 0:
                x = convolve(x, state[f"{b}.downsample.0.weight"], stride, 0)
                x = batch_norm(x, state, f"{b}.downsample.1")
            x = (x + y).clamp(min=0)
    return x.mean((2, 3))


def densenet121(state: State, images: torch.Tensor) -> torch.Tensor:
    """Mean over the last map after its norm and ReLU (Huang et al. 2017)."""
    x = batch_norm(convolve(images, state["features.conv0.weight"], 2, 3), state, "features.norm0").clamp(min=0)
    x = f.max_pool2d(x, 3, 2, 1)
    for block, layers in enumerate((6, 12, 24, 16), 1):
        for i in range(1, layers + 1):
            p = f"features.denseblock{block}.denselayer{i}"
            y = convolve(batch_norm(x, state, f"{p}.norm1").clamp(min=0), state[f"{p}.conv1.weight"], 1, 0)
            y = convolve(batch_norm(y, state, f"{p}.norm2").clamp(min=0), state[f"{p}.conv2.weight"], 1, 1)
            x = torch.cat([x, y], 1)
        if block < 4:
            t = f"features.transition{block}"
            x = f.avg_pool2d(
                convolve(batch_norm(x, state, f"{t}.norm").clamp(min=0), state[f"{t}.conv.weight"], 1, 0), 2
            )
    return batch_norm(x, state, "features.norm5").clamp(min=0).mean((2, 3))
