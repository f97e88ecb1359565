"""Checkpoints from the Hugging Face hub: pinned, cached, offline when told, and refusals that say what to do."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histoloom.errors import InputError

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "HF_TOKEN"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_from_hub(card: Mapping[str, Any]) -> Path:
    """Return the card's checkpoint in the hub's cache, downloading it when it is not there.

    What is cached for the card's revision is taken without asking the hub. The token comes from the environment or the
    hub's own login; HF_HUB_OFFLINE is honoured by the hub's client. A card may name several files; the first that the
    repository has is taken (safetensors stand first).

    Raises
    ------
    InputError
        No access (names the page to accept and the variable), wrong revision or file, hub out of reach.
    """
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    files = checkpoint_files(card)
    if not files:
        raise InputError(f"card {card['name']}", "names no checkpoint.file.", "add it to resources/encoders.yaml.")
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
            raise _explained(card, file, error) from error
    raise AssertionError("unreachable: the last file returns or raises")


def checkpoint_files(card: Mapping[str, Any]) -> list[str]:
    """Return the names that the card's checkpoint may have, best first."""
    file = card["checkpoint"].get("file")
    return [] if not file else [file] if isinstance(file, str) else list(file)


def resolved_revision(card: Mapping[str, Any], path: Path) -> str:
    """Return the commit that a cached file belongs to, else the card's revision.

    The cache keeps files as ``snapshots/<commit>/<file>``.
    """
    parts = path.parts
    where = parts.index("snapshots") + 1 if "snapshots" in parts else len(parts)
    commit = parts[where] if where < len(parts) and is_commit(parts[where]) else None
    if commit is None:
        return str(card["revision"])
    if not is_commit(card["revision"]):
        logger.info(
            "%s: '%s' is commit %s now; pin it (`revision:` of the encoder)", card["name"], card["revision"], commit
        )
    return commit


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, which never changes, and not a branch or a tag."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def _explained(card: Mapping[str, Any], file: str, error: Exception) -> InputError:
    """Turn what the hub's client raises into an error a person can act on."""
    from huggingface_hub import errors

    where = f"{card['hub_id']}@{card['revision']}: {file}"
    local = f"or set `weights:` of the encoder to a local copy of {file}"
    if isinstance(error, errors.LocalEntryNotFoundError) and _status(error.__cause__) not in {401, 403}:
        offline = os.environ.get("HF_HUB_OFFLINE", "") not in {"", "0"}
        why = "HF_HUB_OFFLINE is set" if offline else "the hub is out of reach"
        remedy = f"run once online on a machine that shares HF_HOME, {local}."
        return InputError(where, f"is not in the cache, and {why}.", remedy)
    if isinstance(error, (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError, errors.HFValidationError)):
        return InputError(where, "the hub has no such revision or file.", f"fix the card, {local}.")
    status = _status(error) or _status(error.__cause__)
    if isinstance(error, errors.RepositoryNotFoundError) or status in {401, 403}:
        return _no_access(card, where, local)
    if isinstance(error, errors.HfHubHTTPError):
        return InputError(where, f"the hub answered {status}.", f"try again later, {local}.")
    return InputError(where, f"the hub is out of reach ({error}).", f"check the network, {local}.")


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _no_access(card: Mapping[str, Any], where: str, local: str) -> InputError:
    empty = not os.environ.get(TOKEN_VARIABLE)
    token = f"the variable {TOKEN_VARIABLE} is empty" if empty else f"{TOKEN_VARIABLE} is set but has no access"
    page = card.get("gate") or f"https://huggingface.co/{card['hub_id']}"
    return InputError(
        where,
        f"the hub refused it (401/403); {token}.",
        f"accept the terms at {page}, put a read token in {TOKEN_VARIABLE}, {local}.",
    )
