"""The one reader of count matrices: h5ad, 10x h5 and mtx, text tables, and matrices that are already in memory.

Whatever the format, a symbol that several genes share is their sum, since a symbol is the key from here on; the number
of columns that were added to another is kept. Only the parts of a file that are needed are read.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.samples.tables import (
    are_no_counts,
    as_text,
    check_counts,
    check_unique,
    is_control,
    read_count_table,
    refuse_count,
)
from histoloom.text_tables import read_bytes, read_text_table

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)

TABLES = (".tsv", ".csv", ".txt", ".tsv.gz", ".csv.gz", ".txt.gz")
KNOWN = "a tsv or csv table (also .gz), .h5ad, a 10x .h5, or a 10x folder with matrix.mtx, barcodes and features"
GENES = "Gene Expression"
RAW = frozenset({"raw", "raw.X"})
"""Names in ``counts_layer`` for an h5ad's ``raw.X``."""

_ID_COLUMNS = ("gene_ids", "ensembl_id", "gene_id")
_REMEDY = "fetch it again."
_NEEDED = ("barcodes", "data", "indices", "indptr", "shape")
_CHUNK = 1 << 24
_PROBE = re.compile(r"[^|]+\|[^|]*\|[0-9a-f]{7}")


@dataclass(frozen=True)
class Counts:
    """Raw counts.

    `matrix`: int32 CSR, (observations, genes). `obs_ids`, `genes`: names of rows and columns, unique. `gene_ids`:
    Ensembl id of each gene, "" where there is none or several genes were added up; None where the file has none.
    `merged_genes`: how many columns were added to another of the same symbol. `other_features`: features left out
    because they are no genes, by feature type.
    """

    matrix: csr_matrix
    obs_ids: pd.Index
    genes: pd.Index
    gene_ids: npt.NDArray[np.object_] | None = None
    merged_genes: int = 0
    other_features: Mapping[str, int] = field(default_factory=dict)

    def rows(self, kept: npt.NDArray[Any]) -> Counts:
        return replace(self, matrix=self.matrix[kept], obs_ids=self.obs_ids[kept])


@dataclass(frozen=True)
class StoredSection:
    """What an h5ad holds of a section: counts, the table of observations, centres (n, 2) or None."""

    counts: Counts
    obs: pd.DataFrame
    spatial: npt.NDArray[np.float64] | None


