"""Whether an artefact holds the bytes that its job wrote: its identity says how it was made, not what is in it.

A job that ends writes ``.<name>.sha256`` next to each output, in the form that ``sha256sum --check`` reads; a job that
begins compares its inputs. Files without a record (a user's own, raw downloads, which are verified when they are
fetched) are not looked at.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from histoloom.errors import InputError
from histoloom.identity import sha256_file

logger = logging.getLogger(__name__)

_PAGES: Mapping[str, tuple[str, ...]] = {
    "a web page": (".html", ".htm"),
    "an XML message": (".svg", ".xml"),
    "a JSON message": (".geojson", ".json", ".xenium"),
}

SWITCH = "HISTOLOOM_VERIFY_CONTENT"
"""Environment variable that is ``off`` where the config says ``verify_content: false``."""


def _record(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _parts(path: Path) -> list[Path]:
    """Return an artefact's file, and the ``.json`` next to it where there is one."""
    side = path.with_name(path.name + ".json")
    return [path, side] if side.is_file() else [path]


def forget(path: Path) -> None:
    """Remove the record of a file that is about to be replaced."""
    _record(path).unlink(missing_ok=True)


def remember(path: Path) -> None:
    """Write the record of a file; a folder or a link to someone else's file gets none."""
    if path.is_file() and not path.is_symlink():
        lines = [f"{sha256_file(part)}  {part.name}\n" for part in _parts(path)]
        temporary = _record(path).with_suffix(f".{os.getpid()}")
        temporary.write_text("".join(lines))
        os.replace(temporary, _record(path))


def verify(paths: Iterable[Path]) -> None:
    """Compare files with their records; the first that differs is an `InputError`."""
    if os.environ.get(SWITCH) == "off":
        return
    start, count, size = time.perf_counter(), 0, 0
    for path in paths:
        record = _record(path)
        if not (path.is_file() and record.is_file()):
            continue
        for line in record.read_text().splitlines():
            written, _, name = line.partition("  ")
            part = path.with_name(name)
            current = sha256_file(part) if part.is_file() else "missing"
            if current != written:
                differ = f"its bytes are not those that were written (sha256 {current[:12]} for {written[:12]})"
                raise changed(part, differ, path)
            count, size = count + 1, size + part.stat().st_size
    if count:
        text = "content of %d inputs (%.3f GB) is as it was written; checked in %.1f s"
        logger.info(text, count, size / 1e9, time.perf_counter() - start)


def changed(path: Path, problem: str, output: Path | None = None) -> InputError:
    """Return the error for a damaged or exchanged artefact; ``output`` is its file where `path` lies next to it."""
    target = output or path
    remedy = (
        f"make it again: `rm '{target}'`, then `snakemake --cores 2 '{target}'` with this run's --configfile; if the "
        "change is meant, set `verify_content: false`."
    )
    return InputError(path, f"{problem}: damaged, cut short, or exchanged for another file.", remedy, "content-changed")


def find_unreadable(paths: Iterable[Path]) -> InputError | None:
    """Return the error for the first file that its format's library cannot read to its end.

    For files without a record, after a library has failed: which of a job's inputs it was is not in its message.
    """
    for path in paths:
        read = _READERS.get(path.suffix)
        if read is None or not path.is_file():
            continue
        try:
            read(path)
        except Exception as error:  # noqa: BLE001 - whatever a library raises on a damaged file
            said = " ".join(str(error).split())[:200]
            return changed(path, f"it cannot be read as {path.suffix[1:]} ({type(error).__name__}: {said})")
    return None


def _read_h5(path: Path) -> None:
    import h5py

    with h5py.File(path, "r") as handle:
        handle.visititems(lambda _, node: node[()] is None if isinstance(node, h5py.Dataset) else None)


def _read_parquet(path: Path) -> None:
    import pyarrow.parquet as pq

    pq.read_table(path)


def _read_npy(path: Path) -> None:
    import numpy as np

    np.load(path, mmap_mode="r", allow_pickle=False)


def _read_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"member {damaged} is damaged")


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".h5": _read_h5,
    ".h5ad": _read_h5,
    ".parquet": _read_parquet,
    ".npy": _read_npy,
    ".npz": _read_zip,
    ".pt": _read_zip,
    ".json": lambda path: json.loads(path.read_text()),
}


def refuse_pages(paths: Iterable[Path]) -> None:
    """Refuse files of the user that are what a server or Git put in the place of data."""
    for path in paths:
        kind = unexpected_page(path, path.name.removesuffix(".gz")) if path.is_file() else ""
        if kind:
            remedy = "run `git lfs pull`" if "git-lfs" in kind else "download the file again and look at what came"
            raise InputError(path, f"is {kind} and not the file itself.", f"{remedy}.", code="file-page")


def unexpected_page(path: Path, name: str) -> str:
    """Return `page_kind` of a file whose name promises something else; empty for data."""
    kind = page_kind(path)
    return "" if name.endswith(_PAGES.get(kind, ())) else kind


def page_kind(path: Path) -> str:
    """Return which kind of page or message the bytes are; empty for data. Some hosts send errors with status 200."""
    with path.open("rb") as handle:
        head = handle.read(300).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<svg", b"<?xml")):
        # A storage service's refusal is XML with the root <Error>: no file of any name.
        page = any(mark in head for mark in (b"<!doctype html", b"<html", b"<error>"))
        return "a web page" if page else "an XML message"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer"
    return "a JSON message" if head.startswith(b"{") else ""
