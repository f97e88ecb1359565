"""Bring the bytes of one file, or of a part of one, over HTTP: resumed where they stopped, with progress in the log."""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from histoloom.errors import InputError
from histoloom.sources.web import TIMEOUT_S, PassingFault, check_status, plain

if TYPE_CHECKING:
    import requests

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_REPORT_S = 10.0
_SPARE_BYTES = 64 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DiskFull(InputError):
    """No room for the file: no mirror can help."""


@dataclass(frozen=True)
class Download:
    """Where the bytes of a file are, as its downloader found out.

    Attributes
    ----------
    url
        Address of the bytes.
    checks
        What is known of the file: ``bytes`` and checksums, as in a registry row.
    headers
        Request headers, e.g. a token's; never shown.
    start, stop
        The range of the remote file that holds ours; None: to its end.
    unpack
        Makes the file from the downloaded range: ``unpack(range, out)``; None: the range is the file.
    version
        What of a moving source was resolved to what: recorded next to the file.
    proof
        In words, what the bytes are checked against.
    """

    url: str
    checks: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    start: int = 0
    stop: int | None = None
    unpack: Callable[[Path, Path], None] | None = None
    version: Mapping[str, str] = field(default_factory=dict)
    proof: str = "the published checksum"

    @property
    def length(self) -> int | None:
        """Bytes to download, where known."""
        if self.stop is not None:
            return self.stop - self.start
        return int(self.checks["bytes"]) if self.checks.get("bytes") and self.unpack is None else None


def disk_full(error: OSError, download: Download, part: Path, name: str) -> InputError | None:
    """Return what to tell when a disk or a quota is full; None when the error is another."""
    if error.errno not in _FULL:
        return None
    needed = "" if download.length is None else f" of {download.length}"
    return DiskFull(
        part.parent,
        f"the disk (or its quota) is full: {size_of(part)}{needed} bytes of {name} are here ({error.strerror}).",
        "free space and run again (what was downloaded is kept), or set raw_dir to a folder on another disk.",
    )


def size_of(path: Path) -> int:
    """Return a file's size; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def free_bytes(folder: Path) -> int:
    """Return the free bytes where a folder is, or will be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_space(download: Download, part: Path) -> None:
    """Stop before the first byte when the disk cannot hold the rest."""
    length = download.length
    if length is None:
        return
    unpacked = int(download.checks.get("bytes") or length) if download.unpack is not None else 0
    needed, free = length - size_of(part) + unpacked, free_bytes(part.parent)
    if needed > 0 and needed + _SPARE_BYTES > free:
        raise DiskFull(
            part.parent,
            f"{needed / 1e9:.3f} GB are still to be written here and {free / 1e9:.3f} GB are free.",
            "free space, or set raw_dir to a folder on another disk.",
        )


def advance(session: requests.Session, download: Download, part: Path, name: str, remedy: str, gate: str = "") -> None:
    """Ask for what is missing of a file and append it, in one request.

    Parameters
    ----------
    session
        The session to ask with.
    download
        What to bring.
    part
        File to write or to go on with.
    name
        The file's name, for the log.
    remedy, gate
        What to advise after a refusal, and after 401 or 403.

    Raises
    ------
    PassingFault, OSError
        What another try may not meet.
    InputError
        If the server refuses, or cannot give a range that is needed.
    """
    have = size_of(part)
    if have and have == download.length:
        return
    if download.stop is not None and have > download.stop - download.start:
        part.unlink()
        have = 0
    first = download.start + have
    last = "" if download.stop is None else str(download.stop - 1)
    headers = dict(download.headers)
    if first or last:
        headers["Range"] = f"bytes={first}-{last}"
    with session.get(download.url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        if answer.status_code == 416 and have:
            # The server has no more than we have: let the checksum tell whether that is all.
            return
        check_status(answer, download.url, remedy, gate)
        ranged = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {first}-")
        if not ranged and (download.start or download.stop is not None):
            raise InputError(
                plain(download.url),
                f"the server cannot give a range of its files (it answered {answer.status_code}).",
                "download the whole archive by hand, unpack it and give its folder as mirror_dir.",
            )
        kept = have if ranged else 0
        total = int(answer.headers.get("Content-Length") or 0) + kept
        logger.info("%s: %d of %s bytes to fetch from %s", name, total - kept, total or "unknown", plain(download.url))
        _save(answer, part, kept, total, name)
        if size_of(part) < total:
            raise PassingFault(f"the connection closed after {size_of(part)} of {total} bytes")


def _save(answer: requests.Response, part: Path, kept: int, total: int, name: str) -> None:
    """Write the body after the `kept` bytes, telling of progress."""
    start = told = time.monotonic()
    done = kept
    with part.open("ab" if kept else "wb") as handle:
        # One receive at a time: `iter_content` fills its chunk first and loses it when the line is cut meanwhile.
        while chunk := answer.raw.read1(_CHUNK):
            handle.write(chunk)
            done += len(chunk)
            now = time.monotonic()
            if now - told > _REPORT_S:
                told = now
                share = f", {100 * done / total:.0f} %" if total else ""
                rate = (done - kept) / (now - start) / 1e6
                logger.info("%s: %d of %s bytes%s, %.1f MB/s", name, done, total or "unknown", share, rate)
