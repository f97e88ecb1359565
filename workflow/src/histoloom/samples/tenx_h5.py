"""10x's feature-barcode matrix h5, read straight into rows = observations.

The file holds a CSC matrix of shape (features, barcodes); its arrays are those of a CSR matrix of the transpose, so
nothing is converted. Own code because scanpy's reader holds 64-bit indices and float counts, which a matrix of 700,000
cells cannot afford, and trusts shape, layout and feature types.
"""

from __future__ import annotations

import logging
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

GENES = "Gene Expression"
_NEEDED = ("barcodes", "data", "indices", "indptr", "shape", "features/id", "features/name")
_CHUNK = 1 << 24
_REMEDY = "fetch it again, or give the section a reason in the sheet's 'exclude' column."


@dataclass(frozen=True)
class FeatureMatrix:
    """Counts of genes.

    Attributes
    ----------
    matrix
        int32 CSR, (observations, genes).
    obs_ids
        (n,) barcodes or cell ids, as text.
    names, ids
        (g,) symbols and Ensembl ids.
    controls
        Features left out because they are no genes, by feature type.
    """

    matrix: csr_matrix
    obs_ids: pd.Index
    names: npt.NDArray[np.object_]
    ids: npt.NDArray[np.object_]
    controls: dict[str, int]


def read_feature_matrix(path: Path) -> FeatureMatrix:
    """Read the genes of a 10x h5 (Space Ranger, Xenium; Cell Ranger 3 and later).

    Raises
    ------
    InputError
        If the file is missing, no such h5, lacks a dataset, is stored by features or with swapped axes, or holds
        values that are no counts.
    """
    import h5py

    if not path.is_file():
        raise InputError(path, "the matrix is missing.", f"put it there; {_REMEDY}")
    try:
        with h5py.File(path, "r") as handle:
            missing = [name for name in _NEEDED if f"matrix/{name}" not in handle]
            if missing:
                raise InputError(path, f"no dataset matrix/{', matrix/'.join(missing)}: no 10x matrix.", _REMEDY)
            group = handle["matrix"]
            shape = _check_layout(group, path)
            matrix = _read_matrix(group, shape, path)
            obs_ids = pd.Index(as_text(group["barcodes"][()]), dtype=object)
            names, ids = as_text(group["features/name"][()]), as_text(group["features/id"][()])
            typed = "feature_type" in group["features"]
            types = as_text(group["features/feature_type"][()]) if typed else np.full(len(names), GENES, object)
    except OSError as error:
        raise InputError(path, f"no readable h5 ({error}).", _REMEDY) from error
    return _genes_only(matrix, obs_ids, names, ids, types)


def _genes_only(matrix: csr_matrix, obs_ids: pd.Index, names: Any, ids: Any, types: Any) -> FeatureMatrix:
    """Leave out what is no gene, by feature type and, where a panel types its probes as genes, by name."""
    from histoloom.samples.control_features import is_control

    by_name = is_control(list(names)) & (types == GENES)
    kept = (types == GENES) & ~by_name
    controls = {str(kind): int((types == kind).sum()) for kind in sorted(set(types[types != GENES]))}
    if by_name.any():
        controls["control by name"] = int(by_name.sum())
    if not kept.all():
        matrix = matrix[:, kept]
    return FeatureMatrix(matrix, obs_ids, names[kept], ids[kept], controls)


def by_symbol(matrix: csr_matrix, counts: FeatureMatrix) -> tuple[csr_matrix, pd.Index, list[str]]:
    """Make symbols the key of the columns.

    Parameters
    ----------
    matrix
        Rows of `counts.matrix`.
    counts
        Where the columns come from.

    Returns
    -------
    matrix : csr_matrix
        Columns that share a symbol are added up.
    genes : Index
        Symbols, unique.
    ids : list of str
        Their Ensembl ids, "" where there is none, or several were added up.
    """
    from scipy.sparse import csr_matrix

    names = pd.Index(counts.names, dtype=object)
    genes = names.unique()
    if not names.is_unique:
        logger.info("%d genes share a symbol with another and were added to it", len(names) - len(genes))
        codes = genes.get_indexer(names)
        matrix = matrix @ csr_matrix((np.ones(len(codes), np.int32), (np.arange(len(codes)), codes)))
    ids = pd.Series(counts.ids, index=names, dtype=object)
    ids = ids.where(ids.str.startswith("ENS"), "")
    alone = ids[~names.duplicated(keep=False)]
    return matrix, genes, [str(gene) for gene in alone.reindex(genes).fillna("")]


def as_text(values: Any) -> npt.NDArray[np.object_]:
    """Return ids as text, whether stored as bytes, text or numbers (1, 1.0 -> "1")."""
    raw = np.asarray(values)
    if raw.dtype.kind == "f":
        raw = raw.astype(np.int64)
    if raw.dtype.kind == "S":
        return np.char.decode(raw, "utf-8").astype(object)
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in raw.tolist()], dtype=object)


def _check_layout(group: Any, path: Path) -> tuple[int, int]:
    """Return (features, observations) and check that the arrays are laid out by observations."""
    features, observations = (int(n) for n in group["shape"][()])
    n_ids, n_barcodes, n_starts = len(group["features/id"]), len(group["barcodes"]), len(group["indptr"])
    if (n_ids, n_barcodes) != (features, observations):
        swapped = (n_ids, n_barcodes) == (observations, features)
        raise InputError(
            path,
            f"shape says {features} features x {observations} barcodes, but there are {n_ids} features and "
            f"{n_barcodes} barcodes{': the axes are swapped' if swapped else ''}.",
            _REMEDY,
        )
    if n_starts != observations + 1:
        by_feature = n_starts == features + 1
        raise InputError(
            path,
            f"indptr has {n_starts} entries, {observations + 1} expected"
            f"{': the matrix is stored by features (CSR), not by barcodes (CSC)' if by_feature else ''}.",
            "write it as 10x does, CSC of features x barcodes; " + _REMEDY,
        )
    return features, observations


def _read_matrix(group: Any, shape: tuple[int, int], path: Path) -> csr_matrix:
    """Read the arrays in pieces into 32 bits."""
    from scipy.sparse import csr_matrix

    features, observations = shape
    starts = np.asarray(group["indptr"][()]).astype(np.int64)
    size = len(group["data"])
    if len(group["indices"]) != size or starts[0] != 0 or starts[-1] != size or (np.diff(starts) < 0).any():
        raise InputError(path, "data, indices and indptr do not belong together.", _REMEDY)
    data, indices = np.empty(size, np.int32), np.empty(size, np.int32)
    for start in range(0, size, _CHUNK):
        part = slice(start, min(start + _CHUNK, size))
        values, columns = group["data"][part], group["indices"][part]
        if values.size and not _are_counts(values):
            raise InputError(path, "holds values that are no counts (negative, fractional or missing).", _REMEDY)
        if columns.size and (columns.min() < 0 or columns.max() >= features):
            raise InputError(path, f"an index lies outside the {features} features.", _REMEDY)
        data[part], indices[part] = values, columns
    small = starts.astype(np.int32) if size <= np.iinfo(np.int32).max else starts
    return csr_matrix((data, indices, small), shape=(observations, features))


def _are_counts(values: npt.NDArray[Any]) -> bool:
    """Tell whether values are whole numbers from 0 up that int32 can hold."""
    top = np.iinfo(np.int32).max
    if values.dtype.kind in "iu":
        return bool(values.min() >= 0 and values.max() <= top)
    with np.errstate(invalid="ignore"):
        return bool(((values >= 0) & (values <= top) & (values == np.floor(values))).all())
