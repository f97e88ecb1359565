"""Fetch one published file: from a local mirror by a link, else from its host; verified, then named."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from histoloom.artefacts import write_sidecar
from histoloom.content import page_kind, unexpected_page
from histoloom.errors import InputError
from histoloom.identity import canonical_json, sha256_file
from histoloom.kinds import load_attribute
from histoloom.redaction import plain
from histoloom.sources.registry import CHECKSUMS, DOWNLOADERS, with_mirrors
from histoloom.sources.transfer import Download, bring, check_space, size_of
from histoloom.sources.web import Web

logger = logging.getLogger(__name__)

_MIRROR_REMEDY = "remove `mirror_dir` to download it, or restrict the cohort to other sections (`samples:`, 'exclude')."

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


# What a file may begin as, by how its name ends; from another file it is a message in place of the data.


def fetch_file(
    *, entry: Mapping[str, str], mirror: Path | None, out: Path, tries: int = 6, backoff_s: float = 1.0
) -> None:
    """Fetch one file of a source (its row of `histoloom.sources.registry_entry`) and check it.

    From a `mirror` folder with ``<source>/<file>``, `out` becomes a link with an absolute target, since `out` is a
    temporary name. Else the row's host and its mirrors are tried in order, each given up after `tries` attempts without
    progress. A download that is cut short is kept next to `out` and resumed; two processes that fetch the same file
    take turns. Where the list gives no checksum, ``<out>.json`` records the version that was fetched, and its sha256.
    """
    entry, out = {"downloader": "http", **entry}, Path(out)
    if mirror is not None:
        _link(entry, Path(mirror), out)
        return
    problems: list[InputError] = []
    with Web(tries, backoff_s) as web, _lock(out.parent / f".{_hash(entry['source'], entry['file'])}.lock", entry):
        for place in with_mirrors(entry):
            if problems:
                logger.warning("%s Going on to %s", problems[-1], plain(place["url"]))
            try:
                _fetch(web, place, out)
                return
            except InputError as error:
                if error.code == "disk-full":
                    raise
                problems.append(error)
    where = f"{entry['source']}/{entry['file']}"
    if all(problem.code == "no-network" for problem in problems):
        unreachable = " ".join(dict.fromkeys(problem.problem for problem in problems))
        raise InputError(where, unreachable, where_to_copy(entry), "no-network")
    if len(problems) == 1:
        raise problems[0]
    listed = "; ".join(f"{problem.where}: {problem.problem.rstrip('.')}" for problem in problems)
    remedy = f"{problems[0].remedy} Or {where_to_copy(entry)}"
    raise InputError(where, f"none of {len(problems)} places gives it: {listed}.", remedy, "no-place")


def original(entry: Mapping[str, str]) -> str:
    """Return where a person finds the file, in words: some hosts have an address of their own for every file."""
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
        f"<folder>/{entry['source']}/{entry['file']}; here, run with `--config mirror_dir=<folder>`."
        f" {entry.get('fallback', '')}"
    ).strip()


@contextlib.contextmanager
def _lock(path: Path, entry: Mapping[str, str]) -> Iterator[None]:
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
        problem = f"mirror_dir lacks this file; the original is {original(entry)}."
        remedy = f"copy it there, {_MIRROR_REMEDY} {entry.get('fallback', '')}".strip()
        raise InputError(source, problem, remedy, "mirror-missing")
    record = source.with_name(source.name + ".json")
    checks = dict(entry)
    if checksum_of(entry) is None and record.is_file():
        # What an earlier fetch wrote; nothing of another kind of file.
        with contextlib.suppress(ValueError, AttributeError):
            facts = json.loads(record.read_text())
            checks |= {key: str(facts[key]) for key in ("bytes", "sha256") if facts.get(key)}
    other = difference(source, checks)
    if other is None and checksum_of(checks) is None:
        logger.warning("%s: no checksum is published or recorded; only its first bytes were checked", entry["file"])
    if other:
        problem = f"mirror_dir holds another file than the one published: {other}"
        raise InputError(source, problem, f"copy {entry['url']} there, {_MIRROR_REMEDY}", "mirror-bytes")
    out.unlink(missing_ok=True)
    out.symlink_to(source)
    if record.is_file() and checksum_of(entry) is None:
        shutil.copyfile(record, out.with_name(out.name + ".json"))
    logger.info("linked %s to %s%s", entry["file"], source, ", checksum right" if checksum_of(checks) else "")


def _fetch(web: Web, place: Mapping[str, str], out: Path) -> None:
    download: Download = load_attribute(DOWNLOADERS[place["downloader"]])(place, web)
    name = place["file"]
    # By its content and not by `out`, which differs from run to run.
    checksum = (checksum_of(download.checks) or "")[:20]
    content = checksum or _hash(plain(download.url), download.checks.get("bytes", ""), canonical_json(download.version))
    part = out.parent / f".{content}.download"
    check_space(download, part)
    resumed, pages = part.exists(), 0
    while True:
        try:
            bring(web, download, part, name, place.get("gate", ""))
        except InputError:
            if download.write is not None:
                part.unlink(missing_ok=True)
            raise
        page = unexpected_page(part, name) if download.write is None else ""
        problem = difference(part, {**download.checks, "file": name})
        if problem is None:
            break
        part.unlink()
        if resumed:
            # The fault may lie in what was there before: once more from the beginning.
            logger.warning("%s: %s Once more from the beginning", plain(download.url), problem)
            resumed = False
            continue
        pages += 1
        if page and pages < web.tries:
            # Some hosts send a passing error with status 200.
            time.sleep(web.backoff_s * 2**pages)
            continue
        problem = f"the server sent {page} instead of the file." if page else problem
        remedy = "fetch it by hand and give its folder as mirror_dir, or correct the row if the publisher replaced it."
        raise InputError(plain(download.url), f"not the published bytes: {problem}", remedy, "other-bytes")
    os.replace(part, out)
    if checksum_of(place) is None:
        # What the list cannot say: which bytes these are.
        record = {
            "source": place["source"],
            "file": name,
            "url": plain(download.url),
            "bytes": size_of(out),
            "sha256": download.checks.get("sha256") or sha256_file(out),
            "checked_against": download.proof,
            "version": dict(download.version),
            "licence": place["licence"],
        }
        write_sidecar(out, record)
    text = "fetched %s (%d bytes), checked against %s; licence %s"
    logger.info(text, name, size_of(out), download.proof, place["licence"])


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

    A right checksum decides: a published size that disagrees with it is wrong, and only logged. Without a checksum, a
    file must have the published size, if there is one, and begin as its name promises.
    """
    size, expected = path.stat().st_size, entry.get("bytes")
    wrong_size = bool(expected) and int(expected or 0) != size
    page = f" (it is {kind})" if (kind := page_kind(path)) else ""
    column = next((name for name in CHECKSUMS if entry.get(name)), None)
    if column is None:
        if wrong_size:
            return f"it has {size} bytes, {expected} were expected{page}."
        return check_magic_bytes(path, entry["file"])
    digest = digest_of(path, column)
    if digest != entry[column].lower():
        sizes = f"it has {size} bytes, {expected} were expected; " if wrong_size else ""
        return f"{sizes}its {column} is {digest}, not {entry[column]}{page}."
    if wrong_size:
        text = "%s: its %s is right, but the list gives it %s bytes and it has %d: correct `bytes` in resources/files"
        logger.warning(text, entry["file"], column, expected, size)
    return None


def check_magic_bytes(path: Path, name: str) -> str | None:
    """Say what is wrong with a file without a published checksum: empty, a web page, other first bytes."""
    if path.stat().st_size == 0:
        return "it is empty."
    if page := unexpected_page(path, name):
        return f"it is {page}."
    expected = next((starts for end, starts in _MAGIC_BYTES.items() if name.endswith(end)), (b"",))
    with path.open("rb") as handle:
        right = handle.read(8).startswith(expected)
    return None if right else f"it does not begin as a {Path(name).suffix} file does."


def _hash(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:20]
