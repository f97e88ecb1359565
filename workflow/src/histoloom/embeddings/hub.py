"""Checkpoints from the Hugging Face hub: pinned, cached, offline on request, and refusals that say what to do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histoloom.errors import InputError
from histoloom.hub import TOKEN_VARIABLE, commit_of, hub_error, is_commit

logger = logging.getLogger(__name__)


def fetch_from_hub(card: Mapping[str, Any]) -> Path:
    """Return the card's checkpoint in the hub's cache, downloading it when it is not there.

    What is cached for the card's revision is taken without asking the hub. Of several files that a card names, the
    first that the repository has is taken (safetensors stand first).
    """
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    files = checkpoint_files(card)
    if not files:
        raise InputError(
            f"card {card['name']}", "names no checkpoint.file.", "add it to resources/encoders.yaml.", code="card-file"
        )
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


def checkpoint_files(card: Mapping[str, Any]) -> list[str]:
    """Return the names that the card's checkpoint may have, best first."""
    file = card["checkpoint"].get("file")
    return [] if not file else [file] if isinstance(file, str) else list(file)


def resolved_revision(card: Mapping[str, Any], path: Path) -> str:
    """Return the commit that a cached file belongs to, else the card's revision."""
    commit = commit_of(path)
    if commit is None:
        return str(card["revision"])
    if not is_commit(card["revision"]):
        logger.info(
            "%s: '%s' is commit %s now; pin it (`revision:` of the encoder)", card["name"], card["revision"], commit
        )
    return commit
