"""The one reader of text tables: sheets, positions, labels, annotations, lists of genes.

UTF-8 with or without byte order mark, packed with gzip or not; lines end with LF, CRLF or CR; cells are separated by
tabs, semicolons or commas. Every cell is text, stripped: ``NA``, ``nan``, ``1E3`` and ``007`` are names. A line that
starts with ``#`` is a comment; rows and columns without any cell are left out.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.limits import FREE_TABLE_BYTES, MAX_TABLE_BYTES, MAX_TABLE_RATIO

DELIMITERS = ("\t", ";", ",")
_AGAIN = "fetch it again, or leave it out: a section by a reason in the sheet's 'exclude' column."


def read_bytes(path: str | Path) -> bytes:
    """Return a file's bytes without byte order mark, unpacked when they are gzip (by the bytes, not the name)."""
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "the file is missing.", f"put it there, {_AGAIN}", code="file-missing")
    if path.stat().st_size > MAX_TABLE_BYTES:
        problem = f"it has {path.stat().st_size} bytes, more than a text table may have ({MAX_TABLE_BYTES})."
        raise InputError(path, problem, "give counts of this size as h5ad or as a 10x folder.", code="table-too-large")
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = _unpacked(raw, path)
        except (EOFError, OSError, zlib.error) as error:
            problem = f"the gzip is damaged or cut short ({error})."
            raise InputError(path, problem, _AGAIN, code="gzip-damaged") from error
    if not raw.strip():
        raise InputError(path, "the file is empty.", _AGAIN, code="file-empty")
    return raw.removeprefix(b"\xef\xbb\xbf")


def _unpacked(packed: bytes, path: Path) -> bytes:
    parts, size = [], 0
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as handle:
        while part := handle.read(1 << 24):
            size += len(part)
            if size > MAX_TABLE_BYTES or size > max(FREE_TABLE_BYTES, MAX_TABLE_RATIO * len(packed)):
                problem = f"{len(packed)} bytes unpack to more than {size}: no table of this workflow is so large."
                raise InputError(path, problem, _AGAIN, code="table-too-large")
            parts.append(part)
    return b"".join(parts)


def read_text(path: str | Path) -> str:
    """Return a file's text with LF line ends; raises where it is not UTF-8."""
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 text ({error}).", "save it as UTF-8.", code="text-encoding") from error
    if "\x00" in text:
        raise InputError(path, "holds binary data, no text.", "save it as UTF-8 text.", code="text-encoding")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def delimiter_of(line: str) -> str:
    """Return the delimiter of a header line: a tab if there is one, else the more frequent of semicolon and comma."""
    return max(DELIMITERS, key=lambda sign: (sign == "\t" and sign in line, line.count(sign)))


def _is_header(line: str, below: str) -> bool:
    """Whether a line with # at its start is the header of the table below: as many cells, and none is a number."""
    delimiter = delimiter_of(below)
    names, cells = line.split(delimiter), below.split(delimiter)
    numbers = [any(map(_is_number, row)) for row in (names, cells)]
    return line[0] == "#" and len(names) == len(cells) > 1 and numbers == [False, True]


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip(' "'))
    except ValueError:
        return False
    return True


def read_text_table(path: str | Path, header: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table; all columns are text, and the index is the line of each row in the file, from 1.

    ``header`` names the columns of a table without a header line. A header one name short, as R writes it, gets ``""``
    as its first name. Lines that begin with # are comments, but for a header over cells of which some are numbers.
    """
    every = [(n, line) for n, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    lines = [(n, line) for n, line in every if line[0] != "#"]
    if header is None and every and lines and _is_header(every[0][1], lines[0][1]):
        lines.insert(0, (every[0][0], every[0][1][1:]))
    delimiter = delimiter_of(lines[0][1]) if lines else "\t"
    try:
        reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
        rows = [[cell.strip() for cell in row] for row in reader]
    except csv.Error as error:
        raise InputError(path, f"not a regular table ({error}).", _AGAIN, code="table-irregular") from error
    numbers = [n for n, _ in lines]
    if len(rows) != len(lines):
        problem = "a quotation mark is not closed in its line."
        raise InputError(path, problem, "remove or close it.", code="table-irregular")
    names = list(header) if header is not None else rows.pop(0) if rows else []
    numbers = numbers[len(numbers) - len(rows) :]
    kept = [i for i, row in enumerate(rows) if any(row)]
    rows, numbers = [rows[i] for i in kept], [numbers[i] for i in kept]
    if header is None and rows and names and names[0] and all(len(row) == len(names) + 1 for row in rows):
        names = ["", *names]
    width = max([len(names), *map(len, rows)])
    names += [""] * (width - len(names))
    cells = np.array([row + [""] * (width - len(row)) for row in rows], dtype=object).reshape(len(rows), width)
    filled = np.array([bool(name) or i == 0 for i, name in enumerate(names)]) | (cells != "").any(axis=0)
    names, cells = [name for name, use in zip(names, filled, strict=True) if use], cells[:, filled]
    nameless = [i for i, name in enumerate(names) if not name and i > 0]
    if nameless:
        row = int(np.flatnonzero(cells[:, nameless[0]] != "")[0])
        problem = f"line {numbers[row]} has '{cells[row, nameless[0]]}' in column {nameless[0] + 1}, which has no name."
        remedy = "give every column a name; put a cell that holds the delimiter into quotation marks."
        raise InputError(path, problem, remedy, code="table-irregular")
    twice = pd.Index(names)[pd.Index(names).duplicated()]
    if len(twice):
        raise InputError(path, f"column '{twice[0]}' is there twice.", "keep one of them.", code="table-column-twice")
    return pd.DataFrame(cells, index=numbers, columns=pd.Index(names, dtype=object))