@contextmanager
def reading(path: Path, kind: str, remedy: str = _REMEDY) -> Iterator[None]:
    """Turn whatever a library raises on a user's file into an `InputError` that names the file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    # A user's file may break a library anywhere; what is at fault is the file.
    except Exception as error:
        problem = f"no readable {kind} ({type(error).__name__}: {error})."
        raise InputError(path, problem, remedy, code="counts-unreadable") from error


def read_counts(path: Path, layer: str = "") -> Counts:
    """Read raw counts of any known format.

    `path`: a text table, an h5ad, a 10x h5 or a 10x mtx folder. `layer`: layer of an h5ad that holds the raw counts, or
    ``raw``; its X when empty.
    """
    if not path.exists():
        raise InputError(path, "the counts are missing.", "put them there.", code="counts-missing")
    if path.is_dir():
        return read_10x_mtx(path)
    if path.stat().st_size == 0:
        raise InputError(path, "the file has zero bytes.", "put the whole file there.", code="counts-empty")
    name = path.name.lower()
    if name.endswith(".h5ad"):
        return read_h5ad(path, layer).counts
    if name.endswith(".h5"):
        return read_10x_h5(path)
    if name.endswith(TABLES):
        return Counts(*read_count_table(path))
    raise InputError(path, "unknown format of counts.", f"give {KNOWN}.", code="counts-format")


def make_counts(
    matrix: Any,
    obs_ids: Any,
    names: Any,
    where: str | Path,
    *,
    gene_ids: Any = None,
    feature_types: npt.NDArray[np.object_] | None = None,
) -> Counts:
    """Check a matrix in memory and make symbols the key of its columns.

    `feature_types`: 10x's type of each feature; given, features that are no genes are left out and counted.
    """
    from scipy.sparse import csc_array, csc_matrix, csr_array, csr_matrix, issparse

    if matrix is None:
        remedy = "name the layer of raw counts in the sheet's 'counts_layer'."
        raise InputError(where, "X is empty.", remedy, code="counts-no-x")
    rows, columns = pd.Index(as_text(obs_ids), dtype=object), pd.Index(as_text(names), dtype=object)
    check_unique(rows, where, "row")
    if (columns == "").any():
        raise InputError(where, "a gene has no name.", "name every gene.", code="gene-without-name")
    values = matrix if issparse(matrix) else np.asarray(matrix)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if isinstance(values, (csr_array, csc_array, csr_matrix, csc_matrix)):
        # scipy trusts them, and reads beyond its arrays where a damaged file holds others.
        try:
            values.check_format(full_check=True)
        except ValueError as error:
            problem = f"the places of its counts are damaged ({error})."
            raise InputError(where, problem, _REMEDY, code="counts-unreadable") from error
    check_counts(values, rows, columns, where)
    counts = csr_matrix(values)
    if counts.dtype != np.int32:
        counts = counts.astype(np.int32)
    ids = None if gene_ids is None else as_text(gene_ids)
    other: dict[str, int] = {}
    if feature_types is not None:
        by_name = is_control(list(columns)) & (feature_types == GENES)
        kept = (feature_types == GENES) & ~by_name
        other = {str(kind): int((feature_types == kind).sum()) for kind in sorted(set(feature_types) - {GENES})}
        other |= {"control by name": int(by_name.sum())} if by_name.any() else {}
        if not kept.all():
            counts, columns, ids = counts[:, kept], columns[kept], None if ids is None else ids[kept]
    genes = columns.unique()
    merged = len(columns) - len(genes)
    if ids is not None:
        alone = pd.Series(np.where([str(name).startswith("ENS") for name in ids], ids, ""), index=columns, dtype=object)
        ids = alone[~columns.duplicated(keep=False)].reindex(genes).fillna("").to_numpy(dtype=object)
    if merged:
        logger.info("%s: %d genes share a symbol with another and were added to it", where, merged)
        codes = genes.get_indexer(columns)
        counts = csr_matrix(counts @ csr_matrix((np.ones(len(codes), np.int32), (np.arange(len(codes)), codes))))
    return Counts(counts, rows, genes, ids, merged, other)


def read_h5ad(path: Path, layer: str = "", library: str = "") -> StoredSection:
    """Read the counts and places of an h5ad.

    `path`, `layer`: as `read_counts` takes them; `library`: value of obs ``library_id`` that names the section, where
    the file holds several.
    """
    import h5py
    from anndata.io import read_elem

    with reading(path, "h5ad", "write it again with anndata."), h5py.File(path, "r") as handle:
        layers = [*handle.get("layers", {}), *(["raw"] if "raw/X" in handle else [])]
        place = f"layers/{layer}" if layer else "X"
        if layer in RAW and place not in handle:
            place = "raw/X"
        if place not in handle:
            stored = ", ".join(layers)
            if layer:
                problem = f"no layer '{layer}'; the file has: {stored or 'none'}."
                remedy = "correct 'counts_layer' in the sheet, or leave it empty for X."
                raise InputError(path, problem, remedy, code="counts-layer")
            remedy = f"name the layer of raw counts in the sheet's 'counts_layer'; there are: {stored}."
            raise InputError(path, "X is empty.", remedy if layers else "write the counts into X.", code="counts-no-x")
        matrix, obs = read_elem(handle[place]), read_elem(handle["obs"])
        var = read_elem(handle["raw/var" if place == "raw/X" else "var"])
        spatial = read_elem(handle["obsm/spatial"]) if "obsm/spatial" in handle else None
        libraries = sorted(handle["uns/spatial"]) if "uns/spatial" in handle else []
    centres = _centres(spatial, len(obs), path)
    kept = _rows_of(library, obs, libraries, path)
    if kept is not None and matrix is not None:
        matrix, obs, centres = matrix[kept], obs[kept], None if centres is None else centres[kept]
    try:
        ids = next((var[column] for column in _ID_COLUMNS if column in var), None)
        counts = make_counts(matrix, obs.index, var.index, path, gene_ids=ids)
    except InputError as error:
        if error.code != "no-counts":
            raise
        known = f" The file's layers: {', '.join(layers)}." if layers else ""
        remedy = f"name the layer of raw counts in the sheet's 'counts_layer'.{known} Or: {error.remedy}"
        raise InputError(error.where, error.problem, remedy, code=error.code) from error
    return StoredSection(counts, obs, centres)


def _rows_of(library: str, obs: pd.DataFrame, libraries: list[str], path: Path) -> npt.NDArray[np.bool_] | None:
    """Return the rows of one section of an h5ad, None for all of a file that holds one section."""
    stated = obs["library_id"].astype(str) if "library_id" in obs else None
    names = libraries if stated is None else sorted(set(stated))
    if library and library not in names:
        problem = f"no section '{library}'; library_id has: {', '.join(names) or 'nothing'}."
        raise InputError(path, problem, "correct 'library_id' in the sheet.", code="library-unknown")
    if len(names) < 2:
        return None
    if not library or stated is None:
        by = " (by uns/spatial; obs has no library_id)" if stated is None else ""
        problem = f"holds {len(names)} sections: {', '.join(names[:8])}{by}."
        remedy = "give each section a row of its own in the sheet and name one in 'library_id' (a column of obs)."
        raise InputError(path, problem, remedy, code="several-sections")
    return (stated == library).to_numpy()


def _centres(spatial: Any, n_obs: int, path: Path) -> npt.NDArray[np.float64] | None:
    """Return obsm['spatial'], an array or a data frame of x and y, as (n, 2)."""
    if spatial is None:
        return None
    with reading(path, "obsm['spatial']", "give (n, 2) numbers: column, row in full-resolution px."):
        if isinstance(spatial, pd.DataFrame) and {"x", "y"} <= set(spatial):
            spatial = spatial[["x", "y"]]
        centres = np.asarray(spatial, dtype=np.float64)
    if centres.ndim != 2 or centres.shape[0] != n_obs or centres.shape[1] < 2:
        problem = f"obsm['spatial'] has shape {centres.shape}, ({n_obs}, 2) expected."
        remedy = "give column and row in full-resolution px, one row per spot."
        raise InputError(path, problem, remedy, code="spatial-shape")
    return centres[:, :2]


def read_10x_h5(path: Path) -> Counts:
    """Read the genes of a 10x h5 (Space Ranger, Xenium, Cell Ranger 2 and later) straight into rows = observations.

    The file holds a CSC matrix of shape (features, barcodes); its arrays are those of a CSR matrix of the transpose, so
    nothing is converted. Own code because scanpy's reader holds 64-bit indices and float counts, which a matrix of
    700,000 cells cannot afford, and trusts shape, layout and feature types.
    """
    import h5py

    if not path.is_file():
        raise InputError(path, "the matrix is missing.", "put it there.", code="counts-missing")
    with reading(path, "10x h5"), h5py.File(path, "r") as handle:
        group, id_key, name_key = _matrix_group(handle)
        missing = [name for name in (*_NEEDED, id_key, name_key) if name not in group]
        if missing:
            problem = f"no dataset matrix/{', matrix/'.join(missing)}: no 10x matrix."
            raise InputError(path, problem, _REMEDY, code="tenx-dataset")
        names, ids = as_text(group[name_key][()]), as_text(group[id_key][()])
        if len(ids) and np.mean([_PROBE.fullmatch(name) is not None for name in ids[:1000]]) > 0.5:
            problem = f"its features are probes ('{ids[0]}'), several per gene."
            remedy = "give filtered_feature_bc_matrix.h5, which holds genes."
            raise InputError(path, problem, remedy, code="tenx-probes")
        shape = _check_layout(group, id_key, path)
        obs_ids = as_text(group["barcodes"][()])
        matrix = _read_matrix(group, shape, obs_ids, names, path)
        typed = f"{id_key.rpartition('/')[0]}/feature_type"
        types = as_text(group[typed][()]) if typed in group else np.full(len(names), GENES, object)
    return make_counts(matrix, obs_ids, names, path, gene_ids=ids, feature_types=types)


def _matrix_group(handle: Any) -> tuple[Any, str, str]:
    """Return the group of the matrix and its datasets of ids and names; before Cell Ranger 3 it is the genome's."""
    if "matrix" in handle:
        return handle["matrix"], "features/id", "features/name"
    genome = next((name for name in handle if hasattr(handle[name], "keys") and "gene_names" in handle[name]), None)
    return (handle if genome is None else handle[genome]), "genes", "gene_names"


