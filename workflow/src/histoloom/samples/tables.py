"""Count tables and position tables as publishers write them, read fast and checked cell by cell."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.text_tables import delimiter_of, read_bytes, read_text, read_text_table

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


SPACE_RANGER_COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
_ALIASES = {
    "array_row": ("array_row", "x"),
    "array_col": ("array_col", "y"),
    "pixel_x": ("pixel_x", "pxl_col_in_fullres"),
    "pixel_y": ("pixel_y", "pxl_row_in_fullres"),
    "in_tissue": ("in_tissue", "selected"),
    "region": ("region", "label"),
}
_ID_COLUMNS = ("obs_id", "barcode", "spot", "spot_id", "id", "")
_MISSING = {"", "NA", "NaN", "nan", "NULL", "null"}
_CONTROL = re.compile(
    r"(NegControl|antisense_|BLANK|Blank-|Unassigned|Deprecated|Intergenic|DeprecatedCodeword|GenomicControl)", re.I
)
STEP_PX = 40.0
"""Step of array_row and array_col where places are free, px, until um per px is known."""
_PADDED = re.compile(r"[0-9]+x[0-9]+")
_MAX_DIGITS = 9
"""int32 holds every number of nine digits."""


def as_text(values: Any) -> npt.NDArray[np.object_]:
    """Return ids as text, whether stored as bytes, text or numbers (1, 1.0 -> "1")."""
    raw = np.asarray(values)
    if raw.dtype.kind == "f":
        raw = raw.astype(np.int64)
    if raw.dtype.kind == "S":
        return np.char.decode(raw, "utf-8").astype(object)
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in raw.tolist()], dtype=object)


def is_control(names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Tell control probes, codewords and blanks by their names, as 10x writes them; (n,) bool."""
    return np.fromiter((_CONTROL.match(str(name)) is not None for name in names), bool, len(names))


def plain_id(name: str) -> str:
    """Return an id of HEST without the zeros that pad its numbers: ``010x013`` -> ``10x13``; barcodes stay."""
    if not _PADDED.fullmatch(name):
        return name
    return "x".join(str(int(number)) for number in name.split("x"))


