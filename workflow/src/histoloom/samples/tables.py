"""Count tables and position tables as publishers write them, read fast and checked cell by cell."""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)

EXCLUDE = "or give the section a reason in the sheet's 'exclude' column."
SPACE_RANGER_COLUMNS = (
    "barcode",
    "in_tissue",
    "array_row",
    "array_col",
    "pxl_row_in_fullres",
    "pxl_col_in_fullres",
)
_ALIASES = {
    "array_row": ("array_row", "x"),
    "array_col": ("array_col", "y"),
    "pixel_x": ("pixel_x", "pxl_col_in_fullres"),
    "pixel_y": ("pixel_y", "pxl_row_in_fullres"),
    "in_tissue": ("in_tissue", "selected"),
    "region": ("region", "label"),
}
_ID_COLUMNS = ("obs_id", "barcode", "spot", "spot_id", "id", "Unnamed: 0")


@dataclass(frozen=True)
class Counts:
    """Raw counts.

    Attributes
    ----------
    matrix
        int32 CSR, (observations, genes).
    obs_ids, genes
        Names of rows and columns, unique.
    merged_genes
        How many columns were added to another of the same name (10x symbols that several Ensembl ids share).
    """

    matrix: csr_matrix
    obs_ids: pd.Index
    genes: pd.Index
    merged_genes: int = 0


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes, unpacked when they are gzip (told by the bytes, not by the name).

    Raises
    ------
    InputError
        If the file is missing, empty or a gzip cut short.
    """
    if not path.is_file():
        raise InputError(path, "the file is missing.", f"put it there, {EXCLUDE}")
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(
                path, f"the gzip is damaged or cut short ({error}).", f"fetch it again, {EXCLUDE}"
            ) from error
    if not raw.strip():
        raise InputError(path, "the file is empty.", f"fetch it again, {EXCLUDE}")
    return raw


def read_count_table(path: Path) -> Counts:
    """Read a text table of counts, rows = observations, columns = genes, first column = ids.

    Tab or comma, packed or not; the header may have an empty first cell or lack it, as R writes it.

    Raises
    ------
    InputError
        If the table is ragged, has duplicate ids or genes, or cells that are no counts.
    """
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    raw = read_bytes(path)
    first, _, rest = raw.partition(b"\n")
    delimiter = "\t" if b"\t" in first else ","
    header = [cell.strip().strip('"') for cell in first.decode("utf-8-sig").rstrip("\r").split(delimiter)]
    n_cells = rest.partition(b"\n")[0].count(delimiter.encode()) + 1
    if len(header) == n_cells - 1:
        header = ["", *header]
    if len(header) != n_cells or n_cells < 2:
        raise InputError(
            path,
            f"the header has {len(header)} cells and the first row {n_cells}: no table of counts with ids in the "
            "first column and one gene per further column.",
            f"write it as tab or comma separated text, {EXCLUDE}",
        )
    del raw
    try:
        table = pa_csv.read_csv(
            io.BytesIO(rest),
            # One block: the type of a column is then told from all of its cells.
            read_options=pa_csv.ReadOptions(block_size=len(rest) + 1, autogenerate_column_names=True),
            parse_options=pa_csv.ParseOptions(delimiter=delimiter),
            convert_options=pa_csv.ConvertOptions(
                column_types={"f0": pa.string()},
                # "NA" must read as a missing count and not turn its column into text.
                null_values=["", "NA", "NaN", "nan", "NULL", "null"],
            ),
        )
    except pa.ArrowInvalid as error:
        raise InputError(path, f"not a regular table ({error}).", f"fetch it again, {EXCLUDE}") from error
    obs_ids, genes = pd.Index(table.column(0).to_pylist(), dtype=object), pd.Index(header[1:], dtype=object)
    check_unique(obs_ids, path, "row")
    check_unique(genes, path, "gene")
    return Counts(_to_csr(table, obs_ids, genes, path), obs_ids, genes)


def _to_csr(table: Any, obs_ids: pd.Index, genes: pd.Index, path: Path) -> csr_matrix:
    """Turn the columns of an Arrow table (first = ids) into an int32 CSR matrix."""
    import pyarrow as pa
    from scipy.sparse import csr_matrix

    dense = np.zeros((table.num_rows, len(genes)), np.float64)
    for index, column in enumerate(table.columns[1:]):
        if pa.types.is_string(column.type):
            row, text = _first_text(column)
            _refuse(path, obs_ids[row], genes[index], f"'{text}'", "is no number")
        dense[:, index] = column.to_numpy()
    check_counts(dense, obs_ids, genes, path)
    return csr_matrix(dense.astype(np.int32))


def _first_text(column: Any) -> tuple[int, str]:
    """Return row and text of the first cell that is no number."""
    values = pd.Series(column.to_pylist())
    bad = values.notna() & pd.to_numeric(values, errors="coerce").isna()
    row = int(np.flatnonzero(bad.to_numpy())[0])
    return row, str(values.iloc[row])


def check_counts(
    matrix: Any, obs_ids: Sequence[str] | pd.Index, genes: Sequence[str] | pd.Index, where: str | Path
) -> None:
    """Check that a matrix, dense or sparse, holds counts.

    Raises
    ------
    InputError
        Naming the first observation and gene whose value is NaN, infinite, negative, fractional or beyond int32.
    """
    from scipy.sparse import coo_matrix, issparse

    values = np.asarray(matrix.data if issparse(matrix) else matrix)
    if np.issubdtype(values.dtype, np.integer) or values.dtype == bool:
        bad = (values < 0) | (values > np.iinfo(np.int32).max)
    else:
        with np.errstate(invalid="ignore"):
            bad = ~((values >= 0) & (values <= np.iinfo(np.int32).max) & (values == np.floor(values)))
    if not bad.any():
        return
    if issparse(matrix):
        entries = coo_matrix(matrix.tocsr())
        at = int(np.flatnonzero(_is_bad(entries.data))[0])
        row, column, value = int(entries.row[at]), int(entries.col[at]), entries.data[at]
    else:
        row, column = (int(i) for i in np.argwhere(bad)[0])
        value = values[row, column]
    reason = (
        "is missing (NaN)"
        if np.isnan(value)
        else "is negative"
        if value < 0
        else "is no whole number"
        if value != np.floor(value)
        else "is too large for a count"
    )
    _refuse(where, obs_ids[row], genes[column], str(value), reason, int(bad.sum()))


def _is_bad(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which values are no counts."""
    values = values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return ~((values >= 0) & (values <= np.iinfo(np.int32).max) & (values == np.floor(values)))


