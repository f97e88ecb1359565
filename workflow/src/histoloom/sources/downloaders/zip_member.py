"""One member of a remote zip archive, by HTTP ranges: 20 GB need not be fetched for 200 MB; encrypted archives too.

The archive's directory is read from its end, then the member's range is downloaded like any other file (and resumed
like one), then unpacked and checked by the archive's own CRC, or the HMAC of an encrypted one.
"""

from __future__ import annotations

import gzip
import io
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote

from histoloom.errors import InputError
from histoloom.sources.fetch import Damaged
from histoloom.sources.registry import CHECKSUMS
from histoloom.sources.transfer import Download
from histoloom.sources.web import TIMEOUT_S, PassingFault, Web, check_status, plain

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_BY_HAND = "download the whole archive by hand, unpack it and give its folder as mirror_dir."


def locate(entry: Mapping[str, str], web: Web) -> Download:
    """Return the range of an archive that holds a member.

    Parameters
    ----------
    entry
        url ``<archive>#<member>``, with ``%20`` for blanks; password where it is encrypted. A member that ends with
        .gz is unpacked further when the file's name does not. A folder in front of the member is tolerated.
    web
        The session.

    Raises
    ------
    InputError
        If the server gives no ranges, the archive lacks the member, or its name climbs out of the archive.
    """
    url, _, fragment = entry["url"].partition("#")
    wanted, password = unquote(fragment), entry.get("password", "")
    archive = web.attempt(url, lambda: _open_archive(url, web, bool(password)))
    info = _find(archive, wanted, url)
    ends = sorted([*(i.header_offset for i in archive.infolist()), archive.start_dir])
    stop = next(end for end in ends if end > info.header_offset)
    gunzip = info.filename.endswith(".gz") and not entry["file"].endswith(".gz")

    def unpack(part: Path, out: Path) -> None:
        _unpack(archive, info, part, out, password, gunzip, url)

    checks = {"bytes": "" if gunzip else str(info.file_size)}
    return Download(
        url,
        {
            k: v
            for k, v in {**checks, **{c: entry.get(c, "") for c in ("bytes", *CHECKSUMS) if entry.get(c)}}.items()
            if v
        },
        start=info.header_offset,
        stop=stop,
        unpack=unpack,
        version={"archive": plain(url), "member": info.filename, "crc32": f"{info.CRC:08x}"},
        proof="the published checksum" if any(entry.get(c) for c in CHECKSUMS) else "the archive's own check",
    )


def _open_archive(url: str, web: Web, encrypted: bool) -> Any:
    """Read a remote archive's directory."""
    import pyzipper
    import remotezip

    class Fetcher(remotezip.RemoteFetcher):
        """Tells refusals apart, which the library's own turns into one text."""

        def _request(self, kwargs: dict[str, Any]) -> tuple[Any, str]:
            answer = web.session.get(url, stream=True, timeout=TIMEOUT_S, **kwargs)
            check_status(answer, url, _BY_HAND)
            if answer.status_code != 206 or "Content-Range" not in answer.headers:
                answer.close()
                raise InputError(
                    plain(url), "the server gives no ranges, so that a member cannot be fetched alone.", _BY_HAND
                )
            return answer.raw, answer.headers["Content-Range"]

    kind = pyzipper.AESZipFile if encrypted else zipfile.ZipFile
    try:
        return kind(remotezip.RemoteIO(Fetcher(url).fetch))
    except remotezip.RemoteZipError as error:
        # Its cause says whether there is any way to the host.
        raise error.__context__ if isinstance(error.__context__, OSError) else PassingFault(str(error)) from None
    except (zipfile.BadZipFile, pyzipper.BadZipFile) as error:
        raise PassingFault(f"its end is no zip directory ({error})") from None


def _find(archive: Any, wanted: str, url: str) -> Any:
    """Return a member's record."""
    parts = PurePosixPath(wanted).parts
    if not wanted or wanted.startswith("/") or ".." in parts or "\\" in wanted:
        raise InputError(plain(url), f"'{wanted}' is no path inside an archive.", "correct the url in resources/files.")
    names = archive.namelist()
    found = [n for n in names if n == wanted] or [n for n in names if n.endswith(f"/{wanted}")]
    if len(found) != 1:
        what = "no" if not found else "more than one"
        raise InputError(
            plain(url),
            f"the archive of {len(names)} members has {what} '{wanted}'.",
            "correct the url in resources/files.",
        )
    if found[0].startswith("/") or ".." in PurePosixPath(found[0]).parts:
        raise InputError(plain(url), f"the member '{found[0]}' climbs out of the archive.", "do not use this archive.")
    return archive.getinfo(found[0])


class _Window(io.RawIOBase):
    """A file of which only the downloaded range can be read, at its place in the archive."""

    def __init__(self, part: IO[bytes], start: int) -> None:
        self._part, self._start = part, start

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        shift = self._start if whence == os.SEEK_SET else 0
        return self._part.seek(offset - shift, whence) + self._start

    def tell(self) -> int:
        return self._part.tell() + self._start

    def read(self, size: int = -1) -> bytes:
        return self._part.read(size)


def _unpack(archive: Any, info: Any, part: Path, out: Path, password: str, gunzip: bool, url: str) -> None:
    """Write a member from its downloaded range.

    Raises
    ------
    InputError
        If the password is wrong.
    Damaged
        If the range is not what the directory says.
    """
    import pyzipper

    try:
        with part.open("rb") as handle:
            archive.fp = _Window(handle, info.header_offset)
            with archive.open(info, pwd=password.encode() or None) as member, out.open("wb") as target:
                shutil.copyfileobj(gzip.GzipFile(fileobj=member) if gunzip else member, target, _CHUNK)
    except RuntimeError as error:
        # zipfile and pyzipper say "Bad password" and "is encrypted, password required" so.
        raise InputError(
            plain(url),
            f"cannot decrypt '{info.filename}' ({_without(str(error), password)}).",
            "correct `password` in resources/files.",
        ) from None
    except (zipfile.BadZipFile, pyzipper.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile, ValueError) as error:
        raise Damaged(f"'{info.filename}' does not unpack ({error}).") from None


def _without(text: str, secret: str) -> str:
    return text.replace(secret, "...") if secret else text
