"""The lists of files to download, ``resources/files/<source>.tsv``; light, since the workflow's graph reads them."""

from __future__ import annotations

import csv
import fnmatch
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from histoloom.errors import InputError
from histoloom.schemas import check, load_schema, nearest

LISTS = Path(__file__).resolve().parents[4] / "resources" / "files"
CHECKSUMS = ("sha256", "git_blob_sha1", "md5")
"""Columns that can prove a file, strongest first."""
MIRROR_SEPARATOR = " | "

DOWNLOADERS: Mapping[str, str] = {
    "http": "histoloom.sources.downloaders.listings:http",
    "hub": "histoloom.sources.downloaders.hub:locate",
    "mendeley": "histoloom.sources.downloaders.listings:mendeley",
    "zip_member": "histoloom.sources.downloaders.zip_member:locate",
    "cellxgene": "histoloom.sources.downloaders.listings:cellxgene",
}
"""How a kind of host gives its files; strings, so that reading a list imports nothing."""
Entry = dict[str, str]


@cache
def _read(path: Path, changed: float) -> dict[str, Entry]:
    """Read and check a list; cached, since the plan asks for thousands of files."""
    lines = (line for line in path.read_text().splitlines() if not line.startswith("#"))
    entries: dict[str, Entry] = {}
    for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
        where = f"{path}: {row.get('file') or '(no file)'}"
        entry = {key: value for key, value in row.items() if value}
        check(entry, load_schema("files"), where)
        proved = checks_of(entry)
        # Other downloaders bring a proof of their own: the hub's or the listing's checksum, the archive's CRC.
        if entry["downloader"] == "http" and not proved and not entry.get("note"):
            remedy = f"fill one of: {', '.join(CHECKSUMS)}; or say in `note` why not."
            raise InputError(where, "has no checksum.", remedy, "files-checksum")
        if is_pattern(entry["file"]) and proved:
            problem, remedy = "is a pattern with a checksum.", "give each file with a checksum its own row."
            raise InputError(where, problem, remedy, "files-pattern")
        if entry["file"] in entries:
            raise InputError(where, "is listed twice.", "keep one row.", "files-twice")
        entries[entry["file"]] = {**entry, "source": path.stem}
    return entries


def load_registry(path: str | Path) -> dict[str, Entry]:
    """Read a list of files: rows by file or pattern, with the list's own name as ``source``."""
    path = Path(path)
    if not path.is_file():
        remedy = "fix the path, or add the list for a new source."
        raise InputError(path, "this list of files does not exist.", remedy, "files-missing")
    return _read(path, path.stat().st_mtime)


def registry_entry(source: str, file: str, lists: Path = LISTS) -> Entry:
    """Return what the list ``resources/files/<source>.tsv`` says of one file."""
    path = Path(lists) / f"{source}.tsv"
    entries = load_registry(path)
    entry = find_entry(entries, file)
    if entry is None:
        problem = f"'{file}' is not on the list.{nearest(file, entries)}"
        raise InputError(path, problem, "correct the path in the cohort sheet.", "files-unlisted")
    return entry


def checks_of(entry: Mapping[str, str]) -> Entry:
    return {column: entry[column] for column in CHECKSUMS if entry.get(column)}


def is_pattern(file: str) -> bool:
    """Whether a row stands for many files."""
    return "*" in file


def find_entry(entries: Mapping[str, Entry], file: str) -> Entry | None:
    """Return a file's row or the first pattern's that fits; {file}, {folder}, {name}, {stem} filled in."""
    patterns = (key for key in entries if is_pattern(key) and fnmatch.fnmatchcase(file, key))
    key = file if file in entries else next(patterns, None)
    if key is None:
        return None
    folder, _, name = file.rpartition("/")
    parts = {"{file}": file, "{folder}": folder, "{name}": name, "{stem}": name.partition(".")[0]}
    filled = {**entries[key], "file": file}
    for column in {"url", "mirrors", "citation"} & filled.keys():
        for word, value in parts.items():
            filled[column] = filled[column].replace(word, value)
    return filled


def with_mirrors(entry: Mapping[str, str]) -> list[Entry]:
    """Return an entry once per place that has the file: its own host, then the mirrors in order."""
    places = [dict(entry)]
    for text in filter(str.strip, (entry.get("mirrors") or "").split(MIRROR_SEPARATOR)):
        downloader, _, url = text.strip().partition(" ")
        if downloader not in DOWNLOADERS or not url:
            problem = f"mirror '{text}' is not 'downloader url'."
            remedy = f"downloaders: {', '.join(DOWNLOADERS)}."
            raise InputError(f"{entry['source']}.tsv: {entry['file']}", problem, remedy, "files-mirror")
        places.append({**entry, "downloader": downloader, "url": url.strip()})
    return places