def _refuse(path: str | Path, obs_id: str, gene: str, value: str, reason: str, n_bad: int = 1) -> None:
    more = f" ({n_bad} such values in all)" if n_bad > 1 else ""
    raise InputError(
        path,
        f"the value {value} of spot '{obs_id}', gene '{gene}' {reason}{more}; raw counts are whole numbers from 0 up.",
        f"give the raw, untransformed counts, {EXCLUDE}",
    )


def check_unique(names: pd.Index, where: str | Path, what: str) -> None:
    """Check that names are present and unique.

    Raises
    ------
    InputError
        Naming the first that is empty or repeated.
    """
    if names.hasnans or (names == "").any():
        raise InputError(where, f"a {what} has no name.", f"name every {what}, {EXCLUDE}")
    if not names.is_unique:
        repeated = names[names.duplicated()]
        raise InputError(
            where,
            f"{what} '{repeated[0]}' is there more than once ({len(repeated.unique())} duplicated names in all).",
            f"keep one of each, {EXCLUDE}",
        )


def read_positions(path: Path) -> pd.DataFrame:
    """Read where the observations are.

    Space Ranger's ``tissue_positions_list.csv`` (no header), ``tissue_positions.csv`` and ``.parquet``, or any text
    table with a header that names array coordinates (``array_row``, ``array_col`` or ``x``, ``y``) and centres in
    full-resolution pixels (``pixel_x`` = column, ``pixel_y`` = row); ids in a column ``obs_id`` or ``barcode``, else
    made of the array coordinates as ``<x>x<y>``. Optional: ``in_tissue`` (or ``selected``), ``region`` (or ``label``).

    Returns
    -------
    DataFrame
        Index obs_id; array_row, array_col int64; pixel_x, pixel_y float64, level-0 px; in_tissue bool; region (str, ""
        where empty) when the table has one.

    Raises
    ------
    InputError
        If columns are missing, ids repeat or coordinates are no numbers.
    """
    return tidy_positions(_read_table(path), path)


