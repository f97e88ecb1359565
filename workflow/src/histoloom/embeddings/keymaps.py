"""Key names of published checkpoints in the names of the modules here; pure renaming, nothing is made up.

A card names its map (``checkpoint.keys``). What a map does not know keeps its name and then stops the strict loading.
timm's own ``checkpoint_filter_fn`` renames likewise, but also resamples positions, patches and bias tables of another
size in silence, where a card has to ask for it here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

State = dict[str, "torch.Tensor"]

_HF_COMMON = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
}
_HF_LAYER = {
    "attention.output.dense.": "attn.proj.",
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in.": "mlp.fc1.",
    "mlp.weights_out.": "mlp.fc2.",
}
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
_QKV = re.compile(r"attention\.attention\.(query|key|value)\.(weight|bias)")


def from_hf(state: Mapping[str, torch.Tensor]) -> State:
    """Rename the ViT or DINOv2 of Hugging Face transformers to timm's VisionTransformer; drops the mask token.

    With registers, the class token takes its position with it, since timm's registers have none (``no_embed_class``).
    """
    import torch

    renamed: State = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        layer = _LAYER.fullmatch(key)
        if key == "embeddings.mask_token":
            continue
        if layer is None:
            renamed[_start(key, _HF_COMMON)] = value
            continue
        number, rest = layer.groups()
        if (qkv := _QKV.fullmatch(rest)) is not None:
            parts.setdefault(f"blocks.{number}.attn.qkv.{qkv[2]}", {})[qkv[1]] = value
        else:
            renamed[f"blocks.{number}.{_start(rest, _HF_LAYER)}"] = value
    for key, three in parts.items():
        if set(three) == {"query", "key", "value"}:
            renamed[key] = torch.cat([three["query"], three["key"], three["value"]])
        else:
            renamed |= {f"{key} ({name})": value for name, value in three.items()}
    return _registers(renamed)


def from_dinov2(state: Mapping[str, torch.Tensor]) -> State:
    """Rename DINOv2's own checkpoints (``w12``, ``w3``, ``register_tokens``) to timm's; drops the mask token."""
    names = {".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2.", "register_tokens": "reg_token"}
    pattern = re.compile(r"\.mlp\.w(?:12|3)\.|^register_tokens$")
    kept = {key: value for key, value in state.items() if key != "mask_token"}
    return _registers({pattern.sub(lambda m: names[m[0]], key): value for key, value in kept.items()})


def from_old_swin(state: Mapping[str, torch.Tensor]) -> State:
    """Rename a Swin of timm before 0.9, which reduced at the end of a stage; buffers that sizes decide are dropped."""
    sizes = (".attn_mask", ".relative_position_index")
    kept = {key: value for key, value in state.items() if not key.endswith(sizes)}
    if "layers.0.downsample.reduction.weight" not in kept:
        return kept
    return {
        re.sub(r"^layers\.(\d+)(?=\.downsample)", lambda m: f"layers.{int(m[1]) + 1}", k): v for k, v in kept.items()
    }


def from_torchvision_densenet(state: Mapping[str, torch.Tensor]) -> State:
    """Rename torchvision's first DenseNet files (``norm.1``) to ``norm1``; newer files pass unchanged."""
    pattern = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)")
    return {m[1] + m[2] if (m := pattern.fullmatch(key)) else key: value for key, value in state.items()}


KEY_MAPS: Mapping[str, Callable[[Mapping[str, torch.Tensor]], State]] = {
    "hf": from_hf,
    "dinov2": from_dinov2,
    "old_swin": from_old_swin,
    "torchvision_densenet": from_torchvision_densenet,
}


def _start(key: str, names: Mapping[str, str]) -> str:
    return next((new + key.removeprefix(old) for old, new in names.items() if key.startswith(old)), key)


def _registers(state: State) -> State:
    if {"reg_token", "cls_token", "pos_embed"} <= set(state):
        position = state["pos_embed"]
        state = {**state, "cls_token": state["cls_token"] + position[:, :1], "pos_embed": position[:, 1:]}
    return state
