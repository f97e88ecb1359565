"""Fetch one published file: from a local mirror by a link, else through its host's downloader; verified, then named."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from histoloom.artefacts import write_sidecar
from histoloom.errors import InputError
from histoloom.identity import canonical_json, sha256_file
from histoloom.kinds import load_attribute
from histoloom.sources.registry import DOWNLOADERS, ways
from histoloom.sources.transfer import DiskFull, Download, advance, check_space, disk_full, size_of
from histoloom.sources.verify import checksum_of, difference, something_else, unlike_its_name
from histoloom.sources.web import NoNetwork, PassingFault, Web, plain

logger = logging.getLogger(__name__)

_MIRROR_REMEDY = "remove `mirror_dir` to download it, or restrict the cohort to other sections (`samples:`, 'exclude')."
_ROW_REMEDY = "check the row in resources/files, or put the file into a folder and give that as mirror_dir."


class Damaged(Exception):
    """What was downloaded cannot be unpacked; a second download may be whole."""


def fetch_file(
    *, entry: Mapping[str, str], mirror: Path | None, out: Path, tries: int = 6, backoff_s: float = 1.0
) -> None:
    """Fetch one file of a source and check it.

    Parameters
    ----------
    entry
        Row of ``resources/files/<source>.tsv`` as `histoloom.sources.registry_entry` gives it. Its downloader and its
        mirrors are tried in order.
    mirror
        Folder that holds ``<source>/<file>`` in the publisher's layout; None to download. `out` becomes a link to
        the mirror's file, with an absolute target since `out` is a temporary name that will be moved.
    out
        Path to write. A download that is cut short is kept next to it under a name of its own and taken up again; two
        processes that fetch the same file take turns. Where the list gives no checksum, ``<out>.json`` records which
        version was found, and its sha256.
    tries
        Attempts without progress before a host is given up.
    backoff_s
        Pause after the first failed attempt, doubled each time, at most a minute.

    Raises
    ------
    InputError
        If the mirror lacks the file, no host gives it, the disk is full, or its bytes are not the published ones.
    """
    entry, out = {"downloader": "http", **entry}, Path(out)
    if mirror is not None:
        _link(entry, Path(mirror), out)
        return
    problems: list[InputError] = []
    with Web(tries, backoff_s) as web, _alone(out.parent / f".{_hash(entry['source'], entry['file'])}.lock", entry):
        for way in ways(entry):
            if problems:
                logger.warning("%s Going on to %s", problems[-1], plain(way["url"]))
            try:
                _fetch(web, way, out)
                return
            except DiskFull:
                raise
            except InputError as error:
                problems.append(error)
    raise _not_available(entry, problems)


def original(entry: Mapping[str, str]) -> str:
    """Return where a person finds the file, in words: some downloaders have an address of their own for every file."""
    url = entry["url"]
    if entry["downloader"] == "hub":
        return f"{entry['file']} of https://huggingface.co/{url.removeprefix('hf://')}"
    if entry["downloader"] == "zip_member":
        archive, _, member = url.partition("#")
        return f"{member} out of {archive}"
    return f"the file that {url} names" if entry["downloader"] in {"mendeley", "cellxgene"} else url


def where_to_copy(entry: Mapping[str, str]) -> str:
    """Return what to do on a machine without network."""
    return (
        f"on a machine with network, fetch {original(entry)} ({entry['citation']}) and copy it to "
        f"<folder>/{entry['source']}/{entry['file']}; here, run with `--config mirror_dir=<folder>`.{_without(entry)}"
    )


def _without(entry: Mapping[str, str]) -> str:
    return f" {entry['without']}" if entry.get("without") else ""


def _not_available(entry: Mapping[str, str], problems: Sequence[InputError]) -> InputError:
    """Put the problems of all places into one error."""
    if all(isinstance(problem, NoNetwork) for problem in problems):
        told = " ".join(dict.fromkeys(problem.problem for problem in problems))
        return NoNetwork(
            f"{entry['source']}/{entry['file']}",
            told,
            where_to_copy(entry),
        )
    if len(problems) == 1:
        return problems[0]
    told = "; ".join(f"{problem.where}: {problem.problem.rstrip('.')}" for problem in problems)
    return InputError(
        f"{entry['source']}/{entry['file']}",
        f"none of {len(problems)} places gives it: {told}.",
        f"{problems[0].remedy} Or {where_to_copy(entry)}",
    )


@contextlib.contextmanager
def _alone(path: Path, entry: Mapping[str, str]) -> Iterator[None]:
    """Hold a lock on a file's download."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("another process fetches %s: waiting for it", entry["file"])
        lock.acquire()
    try:
        yield
    finally:
        # Removed while held: whoever waits on the old file notices and makes a new one.
        path.unlink(missing_ok=True)
        lock.release()