def tidy_positions(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Choose and check the columns of a positions table; returns and raises as `read_positions`."""
    columns = {name: next((c for c in names if c in table), None) for name, names in _ALIASES.items()}
    missing = [n for n in ("array_row", "array_col", "pixel_x", "pixel_y") if columns[n] is None]
    if missing:
        raise InputError(
            path,
            f"no column for {', '.join(missing)}; found: {', '.join(map(str, table.columns))}.",
            "name the columns x, y (array) and pixel_x, pixel_y (full-resolution pixels: column, row), "
            "or give Space Ranger's tissue_positions file.",
        )
    found = pd.DataFrame(index=table.index)
    for name in ("array_row", "array_col", "pixel_x", "pixel_y"):
        found[name] = _numbers(table[columns[name]], path)
    for name in ("array_row", "array_col"):
        if (found[name] % 1 != 0).any():
            raise InputError(
                path,
                f"column '{columns[name]}' holds {found[name][found[name] % 1 != 0].iloc[0]}; array coordinates are "
                "whole numbers.",
                "round them to the array's grid.",
            )
        found[name] = found[name].astype(np.int64)
    in_tissue, region = columns["in_tissue"], columns["region"]
    found["in_tissue"] = True if in_tissue is None else _numbers(table[in_tissue], path) == 1
    if region is not None:
        labels = table[region].astype(object)
        found["region"] = labels.where(labels.notna(), "").astype(str).str.strip()
    id_column = next((c for c in _ID_COLUMNS if c in table), None)
    if id_column is None:
        ids = found["array_row"].astype(str) + "x" + found["array_col"].astype(str)
    else:
        ids = table[id_column].astype(str)
    found.index = pd.Index(ids.to_numpy(), dtype=object)
    check_unique(found.index, path, "spot")
    return found


def _read_table(path: Path) -> pd.DataFrame:
    """Read a positions table of any of the supported kinds as it is."""
    if path.suffix == ".parquet" and path.is_file() and path.stat().st_size:
        try:
            table = pd.read_parquet(path)
            return table if table.index.name is None else table.reset_index()
        except (OSError, ValueError) as error:
            raise InputError(path, f"not a parquet file ({error}).", f"fetch it again, {EXCLUDE}") from error
    raw = read_bytes(path)
    first = raw.partition(b"\n")[0]
    separator = "\t" if b"\t" in first else ","
    headless = len(first.split(b",")) == len(SPACE_RANGER_COLUMNS) and first.split(b",")[1].strip() in {b"0", b"1"}
    try:
        return pd.read_csv(
            io.BytesIO(raw),
            sep=separator,
            header=None if headless else 0,
            names=SPACE_RANGER_COLUMNS if headless else None,
            float_precision="round_trip",
        )
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise InputError(path, f"not a regular table ({error}).", f"fetch it again, {EXCLUDE}") from error


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    """Return a column as float64, refusing what is no finite number."""
    values = pd.Series(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
    bad = ~np.isfinite(values.to_numpy())
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            path,
            f"data row {row + 1} has '{column.iloc[row]}' in column '{column.name}' ({int(bad.sum())} such rows).",
            f"every spot needs numbers there: remove the rows or fix them, {EXCLUDE}",
        )
    return values
