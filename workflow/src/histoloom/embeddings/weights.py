"""Weights of an encoder: from the hub (pinned, cached), a file or a seed; loaded strictly, never unpickled as code."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoloom.embeddings.cards import EncoderSpec
from histoloom.embeddings.keymaps import KEY_MAPS
from histoloom.errors import InputError, first_few
from histoloom.hub import TOKEN_VARIABLE, commit_of, hub_error, is_commit

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_COUNTER = ".num_batches_tracked"
State = dict[str, "torch.Tensor"]


def read_state(path: Path, card: Mapping[str, Any]) -> State:
    """Read the tensors of a checkpoint under the names of the modules here; a pickle's code does not run.

    The card's ``checkpoint`` gives ``key`` of the state dict in a wrapping dict (taken where it is there), ``prefix``
    to take off, ``ignore`` (patterns of keys without use for the encoder) and ``keys`` (a renaming of `keymaps`).
    """
    import torch

    state = _read_file(path)
    where = card["checkpoint"]
    key = where.get("key")
    if key and isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
        state = state[key]
    if not isinstance(state, Mapping) or not state or not all(map(torch.is_tensor, state.values())):
        remedy = "use the file that the card names."
        raise InputError(path, "holds no dict of tensors by name.", remedy, code="weights-no-tensors")
    prefix = where.get("prefix") or ""
    state = {str(name).removeprefix(prefix): value for name, value in state.items()}
    patterns = where.get("ignore") or []
    ignored = [name for name in state if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if ignored:
        logger.info("%s: %d keys without use are left out: %s", path.name, len(ignored), first_few(ignored))
    state = {name: value for name, value in state.items() if name not in set(ignored)}
    if where.get("keys"):
        state = KEY_MAPS[where["keys"]](state)
    bad = [k for k, v in state.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if bad:
        problem = f"NaN or infinity in the weights: {first_few(bad)}."
        raise InputError(path, problem, "fetch it again.", code="weights-nan")
    return state


def _read_file(path: Path) -> Any:
    import torch
    from safetensors import SafetensorError

    if not path.is_file():
        remedy = "fix `weights:` of the encoder (a path, hub or random)."
        raise InputError(path, "the weights file is missing.", remedy, code="weights-missing")
    remedy = "fetch it again, or ask its authors for safetensors."
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The library goes on to tell how its check is switched off.
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        holds = f"holds {wanted[1]}" if wanted else "holds more than tensors"
        problem, code = f"{holds}, which would run code when it is read: it is not read.", "weights-pickle"
        raise InputError(path, problem, remedy, code) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(path, f"cannot be read as weights ({_line(error)}).", remedy, "weights-unreadable") from error


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def load_strictly(model: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Load a state dict of just the model's keys and shapes; old files may lack batch norm's unused counters."""
    own = model.state_dict()
    state = {**{k: v for k, v in own.items() if k.endswith(_COUNTER)}, **state}
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(v.shape)}"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    if missing or unexpected or shapes:
        parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
        differences = "; ".join(f"{len(keys)} {kind}: {first_few(keys)}" for kind, keys in parts if keys)
        problem = f"the checkpoint is not one of this architecture ({differences})."
        remedy = "use the checkpoint that the card names, or fix the card's arch_kwargs and checkpoint keys."
        raise InputError(where, problem, remedy, code="weights-keys")
    model.load_state_dict(dict(state), strict=True)


def resize_positions(state: State, own: Mapping[str, torch.Tensor], prefix_tokens: int, how: str) -> State:
    """Resample position embeddings (keys that end in ``pos_embed``) that were trained on another grid.

    Positions of the prefix tokens stay. ``how`` is ``"bilinear"`` (not antialiased, as CONCH does), ``"bicubic"``
    (antialiased, timm's way) or ``"strict"``, which changes nothing, so that another grid stops the loading.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed

    resized = dict(state)
    for key, wanted in own.items():
        if how == "strict" or not key.endswith("pos_embed") or key not in state or state[key].shape == wanted.shape:
            continue
        side = math.isqrt(wanted.shape[1] - prefix_tokens)
        resized[key] = resample_abs_pos_embed(
            state[key], [side, side], num_prefix_tokens=prefix_tokens, interpolation=how, antialias=how == "bicubic"
        )
        logger.info("%s resampled from %s to %s", key, tuple(state[key].shape), tuple(resized[key].shape))
    return resized


def hash_state(state: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of names, shapes, types and bytes of all tensors."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def resolve(spec: EncoderSpec) -> Path | None:
    """Return the checkpoint's path, None for random; a folder stands for the first of the card's file names in it."""
    if spec.weights == "random":
        return None
    if spec.weights == "hub":
        return fetch_from_hub(spec.card)
    path = Path(spec.weights)
    if path.is_dir():
        names = _checkpoint_files(spec.card)
        return next((path / name for name in names if (path / name).is_file()), path / (names or ["weights"])[-1])
    return path


def fetch_from_hub(card: Mapping[str, Any]) -> Path:
    """Return the card's first file that the hub has; what is cached for the revision is taken without asking."""
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    files = _checkpoint_files(card)
    if not files:
        remedy = "add it to resources/encoders.yaml."
        raise InputError(f"card {card['name']}", "names no checkpoint.file.", remedy, code="card-file")
    more = {"repo_type": card["hub_type"]} if card.get("hub_type", "model") != "model" else {}
    for file in files:
        cached = try_to_load_from_cache(card["hub_id"], file, revision=card["revision"], **more)
        if isinstance(cached, str):
            return Path(cached)
    for file in files:
        try:
            return Path(hf_hub_download(card["hub_id"], file, revision=card["revision"], **more))
        except (errors.EntryNotFoundError, errors.HFValidationError, OSError) as error:
            if file != files[-1] and isinstance(error, errors.RemoteEntryNotFoundError):
                continue
            local = f"set `weights:` of the encoder to a local copy of {file}"
            page = card.get("gate") or f"https://huggingface.co/{card['hub_id']}"
            access = f"accept the terms at {page}, put a read token in {TOKEN_VARIABLE}, or {local}."
            where = f"{card['hub_id']}@{card['revision']}: {file}"
            raise hub_error(error, where, access=access, instead=f"or {local}") from error
    raise AssertionError("unreachable: the last file returns or raises")


def _checkpoint_files(card: Mapping[str, Any]) -> list[str]:
    file = card["checkpoint"].get("file")
    return [] if not file else [file] if isinstance(file, str) else list(file)


def resolved_revision(card: Mapping[str, Any], path: Path) -> str:
    """Return the commit that a cached file belongs to, else the card's revision."""
    commit = commit_of(path)
    if commit is None:
        return str(card["revision"])
    if not is_commit(card["revision"]):
        logger.info("%s: %s is commit %s now; pin it (`revision:`)", card["name"], card["revision"], commit)
    return commit