def number(value: Any) -> float | None:
    """Return a positive finite number of a metadata json, None for anything else (NaN, "", null)."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) and result > 0 else None


def read_json(path: Path, remedy: str, code: str) -> dict[str, Any]:
    try:
        facts = json.loads(read_bytes(path))
    except ValueError as error:
        raise InputError(path, f"no JSON ({error}).", remedy, code=code) from error
    if not isinstance(facts, dict):
        raise InputError(path, "no JSON object.", remedy, code=code)
    return facts


def need_columns(table: pd.DataFrame, columns: Iterable[str], path: Path, remedy: str, code: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        problem = f"no column {', '.join(missing)}; found: {', '.join(map(str, table.columns))}."
        raise InputError(path, problem, remedy, code=code)


def read_count_table(path: Path) -> tuple[csr_matrix, pd.Index, pd.Index]:
    """Read a text table of counts, rows = observations, columns = genes, first column = ids.

    Tab, semicolon or comma, packed or not; the header may have an empty first cell or lack it, as R writes it. Returns
    `matrix`: int32, (observations, genes); `obs_ids`, `genes`: names of rows and columns, unique.
    """
    raw = read_bytes(path)
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    line, body, number = _header_of(raw)
    del raw
    delimiter = delimiter_of(line)
    header = [_bare(cell) for cell in line.split(delimiter)]
    end = delimiter.encode() + b"\n"
    if len(header) > 2 and not header[-1] and (body + b"\n").count(end) == len([*filter(None, body.split(b"\n"))]):
        # A column without a name and without a cell.
        header, body = header[:-1], (body + b"\n").replace(end, b"\n")
    n_cells = body.partition(b"\n")[0].count(delimiter.encode()) + 1
    if len(header) == n_cells - 1:
        header = ["", *header]
    if len(header) != n_cells or n_cells < 2:
        problem = f"{len(header)} cells in the header, {n_cells} in the first row: no ids and one column per gene."
        raise InputError(path, problem, "write it as tab or comma separated text.", code="counts-header")
    genes = pd.Index(header[1:], dtype=object)
    check_unique(genes, path, "gene")
    parsed = _parse_integers(body, delimiter, n_cells) or _parse_numbers(body, delimiter, genes, path, number)
    matrix, obs_ids = parsed
    check_unique(obs_ids, path, "row")
    if matrix.dtype != np.int32:
        check_counts(matrix, obs_ids, genes, path)
        matrix = matrix.astype(np.int32)
    return matrix, obs_ids, genes


def _header_of(raw: bytes) -> tuple[str, bytes, int]:
    """Return the header line, what is below it, and its number; lines of a comment above it are left out.

    The last of several first lines with # is the header where it has about as many cells as the line below.
    """
    comments: list[str] = []
    while True:
        first, _, body = raw.partition(b"\n")
        line = first.decode("utf-8", errors="replace")
        if line.startswith("#") and body:
            comments, raw = [*comments, line], body
            continue
        delimiter = delimiter_of(line)
        if comments and comments[-1].count(delimiter) + 1 >= line.count(delimiter):
            return comments[-1], raw, len(comments)
        return line, body, len(comments) + 1


def _bare(cell: str) -> str:
    return cell.strip().strip('"')


def _parse_integers(body: bytes, delimiter: str, n_cells: int) -> tuple[csr_matrix, pd.Index] | None:
    """Parse rows of plain whole numbers of up to nine digits, all at once; None where a cell is anything else.

    The ends of all cells are found by comparing bytes. Most counts are a single 0, so that only the other cells are
    turned into numbers, digit by digit from the right.
    """
    from scipy.sparse import csr_matrix

    data = np.frombuffer(body if body.endswith(b"\n") else body + b"\n", np.uint8)
    ends = np.flatnonzero((data == ord(delimiter)) | (data == ord("\n")))
    lines = ends[n_cells - 1 :: n_cells]
    if len(ends) % n_cells or not (data[lines] == ord("\n")).all() or (data == ord("\n")).sum() != len(lines):
        return None
    n_rows = len(lines)
    lengths = np.diff(ends, prepend=-1) - 1
    cells = np.flatnonzero((lengths != 1) | (data[ends - 1] != ord("0")))
    cells = cells[cells % n_cells != 0]
    stop, length = ends[cells], lengths[cells]
    if len(cells) and (length.min() < 1 or length.max() > _MAX_DIGITS):
        return None
    values = np.zeros(len(cells), np.int32)
    for place in range(int(length.max(initial=0))):
        has = length > place
        digits = data[stop[has] - 1 - place] - np.uint8(ord("0"))
        if (digits > 9).any():
            return None
        values[has] += digits.astype(np.int32) * np.int32(10**place)
    rows, columns = np.divmod(cells, n_cells)
    starts = np.concatenate([[0], lines[:-1] + 1])
    ids = [_bare(body[start:end].decode()) for start, end in zip(starts, ends[::n_cells], strict=True)]
    kept = values > 0
    pointers = np.concatenate([[0], np.cumsum(np.bincount(rows[kept], minlength=n_rows))])
    indices = (columns[kept] - 1).astype(np.int32)
    matrix = csr_matrix((values[kept], indices, pointers.astype(np.int32)), shape=(n_rows, n_cells - 1))
    return matrix, pd.Index(ids, dtype=object)


def _parse_numbers(
    body: bytes, delimiter: str, genes: pd.Index, path: Path, header: int
) -> tuple[csr_matrix, pd.Index]:
    """Parse rows cell by cell: decimals, missing values, quotation marks; names the cell that is no number."""
    from scipy.sparse import csr_matrix, vstack

    ids, rows = [], []
    for number, line in enumerate(body.decode("utf-8", errors="replace").split("\n"), header + 1):
        if not line.strip():
            continue
        name, *cells = map(_bare, line.split(delimiter))
        if len(cells) != len(genes):
            problem = f"not a regular table: line {number} has {len(cells) + 1} cells, {len(genes) + 1} expected."
            raise InputError(path, problem, "fetch it again.", code="counts-ragged")
        ids.append(name)
        rows.append(csr_matrix([_number(cell, name, gene, path) for cell, gene in zip(cells, genes, strict=True)]))
    return csr_matrix(vstack(rows), dtype=np.float64), pd.Index(ids, dtype=object)


def _number(cell: str, obs_id: str, gene: str, path: Path) -> float:
    try:
        return float("nan") if cell in _MISSING else float(cell)
    except ValueError:
        refuse_count(path, obs_id, gene, cell)


def check_counts(
    matrix: Any, obs_ids: Sequence[str] | pd.Index, genes: Sequence[str] | pd.Index, where: str | Path
) -> None:
    """Check that a matrix, dense or sparse, holds counts."""
    from scipy.sparse import coo_matrix, issparse

    values = np.asarray(matrix.data if issparse(matrix) else matrix)
    bad = are_no_counts(values)
    if not bad.any():
        return
    if issparse(matrix):
        entries = coo_matrix(matrix.tocsr())
        at = int(np.flatnonzero(are_no_counts(entries.data))[0])
        row, column, value = int(entries.row[at]), int(entries.col[at]), entries.data[at]
    else:
        row, column = (int(i) for i in np.argwhere(bad)[0])
        value = values[row, column]
    refuse_count(where, obs_ids[row], genes[column], value, int(bad.sum()))


def are_no_counts(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which values are no whole numbers from 0 up that int32 can hold."""
    top = np.iinfo(np.int32).max
    if np.issubdtype(values.dtype, np.integer) or values.dtype == bool:
        return np.asarray((values < 0) | (values > top))
    with np.errstate(invalid="ignore"):
        return np.asarray(~((values >= 0) & (values <= top) & (values == np.floor(values))))


