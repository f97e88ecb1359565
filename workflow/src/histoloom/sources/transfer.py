"""Bring the bytes of one file over HTTP: resumed where they stopped, with progress in the log."""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError

from histoloom.errors import InputError
from histoloom.redaction import plain
from histoloom.sources.web import Web, given_up, refusal, shortened

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_REPORT_S = 10.0
_SPARE_BYTES = 64 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
ROW_REMEDY = "check the row in resources/files, or put the file into a folder and give that as mirror_dir."


@dataclass(frozen=True)
class Download:
    """Where the bytes of a file are, as its downloader found out."""

    url: str
    checks: Mapping[str, str] = field(default_factory=dict)  # bytes and checksums, as in a registry row
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # such as a token's; never shown
    write: Callable[[Path], None] | None = None  # writes what is not simply the bytes at `url`; not resumed
    version: Mapping[str, str] = field(default_factory=dict)  # what a moving source was resolved to, for the record
    proof: str = "the published checksum"  # what the bytes are checked against, in words


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def free_bytes(folder: Path) -> int:
    """Return the free bytes where a folder is, or will be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_space(download: Download, part: Path) -> None:
    """Stop before the first byte when the disk cannot hold the rest."""
    if not download.checks.get("bytes"):
        return
    needed, free = int(download.checks["bytes"]) - size_of(part), free_bytes(part.parent)
    if needed > 0 and needed + _SPARE_BYTES > free:
        problem = f"{needed / 1e9:.3f} GB are still to be written here and {free / 1e9:.3f} GB are free."
        raise InputError(part.parent, problem, "free space, or set raw_dir to a folder on another disk.", "disk-full")


def bring(web: Web, download: Download, part: Path, name: str, gate: str = "") -> None:
    """Write what is missing of a file; a cut line is resumed until `web.tries` attempts brought nothing."""
    stalls, reached = 0, size_of(part)
    while True:
        try:
            if download.write is not None:
                download.write(part)
            else:
                _advance(web, download, part, name, gate)
            return
        except (HTTPError, requests.RequestException, ConnectionError, TimeoutError) as error:
            fault = shortened(str(error))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            needed = f" of {download.checks['bytes']}" if download.checks.get("bytes") else ""
            here = f"{size_of(part)}{needed} bytes of {name} are here ({error.strerror})"
            problem = f"the disk (or its quota) is full: {here}."
            remedy = "free space and run again (what was downloaded is kept), or set raw_dir to another disk's folder."
            raise InputError(part.parent, problem, remedy, "disk-full") from None
        progress = size_of(part) > reached
        stalls, reached = 0 if progress else stalls + 1, max(reached, size_of(part))
        if stalls >= web.tries:
            raise given_up(download.url, fault, web.tries)
        pause = min(60.0, web.backoff_s * 2**stalls)
        logger.warning("%s: %s; next attempt in %.0f s", plain(download.url), fault, pause)
        time.sleep(pause)


def _advance(web: Web, download: Download, part: Path, name: str, gate: str) -> None:
    """Ask for what is missing of a file and append it, in one request."""
    have = size_of(part)
    if have and str(have) == download.checks.get("bytes"):
        return
    headers = dict(download.headers) | ({"Range": f"bytes={have}-"} if have else {})
    with web.ask(download.url, remedy=ROW_REMEDY, gate=gate, headers=headers, stream=True) as answer:
        if answer.status_code == 416 and have:
            # The server has no more than we have: the checksum decides whether that is all.
            return
        if answer.status_code == 416:
            raise refusal(answer, download.url, ROW_REMEDY, gate, web.tries)
        resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        kept = have if resumed else 0
        total = int(answer.headers.get("Content-Length") or 0) + kept
        logger.info("%s: %d of %s bytes to fetch from %s", name, total - kept, total or "unknown", plain(download.url))
        _save(answer, part, kept, total, name)
        if size_of(part) < total:
            raise ConnectionError(f"the connection closed after {size_of(part)} of {total} bytes")


def _save(answer: requests.Response, part: Path, kept: int, total: int, name: str) -> None:
    """Write the body after the `kept` bytes, and log progress."""
    start = last_report = time.monotonic()
    done = kept
    with part.open("ab" if kept else "wb") as handle:
        # One receive at a time: `iter_content` fills its chunk first and loses it when the line is cut meanwhile.
        while chunk := answer.raw.read1(_CHUNK):
            handle.write(chunk)
            done += len(chunk)
            now = time.monotonic()
            if now - last_report > _REPORT_S:
                last_report = now
                share = f", {100 * done / total:.0f} %" if total else ""
                rate = (done - kept) / (now - start) / 1e6
                logger.info("%s: %d of %s bytes%s, %.1f MB/s", name, done, total or "unknown", share, rate)