def _check_layout(group: Any, id_key: str, path: Path) -> tuple[int, int]:
    features, observations = (int(n) for n in group["shape"][()])
    n_ids, n_barcodes, n_starts = len(group[id_key]), len(group["barcodes"]), len(group["indptr"])
    if (n_ids, n_barcodes) != (features, observations):
        hint = ": the axes are swapped" if (n_ids, n_barcodes) == (observations, features) else ""
        problem = f"shape says {features} x {observations}; {n_ids} features, {n_barcodes} barcodes are stored{hint}."
        raise InputError(path, problem, _REMEDY, code="tenx-shape")
    if n_starts != observations + 1:
        hint = ": stored by features (CSR), not by barcodes (CSC)" if n_starts == features + 1 else ""
        problem = f"indptr has {n_starts} entries, {observations + 1} expected{hint}."
        remedy = "write it as 10x does, CSC of features x barcodes."
        raise InputError(path, problem, remedy, code="tenx-layout")
    return features, observations


def _read_matrix(
    group: Any, shape: tuple[int, int], obs_ids: npt.NDArray[np.object_], names: npt.NDArray[np.object_], path: Path
) -> csr_matrix:
    """Read the arrays in pieces into 32 bits."""
    from scipy.sparse import csr_matrix

    features, observations = shape
    starts = np.asarray(group["indptr"][()]).astype(np.int64)
    size = len(group["data"])
    if len(group["indices"]) != size or starts[0] != 0 or starts[-1] != size or (np.diff(starts) < 0).any():
        raise InputError(path, "data, indices and indptr do not belong together.", _REMEDY, code="tenx-arrays")
    data, indices = np.empty(size, np.int32), np.empty(size, np.int32)
    for start in range(0, size, _CHUNK):
        part = slice(start, min(start + _CHUNK, size))
        values, columns = group["data"][part], group["indices"][part]
        bad = are_no_counts(values)
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            row = int(np.searchsorted(starts, start + at, side="right")) - 1
            refuse_count(path, obs_ids[row], names[int(columns[at])], values[at])
        if columns.size and (columns.min() < 0 or columns.max() >= features):
            raise InputError(path, f"an index lies outside the {features} features.", _REMEDY, code="tenx-index")
        data[part], indices[part] = values, columns
    small = starts.astype(np.int32) if size <= np.iinfo(np.int32).max else starts
    return csr_matrix((data, indices, small), shape=(observations, features))