def refuse_count(where: str | Path, obs_id: str, gene: str, value: Any, n_bad: int = 1) -> NoReturn:
    """Raise the `InputError` about a value that is no count: a number, or the text of a cell."""
    if isinstance(value, str):
        reason = "is no number"
    elif np.isnan(value):
        reason = "is missing (NaN)"
    elif value < 0:
        reason = "is negative"
    else:
        reason = "is no whole number" if value != np.floor(value) else "is too large for a count"
    shown = f"'{value}'" if isinstance(value, str) else str(value)
    more = f" ({n_bad} such values in all)" if n_bad > 1 else ""
    problem = f"the value {shown} of spot '{obs_id}', gene '{gene}' {reason}{more}; counts are whole numbers from 0 up."
    raise InputError(where, problem, "give the raw, untransformed counts.", code="no-counts")


def check_unique(names: pd.Index, where: str | Path, what: str) -> None:
    """Check that names are present and unique."""
    if names.hasnans or (names == "").any():
        raise InputError(where, f"a {what} has no name.", f"name every {what}.", code=f"{what}-without-name")
    if not names.is_unique:
        repeated = names[names.duplicated()]
        problem = f"{what} '{repeated[0]}' is there more than once ({len(repeated.unique())} duplicated names in all)."
        raise InputError(where, problem, "keep one of each.", code=f"{what}-twice")


def read_positions(path: Path, *, array_optional: bool = False) -> pd.DataFrame:
    """Read where the observations are.

    Space Ranger's ``tissue_positions_list.csv`` (no header), ``tissue_positions.csv`` and ``.parquet``, or any text
    table with a header that names array coordinates (``array_row``, ``array_col`` or ``x``, ``y``) and centres in
    full-resolution pixels (``pixel_x`` = column, ``pixel_y`` = row); ids in a column ``obs_id`` or ``barcode``, else
    made of the array coordinates as ``<x>x<y>``. Optional: ``in_tissue`` (or ``selected``), ``region`` (or ``label``).
    Index obs_id; array_row, array_col int64; pixel_x, pixel_y float64, level-0 px; in_tissue bool; region (str, ""
    where empty) when the table has one. `array_optional`: ids and pixels alone are enough; array_row and array_col are
    then pixel_y and pixel_x in steps of `STEP_PX`, and ``attrs["free"]`` is True.
    """
    return tidy_positions(_read_table(path), path, array_optional=array_optional)


