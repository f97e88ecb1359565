"""Sources: the publishers' raw files, downloaded or taken from a local mirror, checked before they get their name."""

from __future__ import annotations

import difflib
from pathlib import Path

from histoloom.errors import InputError
from histoloom.sources.registry import find_entry, load_registry

LISTS = Path(__file__).resolve().parents[4] / "resources" / "files"


def registry_entry(source: str, file: str, lists: Path = LISTS) -> dict[str, str]:
    """Return what is known of one published file: downloader, url, size, checksum, licence.

    Parameters
    ----------
    source
        Name of the source, i.e. of its list ``resources/files/<source>.tsv``.
    file
        Path in the publisher's layout.
    lists
        Folder of the lists.

    Raises
    ------
    InputError
        If the source has no list, or the list no such file.
    """
    path = Path(lists) / f"{source}.tsv"
    known = load_registry(path)
    entry = find_entry(known, file)
    if entry is None:
        close = difflib.get_close_matches(file, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InputError(path, f"'{file}' is not on the list.{hint}", "correct the path in the cohort sheet.")
    return entry