def _link(entry: Mapping[str, str], mirror: Path, out: Path) -> None:
    """Link to the mirror's copy when it is the published file."""
    source = Path(os.path.abspath(mirror)) / entry["source"] / entry["file"]
    if not source.is_file():
        raise InputError(
            source,
            f"mirror_dir lacks this file; the original is {original(entry)}.",
            f"copy it there, {_MIRROR_REMEDY}{_without(entry)}",
        )
    record = source.with_name(source.name + ".json")
    checks = dict(entry)
    if checksum_of(entry) is None and record.is_file():
        checks |= _recorded(record)
    problem = difference(source, checks)
    if problem is None and checksum_of(checks) is None:
        problem = unlike_its_name(source, entry["file"])
        logger.warning(
            "%s: no checksum is published and none lies next to it in %s; its first bytes were looked at",
            entry["file"],
            record.name,
        )
    if problem:
        raise InputError(
            source,
            f"mirror_dir holds another file than the one published: {problem}",
            f"copy {entry['url']} there, {_MIRROR_REMEDY}",
        )
    out.unlink(missing_ok=True)
    out.symlink_to(source)
    if record.is_file() and checksum_of(entry) is None:
        shutil.copyfile(record, out.with_name(out.name + ".json"))
    logger.info("linked %s to %s%s", entry["file"], source, ", checksum right" if checksum_of(checks) else "")


def _recorded(record: Path) -> dict[str, str]:
    """Return size and sha256 of the record that an earlier fetch wrote; empty when it is another kind of file."""
    import json

    try:
        found = json.loads(record.read_text())
    except (ValueError, UnicodeDecodeError):
        return {}
    return {key: str(found[key]) for key in ("bytes", "sha256") if isinstance(found, dict) and found.get(key)}


def _fetch(web: Web, way: Mapping[str, str], out: Path) -> None:
    """Fetch a file through one downloader."""
    download: Download = load_attribute(DOWNLOADERS[way["downloader"]])(way, web)
    name = way["file"]
    part = out.parent / f".{_part_name(download)}.download"
    check_space(download, part)
    fresh = not part.exists()

    def bring() -> None:
        nonlocal fresh
        while True:
            advance(web.session, download, part, name, _ROW_REMEDY, way.get("gate", ""))
            if _settle(download, part, out, name, fresh):
                return
            fresh = True

    try:
        web.attempt(download.url, bring, lambda: size_of(part))
    except OSError as error:
        full = disk_full(error, download, part, name)
        if full is None:
            raise
        raise full from None
    _record(way, download, out)
    logger.info(
        "fetched %s (%d bytes), checked against %s; licence %s", name, size_of(out), download.proof, way["licence"]
    )


def _settle(download: Download, part: Path, out: Path, name: str, fresh: bool) -> bool:
    """Give a finished download its name; remove it and return False when a second download may help."""
    problem, what = None, ""
    if download.unpack is None:
        found = part
        what = something_else(part, name)
    else:
        found = out
        try:
            download.unpack(part, out)
        except Damaged as error:
            problem = str(error)
        except InputError:
            # A password that does not fit may also be a damaged beginning: nothing is kept of it.
            part.unlink()
            out.unlink(missing_ok=True)
            raise
    if problem is None:
        problem = difference(found, download.checks)
    if problem is None and checksum_of(download.checks) is None:
        problem = unlike_its_name(found, name)
    if problem is None:
        if found is part:
            os.replace(part, out)
        else:
            part.unlink()
        return True
    part.unlink()
    out.unlink(missing_ok=True)
    if not fresh:
        # What was taken up may have been the fault: once more from the beginning.
        logger.warning("%s: %s Once more from the beginning", plain(download.url), problem)
        return False
    if what:
        # Some hosts send a passing error with status 200.
        raise PassingFault(f"the server sent {what} instead of the file")
    raise InputError(
        plain(download.url),
        f"the bytes are not the published ones: {problem}",
        "fetch it by hand and give its folder as mirror_dir, or correct the row in resources/files if the publisher "
        "has replaced the file.",
    )


def _record(way: Mapping[str, str], download: Download, out: Path) -> None:
    """Write ``<out>.json`` where the list cannot say which bytes these are."""
    if checksum_of(way) is not None:
        return
    record = {
        "source": way["source"],
        "file": way["file"],
        "url": plain(download.url),
        "bytes": size_of(out),
        "sha256": download.checks.get("sha256") or sha256_file(out),
        "checked_against": download.proof,
        "version": dict(download.version),
        "licence": way["licence"],
    }
    write_sidecar(out, record)


def _part_name(download: Download) -> str:
    """Name a download by its content and not by `out`, which differs from run to run."""
    checksum = checksum_of(download.checks)
    if checksum and download.unpack is None:
        return checksum[:20]
    size = download.checks.get("bytes", "")
    return _hash(plain(download.url), str(download.start), str(download.stop), size, canonical_json(download.version))


def _hash(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:20]
