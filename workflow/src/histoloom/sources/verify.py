"""Whether a file is the one that was published."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from histoloom.sources.registry import CHECKSUMS

logger = logging.getLogger(__name__)

# First bytes by what a name ends with; for files of which no checksum is published.
_MAGIC_BYTES: Mapping[str, tuple[bytes, ...]] = {
    ".gz": (b"\x1f\x8b",),
    ".h5": (b"\x89HDF\r\n\x1a\n",),
    ".h5ad": (b"\x89HDF\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".parquet": (b"PAR1",),
    ".png": (b"\x89PNG",),
    ".tif": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    ".zip": (b"PK",),
}


def digest_of(path: Path, kind: str) -> str:
    r"""Return a checksum; ``git_blob_sha1`` is git's name of a content: the sha1 of ``blob <size>\0`` and the bytes."""
    if kind == "git_blob_sha1":
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as handle:
        # The digest goes on from what it holds.
        return hashlib.file_digest(handle, lambda: digest).hexdigest()


def checksum_of(entry: Mapping[str, str]) -> str | None:
    """Return the strongest checksum that is known of a file."""
    return next((entry[name] for name in CHECKSUMS if entry.get(name)), None)


def difference(path: Path, entry: Mapping[str, str]) -> str | None:
    """Return how a file differs from what is known of it, as a sentence; None for the published file.

    A right checksum decides: a published size that disagrees with it is wrong, and only logged.
    """
    size, expected = path.stat().st_size, entry.get("bytes")
    wrong_size = bool(expected) and int(expected or 0) != size
    page = f" (it is {kind})" if (kind := page_kind(path)) else ""
    column = next((name for name in CHECKSUMS if entry.get(name)), None)
    if column is None:
        return f"it has {size} bytes, {expected} were expected{page}." if wrong_size else None
    digest = digest_of(path, column)
    if digest != entry[column].lower():
        sizes = f"it has {size} bytes, {expected} were expected; " if wrong_size else ""
        return f"{sizes}its {column} is {digest}, not {entry[column]}{page}."
    if wrong_size:
        logger.warning(
            "%s: its %s is right, but the list gives it %s bytes and it has %d: correct `bytes` in resources/files",
            entry.get("file", path),
            column,
            expected,
            size,
        )
    return None


def check_magic_bytes(path: Path, name: str) -> str | None:
    """Say what is wrong with a file without a published checksum: empty, a web page, other first bytes."""
    if path.stat().st_size == 0:
        return "it is empty."
    if page := unexpected_page(path, name):
        return f"it is {page}."
    expected = next((starts for end, starts in _MAGIC_BYTES.items() if name.endswith(end)), None)
    with path.open("rb") as handle:
        head = handle.read(8)
    if expected and not head.startswith(expected):
        return f"it does not begin as a {Path(name).suffix} file does."
    return None


def unexpected_page(path: Path, name: str) -> str:
    """Return `page_kind` of a file whose name promises something else; empty for data."""
    kind = page_kind(path)
    return "" if kind == "a JSON message" and name.endswith((".json", ".xenium")) else kind


def page_kind(path: Path) -> str:
    """Return which kind of page or message the bytes are; empty for data. Some hosts send errors with status 200."""
    with path.open("rb") as handle:
        head = handle.read(200).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer"
    return "a JSON message" if head.startswith(b"{") else ""
