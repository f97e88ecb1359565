"""The lists of files to download, ``resources/files/<source>.tsv``; light, since the workflow's graph reads them."""

from __future__ import annotations

import csv
import fnmatch
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pandas as pd

from histoloom.errors import InputError

REQUIRED = ("file", "url", "licence", "citation")
COLUMNS = (
    *REQUIRED,
    "downloader",
    "bytes",
    "about_bytes",
    "sha256",
    "git_blob_sha1",
    "md5",
    "revision",
    "mirrors",
    "password",
    "gate",
    "without",
    "note",
)
CHECKSUMS = ("sha256", "git_blob_sha1", "md5")
"""Columns that can prove a file, strongest first."""
MIRROR_SEPARATOR = " | "

DOWNLOADERS: Mapping[str, str] = {
    "http": "histoloom.sources.downloaders.http:locate",
    "hub": "histoloom.sources.downloaders.hub:locate",
    "mendeley": "histoloom.sources.downloaders.mendeley:locate",
    "zip_member": "histoloom.sources.downloaders.zip_member:locate",
    "cellxgene": "histoloom.sources.downloaders.cellxgene:locate",
}
"""How a kind of host gives its files; strings, so that reading a list imports nothing."""
_PROVED_BY_ROW = frozenset({"http"})
Entry = dict[str, str]


@cache
def _read(path: Path, changed: float) -> dict[str, Entry]:
    """Read and check a list; cached, since the plan asks for thousands of files."""
    # Not `comment="#"`: it would cut addresses at their fragment.
    text = "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#"))
    table = pd.read_csv(io.StringIO(text), sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)
    missing = [column for column in REQUIRED if column not in table]
    unknown = [str(column) for column in table if column not in COLUMNS]
    if missing:
        raise InputError(path, f"no column {', '.join(missing)}.", f"columns: {', '.join(REQUIRED)} and a checksum.")
    if unknown:
        raise InputError(path, f"unknown column {', '.join(unknown)}.", f"columns: {', '.join(COLUMNS)}.")
    found: dict[str, Entry] = {}
    for row in table.to_dict("records"):
        entry = {str(key): str(value) for key, value in row.items()} | {"source": path.stem}
        entry["downloader"] = entry.get("downloader") or "http"
        if entry["file"] in found:
            raise InputError(path, f"'{entry['file']}' is listed twice.", "keep one row.")
        _check_row(path, entry)
        found[entry["file"]] = entry
    return found


def _check_row(path: Path, entry: Mapping[str, str]) -> None:
    name = entry["file"]
    if not name or name.startswith("/") or ".." in Path(name).parts:
        raise InputError(path, f"'{name}' is no path below the source's folder.", "give a relative path.")
    if entry["downloader"] not in DOWNLOADERS:
        raise InputError(
            path,
            f"'{name}' has the unknown downloader '{entry['downloader']}'.",
            f"downloaders: {', '.join(DOWNLOADERS)}.",
        )
    for column in ("bytes", "about_bytes"):
        if entry.get(column) and not entry[column].isdigit():
            raise InputError(
                path, f"'{name}': {column} is '{entry[column]}'.", "give a whole number or leave it empty."
            )
    proved = any(entry.get(column) for column in CHECKSUMS)
    # Other downloaders bring a proof of their own: the hub's or the listing's checksum, the archive's CRC.
    if entry["downloader"] in _PROVED_BY_ROW and not proved and not entry.get("note"):
        raise InputError(
            path, f"'{name}' has no checksum.", f"fill one of: {', '.join(CHECKSUMS)}; or say in `note` why not."
        )
    if is_pattern(name) and proved:
        raise InputError(path, f"'{name}' is a pattern with a checksum.", "give each file with a checksum its own row.")


def load_registry(path: str | Path) -> dict[str, Entry]:
    """Read a list of files.

    Parameters
    ----------
    path
        Tab-separated, one row per file or pattern of files. Columns:

        - file: path in the publisher's layout; ``*`` stands for anything, so that one row serves all samples.
        - downloader: how its host gives it, a key of `DOWNLOADERS`; empty: http.
        - url: what the downloader needs; ``{file}``, ``{folder}``, ``{name}`` and ``{stem}`` stand for the path, its
          folder, its last part, and that up to the first dot.
        - bytes, and one of sha256, git_blob_sha1 or md5: what it must be. about_bytes: a size for planning only.
        - revision: of a hub's repository, or the version of a data set; empty: the newest, recorded next to the file.
        - mirrors: further ``downloader url`` pairs with `` | `` between them. password: of an encrypted archive (a
          published one; never a secret).
        - licence, citation, gate (how to get access), without (how to go on without it), note (what is not sure).

    Returns
    -------
    dict
        Row by file, as text, with the source's name (the list's own name) under ``"source"``.

    Raises
    ------
    InputError
        If a column is missing or unknown, a file is listed twice, leaves its folder or has no checksum.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "this list of files does not exist.", "fix the path, or add the list for a new source.")
    return _read(path, path.stat().st_mtime)


def is_pattern(file: str) -> bool:
    """Whether a row stands for many files."""
    return "*" in file


def find_entry(known: Mapping[str, Entry], file: str) -> Entry | None:
    """Return a file's row: its own, else the first pattern that fits, with the file's name filled in."""
    if file in known:
        return fill_in(known[file], file)
    for pattern, entry in known.items():
        if is_pattern(pattern) and fnmatch.fnmatchcase(file, pattern):
            return fill_in(entry, file)
    return None


def fill_in(entry: Mapping[str, str], file: str) -> Entry:
    """Return a row for one file: ``{file}``, ``{folder}``, ``{name}`` and ``{stem}`` replaced in its addresses."""
    folder, _, name = file.rpartition("/")
    parts = {"{file}": file, "{folder}": folder, "{name}": name, "{stem}": name.partition(".")[0]}
    filled = {**entry, "file": file}
    for column in ("url", "mirrors", "citation"):
        for word, value in parts.items():
            filled[column] = filled.get(column, "").replace(word, value)
    return filled


def ways(entry: Mapping[str, str]) -> list[Entry]:
    """Return an entry once per place that has the file: its own host, then the mirrors in order.

    Raises
    ------
    InputError
        If a mirror is not ``downloader url``.
    """
    found = [dict(entry)]
    for text in (entry.get("mirrors") or "").split(MIRROR_SEPARATOR):
        if not text.strip():
            continue
        downloader, _, url = text.strip().partition(" ")
        if downloader not in DOWNLOADERS or not url:
            raise InputError(
                f"{entry['source']}.tsv",
                f"'{entry['file']}': mirror '{text}' is not 'downloader url'.",
                f"downloaders: {', '.join(DOWNLOADERS)}.",
            )
        found.append({**entry, "downloader": downloader, "url": url.strip()})
    return found
