"""One member of a remote zip archive, by HTTP ranges: 20 GB need not be fetched for 200 MB; encrypted archives too.

The archive's directory is read from its end; then the member is streamed out and checked by the archive's own CRC, or
the HMAC of an encrypted one. A member that is cut begins anew.
"""

from __future__ import annotations

import gzip
import itertools
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from histoloom.errors import InputError
from histoloom.redaction import plain
from histoloom.sources.registry import checks_of
from histoloom.sources.transfer import Download
from histoloom.sources.web import TIMEOUT_S, Web, refusal, request_error, shortened

_CHUNK = 1 << 20
_BY_HAND = "download the whole archive by hand, unpack it and give its folder as mirror_dir."


def locate(entry: Mapping[str, str], web: Web) -> Download:
    """Return how to stream a member out of an archive.

    The row's url is ``<archive>#<member>``, with ``%20`` for blanks. A member that ends with .gz is unpacked further
    when the file's name does not. A folder in front of the member is tolerated.
    """
    url, _, fragment = entry["url"].partition("#")
    archive = _open_archive(url, web)
    info = _find(archive, unquote(fragment), url)
    password = entry.get("password", "")
    gunzip = info.filename.endswith(".gz") and not entry["file"].endswith(".gz")

    unread = [archive]

    def write(part: Path) -> None:
        first = bool(unread)
        # After a cut line the archive's connection is of no use.
        opened = unread.pop() if first else _open_archive(url, web)
        try:
            _write(opened, info, part, password, gunzip, url)
        except InputError as error:
            if not first or error.code != "zip-damaged":
                raise
            # A line that is cut early looks like damage: once more.
            raise ConnectionError(error.problem) from None

    checksums = checks_of(entry)
    size = entry.get("bytes") or ("" if gunzip else str(info.file_size))
    return Download(
        url,
        {"bytes": size, **checksums},
        write=write,
        version={"archive": plain(url), "member": info.filename, "crc32": f"{info.CRC:08x}"},
        proof="the published checksum" if checksums else "the archive's own check",
    )


def _open_archive(url: str, web: Web) -> Any:
    """Read a remote archive's directory, as `remotezip.RemoteZip` does for plain archives."""
    import pyzipper
    import remotezip
    import requests

    remote = remotezip.RemoteIO(remotezip.RemoteFetcher(url, session=web, timeout=TIMEOUT_S).fetch)
    try:
        archive = pyzipper.AESZipFile(remote)
    except remotezip.RangeNotSupported:
        problem = "the server gives no ranges, so that a member cannot be fetched alone."
        raise InputError(plain(url), problem, _BY_HAND, "zip-ranges") from None
    except remotezip.RemoteIOError as error:
        cause = error.__context__
        if isinstance(cause, requests.HTTPError) and cause.response is not None:
            raise refusal(cause.response, url, _BY_HAND, "", web.tries) from None
        raise request_error(cause if isinstance(cause, Exception) else error, url, web.tries) from None
    except (pyzipper.BadZipFile, remotezip.RemoteZipError) as error:
        problem = f"its end is no zip directory ({error})."
        raise InputError(plain(url), problem, _BY_HAND, "zip-directory") from None
    starts = sorted(info.header_offset for info in archive.infolist())
    remote.set_position_to_size({start: end - start for start, end in itertools.pairwise([*starts, archive.start_dir])})
    return archive


def _find(archive: Any, wanted: str, url: str) -> Any:
    if not wanted or wanted.startswith("/") or ".." in PurePosixPath(wanted).parts or "\\" in wanted:
        problem = f"'{wanted}' is no path inside an archive."
        raise InputError(plain(url), problem, "correct the url in resources/files.", "zip-path")
    names = archive.namelist()
    members = [n for n in names if n == wanted] or [n for n in names if n.endswith(f"/{wanted}")]
    if len(members) != 1:
        count = "no" if not members else "more than one"
        problem = f"the archive of {len(names)} members has {count} '{wanted}'."
        raise InputError(plain(url), problem, "correct the url in resources/files.", "zip-member")
    if members[0].startswith("/") or ".." in PurePosixPath(members[0]).parts:
        problem = f"the member '{members[0]}' points outside the archive."
        raise InputError(plain(url), problem, "do not use this archive.", "zip-escape")
    return archive.getinfo(members[0])


def _write(archive: Any, info: Any, part: Path, password: str, gunzip: bool, url: str) -> None:
    import pyzipper
    import remotezip

    try:
        with archive.open(info, pwd=password.encode() or None) as member, part.open("wb") as target:
            shutil.copyfileobj(gzip.GzipFile(fileobj=member) if gunzip else member, target, _CHUNK)
    except remotezip.RemoteIOError as error:
        raise ConnectionError(str(error)) from None
    except RuntimeError as error:
        # pyzipper says "Bad password" and "is encrypted, password required" so.
        said = shortened(str(error).replace(password, "...") if password else str(error))
        problem = f"cannot decrypt '{info.filename}' ({said})."
        raise InputError(plain(url), problem, "correct `password` in resources/files.", "zip-password") from None
    except (zipfile.BadZipFile, pyzipper.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile) as error:
        problem = f"the bytes are not the published ones: '{info.filename}' does not unpack ({error})."
        raise InputError(plain(url), problem, _BY_HAND, "zip-damaged") from None