def mtx_files(folder: Path) -> dict[str, Path]:
    """Return matrix, features and barcodes of a 10x folder of either Cell Ranger layout, each packed or not."""
    files = {}
    roles = {"matrix": ("matrix.mtx",), "features": ("features.tsv", "genes.tsv"), "barcodes": ("barcodes.tsv",)}
    for role, choices in roles.items():
        paths = [folder / f"{name}{end}" for name in choices for end in ("", ".gz")]
        present = [path for path in paths if path.is_file()]
        if not present:
            stored = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            problem = f"the folder holds no {' or '.join(choices)} (also .gz), but {stored}."
            raise InputError(folder, problem, f"give {KNOWN}.", code="mtx-file-missing")
        files[role] = present[0]
    return files


def _check_numbers(path: Path) -> None:
    """Refuse a matrix market file that holds more than numbers: the parser takes ``0x1`` for 0, and 1.5 for 1."""
    lines = io.BytesIO(read_bytes(path))
    head = lines.getvalue()[:200].split(b"\n")[0]
    if b"pattern" in head:
        problem = "says which entries are not 0, and no counts ('pattern' in its first line)."
        raise InputError(path, problem, "export the matrix with its counts.", code="mtx-pattern")
    whole = b"integer" in head
    for line in lines:
        if not line.startswith(b"%"):
            odd = (line + lines.read()).translate(None, b"0123456789+- \t\r\n" + (b"" if whole else b"eE."))
            if odd:
                problem = f"holds '{odd[:20].decode(errors='replace')}' among its numbers."
                raise InputError(path, problem, "fetch or export the matrix again.", code="mtx-number")


def read_mtx(folder: Path) -> tuple[csr_matrix, npt.NDArray[np.object_], pd.DataFrame]:
    """Read a 10x folder: CSR (observations, features) as stored, barcodes, and the features' id, name and type.

    A feature without a name is called by its id, one without a type is a gene.
    """
    from scipy.io import mmread
    from scipy.sparse import csr_matrix

    files = mtx_files(folder)
    _check_numbers(files["matrix"])
    with reading(files["matrix"], "matrix market file"):
        matrix = csr_matrix(mmread(files["matrix"]).T)
    barcodes = read_text_table(files["barcodes"], ["id"])["id"].to_numpy()
    features = read_text_table(files["features"], ["id", "name", "type", "chromosome", "start", "end"])
    if matrix.shape != (len(barcodes), len(features)):
        size = f"{matrix.shape[1]} x {matrix.shape[0]}"
        problem = f"matrix.mtx has {size} entries for {len(features)} features and {len(barcodes)} barcodes."
        remedy, more = "give matrix.mtx, barcodes and features of one run.", (len(barcodes), len(features))
        if matrix.shape == more[::-1]:
            remedy = "export the matrix with features as rows and barcodes as columns."
        for name, own, other in (("barcodes", (1, 0), more), ("features", (0, 1), more)):
            if matrix.shape == tuple(np.subtract(other, own)):
                remedy = f"remove the header line of {files[name].name}: it has one line more than the matrix."
        raise InputError(folder, problem, remedy, code="mtx-shape")
    features["name"] = features["name"].where(features["name"] != "", features["id"])
    features["type"] = features["type"].replace("", GENES)
    return matrix, barcodes, features


def read_10x_mtx(folder: Path) -> Counts:
    """Read the genes of a 10x folder."""
    matrix, barcodes, features = read_mtx(folder)
    types = features["type"].to_numpy(object)
    return make_counts(matrix, barcodes, features["name"], folder, gene_ids=features["id"], feature_types=types)
