"""Sources: the publishers' raw files, downloaded or taken from a local mirror, checked before they get their name."""

from __future__ import annotations

import difflib
from pathlib import Path

from histoloom.errors import InputError
from histoloom.sources.registry import find_entry, load_registry

LISTS = Path(__file__).resolve().parents[4] / "resources" / "files"


def registry_entry(source: str, file: str, lists: Path = LISTS) -> dict[str, str]:
    """Return what the list ``resources/files/<source>.tsv`` says of one file."""
    path = Path(lists) / f"{source}.tsv"
    entries = load_registry(path)
    entry = find_entry(entries, file)
    if entry is None:
        close = difflib.get_close_matches(file, entries, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InputError(
            path, f"'{file}' is not on the list.{hint}", "correct the path in the cohort sheet.", "files-unlisted"
        )
    return entry
