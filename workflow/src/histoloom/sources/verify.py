"""Whether a file is the one that was published."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from histoloom.sources.registry import CHECKSUMS

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
# First bytes by what a name ends with; for files of which no checksum is published.
_BEGINNINGS: Mapping[str, tuple[bytes, ...]] = {
    ".gz": (b"\x1f\x8b",),
    ".h5": (b"\x89HDF\r\n\x1a\n",),
    ".h5ad": (b"\x89HDF\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".parquet": (b"PAR1",),
    ".png": (b"\x89PNG",),
    ".tif": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    ".zip": (b"PK",),
}


def git_blob_sha1(path: str | Path) -> str:
    r"""Return the name that git gives to a file's content: the sha1 of ``blob <size>\0`` and the bytes."""
    path = Path(path)
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    return _stream(path, digest)


def checksum_of(entry: Mapping[str, str]) -> str | None:
    """Return the strongest checksum that is known of a file; None without one."""
    return next((entry[name] for name in CHECKSUMS if entry.get(name)), None)


def difference(path: Path, entry: Mapping[str, str]) -> str | None:
    """Compare a file with what is known of it.

    A right checksum decides: a published size that disagrees with it is wrong, and only told.

    Returns
    -------
    str or None
        What differs, as a sentence; None when the file is the published one.
    """
    size, expected = path.stat().st_size, entry.get("bytes")
    wrong_size = bool(expected) and int(expected or 0) != size
    column = next((name for name in CHECKSUMS if entry.get(name)), None)
    if column is None:
        return f"it has {size} bytes, {expected} were expected{_page(path)}." if wrong_size else None
    if column == "git_blob_sha1":
        found = git_blob_sha1(path)
    else:
        found = _stream(path, hashlib.new(column, usedforsecurity=False))
    if found != entry[column].lower():
        sizes = f"it has {size} bytes, {expected} were expected; " if wrong_size else ""
        return f"{sizes}its {column} is {found}, not {entry[column]}{_page(path)}."
    if wrong_size:
        logger.warning(
            "%s: its %s is right, but the list gives it %s bytes and it has %d: correct `bytes` in resources/files",
            entry.get("file", path),
            column,
            expected,
            size,
        )
    return None


def unlike_its_name(path: Path, name: str) -> str | None:
    """Say what is wrong with a file without a published checksum: empty, a web page, other first bytes."""
    if path.stat().st_size == 0:
        return "it is empty."
    if what := something_else(path, name):
        return f"it is {what}."
    beginnings = next((starts for end, starts in _BEGINNINGS.items() if name.endswith(end)), None)
    with path.open("rb") as handle:
        head = handle.read(8)
    if beginnings and not head.startswith(beginnings):
        return f"it does not begin as a {Path(name).suffix} file does."
    return None


def _stream(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb", buffering=0) as handle:
        buffer = memoryview(bytearray(_CHUNK))
        while count := handle.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def something_else(path: Path, name: str) -> str:
    """Say what the bytes are when they are a page or a message, and the file of that name is none; else nothing."""
    what = look_like(path)
    return "" if what == "a JSON message" and name.endswith((".json", ".xenium")) else what


def look_like(path: Path) -> str:
    """Say what the bytes are when they are a page or a message and not data: some hosts send errors as status 200."""
    with path.open("rb") as handle:
        head = handle.read(200).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer"
    return "a JSON message" if head.startswith(b"{") else ""


def _page(path: Path) -> str:
    what = look_like(path)
    return f" (it is {what})" if what else ""
