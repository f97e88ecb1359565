"""10x's feature-barcode matrix h5 (Space Ranger, Xenium, Cell Ranger), read in pieces."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from histoloom.errors import InputError
from histoloom.samples.counts import GENES, Counts, make_counts, reading
from histoloom.samples.tables import EXCLUDE, are_no_counts, as_text, refuse_count

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_NEEDED = ("barcodes", "data", "indices", "indptr", "shape")
_CHUNK = 1 << 24
_PROBE = re.compile(r"[^|]+\|[^|]*\|[0-9a-f]{7}")
_REMEDY = f"fetch it again, {EXCLUDE}"


def read_10x_h5(path: Path) -> Counts:
    """Read the genes of a 10x h5 (Space Ranger, Xenium, Cell Ranger 2 and later) straight into rows = observations.

    The file holds a CSC matrix of shape (features, barcodes); its arrays are those of a CSR matrix of the transpose, so
    nothing is converted. Own code because scanpy's reader holds 64-bit indices and float counts, which a matrix of
    700,000 cells cannot afford, and trusts shape, layout and feature types.
    """
    import h5py

    if not path.is_file():
        raise InputError(path, "the matrix is missing.", f"put it there, {EXCLUDE}", code="counts-missing")
    with reading(path, "10x h5"), h5py.File(path, "r") as handle:
        group, id_key, name_key = _matrix_group(handle)
        missing = [name for name in (*_NEEDED, id_key, name_key) if name not in group]
        if missing:
            raise InputError(
                path, f"no dataset matrix/{', matrix/'.join(missing)}: no 10x matrix.", _REMEDY, code="tenx-dataset"
            )
        names, ids = as_text(group[name_key][()]), as_text(group[id_key][()])
        if len(ids) and np.mean([_PROBE.fullmatch(name) is not None for name in ids[:1000]]) > 0.5:
            raise InputError(
                path,
                f"its features are probes ('{ids[0]}'), several per gene.",
                "give filtered_feature_bc_matrix.h5, which holds genes.",
                code="tenx-probes",
            )
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
    """Return (features, observations) and check that the arrays are laid out by observations."""
    features, observations = (int(n) for n in group["shape"][()])
    n_ids, n_barcodes, n_starts = len(group[id_key]), len(group["barcodes"]), len(group["indptr"])
    if (n_ids, n_barcodes) != (features, observations):
        swapped = (n_ids, n_barcodes) == (observations, features)
        raise InputError(
            path,
            f"shape says {features} features x {observations} barcodes, but there are {n_ids} features and "
            f"{n_barcodes} barcodes{': the axes are swapped' if swapped else ''}.",
            _REMEDY,
            code="tenx-shape",
        )
    if n_starts != observations + 1:
        by_feature = n_starts == features + 1
        raise InputError(
            path,
            f"indptr has {n_starts} entries, {observations + 1} expected"
            f"{': the matrix is stored by features (CSR), not by barcodes (CSC)' if by_feature else ''}.",
            f"write it as 10x does, CSC of features x barcodes; {_REMEDY}",
            code="tenx-layout",
        )
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