def tidy_positions(table: pd.DataFrame, path: Path, *, array_optional: bool = False) -> pd.DataFrame:
    """Choose and check the columns of a positions table; returns and raises as `read_positions`."""
    columns = {name: next((c for c in names if c in table), None) for name, names in _ALIASES.items()}
    missing = [n for n in ("array_row", "array_col", "pixel_x", "pixel_y") if columns[n] is None]
    free = array_optional and missing == ["array_row", "array_col"] and any(c in table for c in _ID_COLUMNS)
    if free:
        places = {f"array_{n}": _numbers(table[columns[f"pixel_{p}"]], path) for n, p in (("row", "y"), ("col", "x"))}
        table = table.assign(**{name: np.floor(values / STEP_PX) for name, values in places.items()})
        columns |= {name: name for name in places}
    elif missing:
        problem = f"no column for {', '.join(missing)}; found: {', '.join(map(str, table.columns))}."
        remedy = "name them x, y (array), pixel_x, pixel_y (full-resolution column, row), or as Space Ranger does."
        raise InputError(path, problem, remedy, code="positions-columns")
    positions = pd.DataFrame(index=table.index)
    for name in ("array_row", "array_col", "pixel_x", "pixel_y"):
        positions[name] = _numbers(table[columns[name]], path)
    for name in ("array_row", "array_col"):
        fractions = positions[name][positions[name] % 1 != 0]
        if len(fractions):
            problem = f"column '{columns[name]}' holds {fractions.iloc[0]}; array coordinates are whole numbers."
            raise InputError(path, problem, "round them to the array's grid.", code="positions-fractions")
        positions[name] = positions[name].astype(np.int64)
    in_tissue, region = columns["in_tissue"], columns["region"]
    positions["in_tissue"] = True if in_tissue is None else _flags(table[in_tissue], path)
    if region is not None:
        labels = table[region].astype(object)
        positions["region"] = labels.where(labels.notna(), "").astype(str).str.strip()
    id_column = next((c for c in _ID_COLUMNS if c in table), None)
    if id_column is None:
        ids = positions["array_row"].astype(str) + "x" + positions["array_col"].astype(str)
    else:
        ids = table[id_column].astype(str)
    positions.index = pd.Index(ids.to_numpy(), dtype=object)
    check_unique(positions.index, path, "spot")
    positions.attrs["free"] = free
    return positions


def _read_table(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet" and path.is_file() and path.stat().st_size:
        try:
            table = pd.read_parquet(path)
            return table if table.index.name is None else table.reset_index()
        except (OSError, ValueError) as error:
            problem = f"not a parquet file ({error})."
            raise InputError(path, problem, "fetch it again.", code="positions-unreadable") from error
    first = read_text(path).partition("\n")[0].split(",")
    headless = len(first) == len(SPACE_RANGER_COLUMNS) and first[1].strip() in {"0", "1"}
    return read_text_table(path, SPACE_RANGER_COLUMNS if headless else None)


def _flags(column: pd.Series, path: Path) -> pd.Series:
    """Return a column of 0 and 1, or of False and True, as bool."""
    words = {"true": "1", "false": "0"}
    as_text = column.astype(str).str.lower()
    return _numbers(as_text.where(~as_text.isin(list(words)), as_text.map(words)), path) == 1


def as_numbers(column: pd.Series) -> pd.Series:
    """Return a column as float64, NaN for what is no number; text is read to the last digit."""
    if column.dtype != object:
        return pd.Series(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
    return pd.Series([_float(cell) for cell in column], index=column.index, name=column.name, dtype=np.float64)


def _float(cell: object) -> float:
    try:
        return float("nan") if "_" in str(cell) else float(str(cell))
    except ValueError:
        return float("nan")


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    """Return a column as float64, refusing what is no finite number."""
    values = as_numbers(column)
    bad = ~np.isfinite(values.to_numpy())
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        problem = f"data row {row + 1} has '{column.iloc[row]}' in column '{column.name}' ({int(bad.sum())} such rows)."
        remedy = "every spot needs numbers there: remove the rows or fix them."
        raise InputError(path, problem, remedy, code="positions-numbers")
    return values
