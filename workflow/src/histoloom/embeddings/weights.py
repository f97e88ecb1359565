"""Weights of an encoder: from the hub, a file or a seed; loaded strictly, never unpickled as code."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoloom.errors import InputError
from histoloom.identity import sha256_file

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "HF_TOKEN"
_SHOWN = 10
State = dict[str, "torch.Tensor"]


def read_state(path: Path, card: Mapping[str, Any]) -> State:
    """Read a checkpoint's tensors by key name.

    Parameters
    ----------
    path
        safetensors, or what torch.save wrote (read with ``weights_only``: code in a pickle does not run).
    card
        ``checkpoint.key`` and ``checkpoint.prefix`` say where the state dict lies.

    Raises
    ------
    InputError
        If the file is missing, cut short, holds code, no tensors, or a NaN.
    """
    import torch
    from safetensors import SafetensorError

    if not path.is_file():
        raise InputError(
            path, "the weights file is missing.", "mend `weights:` of the encoder (a path, hub or random)."
        )
    remedy = "fetch it again, or ask its authors for safetensors."
    state: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = str(error).strip().split("\n")[0]
        raise InputError(path, f"holds more than tensors, and is not run as code ({first}).", remedy) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first = str(error).strip().split("\n")[0]
        raise InputError(path, f"cannot be read as weights ({first}).", remedy) from error
    where = card["checkpoint"]
    if where.get("key"):
        state = state.get(where["key"]) if isinstance(state, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(torch.is_tensor(v) for v in state.values()):
        raise InputError(path, "holds no dict of tensors by name.", "use the file that the card names.")
    prefix = where.get("prefix") or ""
    state = {str(k).removeprefix(prefix): v for k, v in state.items()}
    bad = [k for k, v in state.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if bad:
        raise InputError(path, f"NaN or infinity in the weights: {_some(bad)}.", remedy)
    return state


def load_strictly(model: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Load a state dict whose keys and shapes must be the model's own, all of them.

    Raises
    ------
    InputError
        With the first ten keys that are missing, unexpected or of another shape.
    """
    own = model.state_dict()
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(v.shape)}"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    if missing or unexpected or shapes:
        parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
        told = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in parts if keys)
        raise InputError(
            where,
            f"the checkpoint is not one of this architecture ({told}).",
            "use the checkpoint that the card names, or mend the card's arch_kwargs and checkpoint keys.",
        )
    model.load_state_dict(dict(state), strict=True)


def hash_state(state: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of names, shapes, types and bytes of all tensors."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fetch_from_hub(card: Mapping[str, Any]) -> Path:
    """Return the card's checkpoint in the hub's cache, downloading it when it is not there.

    The token comes from the environment or the hub's own login; HF_HUB_OFFLINE is honoured by the hub's client.

    Raises
    ------
    InputError
        No access (names the page to accept and the variable), wrong revision or file, hub out of reach.
    """
    from huggingface_hub import errors, hf_hub_download

    hub_id, file, revision = card["hub_id"], card["checkpoint"].get("file"), card["revision"]
    where = f"{hub_id}@{revision}: {file}"
    if not file:
        raise InputError(f"card {card['name']}", "names no checkpoint.file.", "add it to resources/encoders.yaml.")
    local = f"or set `weights:` of the encoder to a local copy of {file}"
    try:
        return Path(hf_hub_download(hub_id, file, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "") not in {"", "0"}
        why = "HF_HUB_OFFLINE is set" if offline else "the hub is out of reach"
        raise InputError(
            where, f"is not in the cache, and {why}.", f"run once online on a machine that shares HF_HOME, {local}."
        ) from error
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise InputError(where, "the hub has no such revision or file.", f"mend the card, {local}.") from error
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise _no_access(card, where, local) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in {401, 403}:
            raise _no_access(card, where, local) from error
        raise InputError(where, f"the hub answered {status}.", f"try again later, {local}.") from error
    except OSError as error:
        raise InputError(where, f"the hub is out of reach ({error}).", f"check the network, {local}.") from error


def _no_access(card: Mapping[str, Any], where: str, local: str) -> InputError:
    empty = not os.environ.get(TOKEN_VARIABLE)
    token = f"the variable {TOKEN_VARIABLE} is empty" if empty else f"{TOKEN_VARIABLE} is set but has no access"
    page = card.get("gate") or f"https://huggingface.co/{card['hub_id']}"
    return InputError(
        where,
        f"the hub refused it (401/403); {token}.",
        f"accept the terms at {page}, put a read token in {TOKEN_VARIABLE}, {local}.",
    )


def resolve(spec: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint's path for ``weights`` hub or PATH, None for random."""
    if spec["weights"] == "random":
        return None
    return fetch_from_hub(spec["card"]) if spec["weights"] == "hub" else Path(spec["weights"])


def file_hash(path: Path) -> str:
    """Return the sha256 of a checkpoint; content decides, not where it lies."""
    logger.info("hashing %s", path)
    return sha256_file(path)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
