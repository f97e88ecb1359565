"""The formats in which users have counts, told apart by what the path is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.samples.tables import EXCLUDE, Counts, check_counts, check_unique, read_count_table

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

TABLES = (".tsv", ".csv", ".txt", ".tsv.gz", ".csv.gz", ".txt.gz")
KNOWN = "a tsv or csv table (also .gz), .h5ad, a 10x .h5, or a 10x folder with matrix.mtx, barcodes and features"
_MTX = ("matrix.mtx.gz", "matrix.mtx")


def read_counts(path: Path, layer: str = "") -> Counts:
    """Read raw counts of any known format.

    Parameters
    ----------
    path
        A text table, an h5ad, a 10x h5 or a 10x mtx folder.
    layer
        Layer of an h5ad that holds the raw counts; its X when empty.

    Raises
    ------
    InputError
        If the path is missing, its format unknown or its values are no counts.
    """
    if not path.exists():
        raise InputError(path, "the counts are missing.", f"put them there, {EXCLUDE}")
    if path.is_dir():
        return _from_10x(_read_mtx(path), path)
    if path.stat().st_size == 0:
        raise InputError(path, "the file has zero bytes.", f"put the whole file there, {EXCLUDE}")
    name = path.name.lower()
    if name.endswith(".h5ad"):
        return counts_of(open_h5ad(path), layer, path)
    if name.endswith(".h5"):
        return _from_10x(_read_10x_h5(path), path)
    if name.endswith(TABLES):
        return read_count_table(path)
    raise InputError(path, "unknown format of counts.", f"give {KNOWN}.")


def open_h5ad(path: Path) -> AnnData:
    """Read an h5ad, with a clear error where it is none."""
    import anndata

    try:
        return anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(path, f"no readable h5ad ({error}).", f"write it again with anndata, {EXCLUDE}") from error


def counts_of(data: AnnData, layer: str, path: Path) -> Counts:
    """Return the raw counts that an h5ad holds, in X or in a layer; raises as `read_counts`."""
    if layer and layer not in data.layers:
        raise InputError(
            path,
            f"no layer '{layer}'; there are: {', '.join(map(str, data.layers)) or 'none'}.",
            "correct 'counts_layer' in the sheet, or leave it empty for X.",
        )
    matrix = data.layers[layer] if layer else data.X
    if matrix is None:
        raise InputError(path, "X is empty.", "name the layer of raw counts in the sheet's 'counts_layer'.")
    try:
        return _counts(matrix, data.obs_names, data.var_names, path)
    except InputError as error:
        known = f" The file's layers: {', '.join(map(str, data.layers))}." if len(data.layers) else ""
        remedy = f"name the layer of raw counts in the sheet's 'counts_layer'.{known} Or: {error.remedy}"
        raise InputError(error.where, error.problem, remedy) from error


def _read_10x_h5(path: Path) -> AnnData:
    import scanpy as sc

    try:
        return sc.read_10x_h5(path)
    # scanpy ends in a bare Exception where a dataset is missing; its KeyError, OSError and ValueError come from h5py.
    except Exception as error:
        raise InputError(
            path, f"no 10x matrix ({error}).", f"give filtered_feature_bc_matrix.h5 as Space Ranger wrote it, {EXCLUDE}"
        ) from error


def _read_mtx(folder: Path) -> AnnData:
    import scanpy as sc

    if not any((folder / name).is_file() for name in _MTX):
        raise InputError(folder, "the folder holds no matrix.mtx.", f"give {KNOWN}.")
    try:
        return sc.read_10x_mtx(folder, var_names="gene_symbols", make_unique=False)
    except (OSError, KeyError, ValueError, IndexError, EOFError) as error:
        raise InputError(
            folder, f"no 10x matrix folder ({error}).", f"give matrix.mtx, barcodes and features alike, {EXCLUDE}"
        ) from error


def _from_10x(data: AnnData, path: Path) -> Counts:
    """Keep gene symbols; those that several Ensembl ids share are added up, since a symbol is the key from here on."""
    from scipy.sparse import csr_matrix

    names = pd.Index(data.var_names.astype(str), dtype=object)
    if names.is_unique:
        return _counts(data.X, data.obs_names, names, path)
    codes, unique = pd.factorize(names)
    check_counts(data.X, data.obs_names, names, path)
    adder = csr_matrix((np.ones(len(codes), np.int64), (np.arange(len(codes)), codes)))
    merged = len(names) - len(unique)
    logger.info("%s: %d genes share a symbol with another and were added to it", path, merged)
    counts = _counts(csr_matrix(data.X, dtype=np.int64) @ adder, data.obs_names, pd.Index(unique, dtype=object), path)
    return Counts(counts.matrix, counts.obs_ids, counts.genes, merged)


def _counts(matrix: Any, obs_names: pd.Index, genes: pd.Index, path: Path) -> Counts:
    from scipy.sparse import csr_matrix, issparse

    obs_ids = pd.Index(obs_names.astype(str), dtype=object)
    names = pd.Index(genes.astype(str), dtype=object)
    check_unique(obs_ids, path, "row")
    check_unique(names, path, "gene")
    values = matrix if issparse(matrix) else np.asarray(matrix)
    check_counts(values, obs_ids, names, path)
    return Counts(csr_matrix(values).astype(np.int32), obs_ids, names)
