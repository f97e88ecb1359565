"""Reading and writing artefacts: the metadata that each carries, and h5ad tables without importing anndata.

The metadata is one JSON object: the stage's own facts (units, spec, counts of what was dropped) and, under
``identity``, the record of `histoloom.identity`. It lies in ``uns["histoloom"]`` of an h5ad, in the root attribute
``histoloom`` of an h5, in the schema metadata of a parquet, and in ``<file>.json`` next to a csv, tsv or picture.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from histoloom.errors import InputError
from histoloom.identity import canonical_json, sha256_file

if TYPE_CHECKING:
    import h5py
    import pandas as pd

KEY = "histoloom"


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata of an artefact; empty when the file carries none."""
    path = Path(path)
    text: str | bytes | None = None
    if path.suffix in {".h5ad", ".h5"}:
        import h5py

        with h5py.File(path, "r") as handle:
            if path.suffix == ".h5":
                text = handle.attrs.get(KEY)
            elif f"uns/{KEY}" in handle:
                text = handle[f"uns/{KEY}"][()]
    elif path.suffix == ".parquet":
        import pyarrow.parquet as pq

        text = (pq.read_schema(path).metadata or {}).get(KEY.encode())
    else:
        side = path.with_name(path.name + ".json")
        text = side.read_text() if side.exists() else None
    return {} if text is None else json.loads(text)


def identity_of(path: str | Path) -> str:
    """Return an input's identity: the recorded one of an artefact, else the sha256 of the file's bytes."""
    if not Path(path).exists():
        remedy = "make it or download it, or fix the path in the config."
        raise InputError(path, "does not exist.", remedy, "artefact-missing")
    recorded = read_metadata(path).get("identity", {}).get("sha256")
    return recorded or sha256_file(path)


def identities_of(paths: Mapping[str, str | Path | Iterable[str | Path]]) -> dict[str, str]:
    """Return identities by role; a role with several files gets one entry per file, numbered in order."""
    identities: dict[str, str] = {}
    for role, value in paths.items():
        if isinstance(value, (str, Path)):
            identities[role] = identity_of(value)
        else:
            identities.update({f"{role}.{i:04d}": identity_of(item) for i, item in enumerate(value)})
    return identities


def write_parquet(frame: pd.DataFrame, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write a table with metadata in its schema; the index is not kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    schema_metadata = {**(table.schema.metadata or {}), KEY.encode(): canonical_json(metadata).encode()}
    pq.write_table(table.replace_schema_metadata(schema_metadata), path, compression="zstd")


def write_sidecar(path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write ``<file>.json`` next to a file whose format holds no metadata."""
    path = Path(path)
    text = json.dumps(metadata, indent=1, sort_keys=True, ensure_ascii=False)
    path.with_name(path.name + ".json").write_text(text + "\n")


@dataclass(frozen=True)
class Table:
    """An h5ad artefact: a matrix with its rows' and columns' facts.

    ``X`` and ``layers`` are numpy arrays, or scipy CSR/CSC arrays where they were stored sparse. Text and categories of
    ``obs`` are plain ``object`` columns; a missing category is None. ``uns`` holds dicts of arrays and numbers; it is
    written and not read.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    X: Any
    layers: Mapping[str, Any] = field(default_factory=dict)
    obsm: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    uns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def var_names(self) -> list[str]:
        return [str(name) for name in self.var.index]


def dense(matrix: Any) -> npt.NDArray[np.float64]:
    """Return a matrix, sparse or not, as a float64 array."""
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)


def read_element(node: h5py.Group | h5py.Dataset) -> Any:
    """Read an array, text, categories, sparse matrix or data frame of an h5ad (anndata's on-disk formats 0.1, 0.2)."""
    import pandas as pd

    encoding = str(node.attrs.get("encoding-type", "array"))
    if encoding in {"array", "numeric-scalar", "string", "string-array"}:
        values = node.asstr()[()] if node.dtype.kind == "O" else node[()]
        return values if node.shape else (values if isinstance(values, str) else values.item())
    if encoding in {"categorical", "nullable-integer", "nullable-boolean", "nullable-string-array"}:
        if encoding == "categorical":
            codes = node["codes"][()]
            missing = codes < 0
            known = np.array([*read_element(node["categories"]), None], dtype=object)[codes]
        else:
            missing, known = node["mask"][()], np.asarray(read_element(node["values"]))
        if missing.any():
            known = known.astype(object)
            known[missing] = None
        return known
    if encoding in {"csr_matrix", "csc_matrix"}:
        from scipy.sparse import csc_array, csr_array

        parts = (node["data"][()], node["indices"][()], node["indptr"][()])
        return (csr_array if encoding == "csr_matrix" else csc_array)(parts, shape=tuple(node.attrs["shape"]))
    if encoding == "dataframe":
        names = [str(name) for name in node.attrs["column-order"]]
        index = pd.Index(np.asarray(read_element(node[str(node.attrs["_index"])])).astype(str), dtype=object)
        return pd.DataFrame({name: read_element(node[name]) for name in names}, index=index)
    raise ValueError(f"{node.name} is stored as '{encoding}', which this reader does not know")


@contextlib.contextmanager
def _open_h5ad(path: str | Path) -> Iterator[h5py.File]:
    import h5py

    try:
        with h5py.File(path, "r") as handle:
            yield handle
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        problem = f"cannot be read as h5ad ({error})."
        raise InputError(path, problem, "remove it and run again.", code="h5ad-unreadable") from error


def read_elements(path: str | Path, names: Iterable[str]) -> dict[str, Any]:
    """Read named elements of an h5ad, such as ``obs`` or ``obsm/spatial``; those that it lacks are left out."""
    with _open_h5ad(path) as handle:
        return {name: read_element(handle[name]) for name in names if name in handle}


def read_table(path: str | Path, layers: Sequence[str] | None = None, obsm: Sequence[str] = ()) -> Table:
    """Read an h5ad with h5py alone, in a tenth of anndata's time; layers and arrays that it lacks are left out."""
    with _open_h5ad(path) as handle:
        names = list(handle.get("layers", ())) if layers is None else layers
    parts = read_elements(path, ["obs", "var", "X", *(f"layers/{n}" for n in names), *(f"obsm/{n}" for n in obsm)])
    missing = [name for name in ("obs", "var", "X") if name not in parts]
    if missing:
        remedy = "remove it, so that it is made anew."
        raise InputError(path, f"has no {', '.join(missing)}.", remedy, code="h5ad-incomplete")
    return Table(
        **{name: parts[name] for name in ("obs", "var", "X")},
        layers={name: parts[f"layers/{name}"] for name in names if f"layers/{name}" in parts},
        obsm={name: parts[f"obsm/{name}"] for name in obsm if f"obsm/{name}" in parts},
        metadata=read_metadata(path),
    )


def write_table(table: Table, path: str | Path) -> None:
    """Write an h5ad that anndata reads: text as categories, sparse matrices as CSR, the metadata in ``uns``."""
    import h5py

    with h5py.File(path, "w") as handle:
        handle.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        _write_frame(handle, "obs", table.obs)
        _write_frame(handle, "var", table.var)
        _write_matrix(handle, "X", table.X)
        for name in ("layers", "obsm", "obsp", "varm", "varp", "uns"):
            handle.create_group(name).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        for name, matrix in table.layers.items():
            _write_matrix(handle["layers"], name, matrix)
        for name, matrix in table.obsm.items():
            _write_matrix(handle["obsm"], name, matrix)
        for name, value in table.uns.items():
            _write_nested(handle["uns"], name, value)
        text = handle["uns"].create_dataset(KEY, data=canonical_json(table.metadata), dtype=h5py.string_dtype())
        text.attrs.update({"encoding-type": "string", "encoding-version": "0.2.0"})


def _write_array(group: h5py.Group, name: str, values: npt.NDArray[Any], **options: Any) -> None:
    import h5py

    text = values.dtype.kind in "OUS"
    node = group.create_dataset(name, data=values, dtype=h5py.string_dtype() if text else None, **options)
    node.attrs.update({"encoding-type": "string-array" if text else "array", "encoding-version": "0.2.0"})


def _write_nested(group: h5py.Group, name: str, value: Any) -> None:
    """Write a dict of dicts, arrays and numbers."""
    if isinstance(value, Mapping):
        node = group.create_group(name)
        node.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        for key, inner in value.items():
            _write_nested(node, key, inner)
    elif isinstance(value, np.ndarray):
        _write_array(group, name, value, compression="gzip", compression_opts=1)
    else:
        node = group.create_dataset(name, data=value)
        node.attrs.update({"encoding-type": "numeric-scalar", "encoding-version": "0.2.0"})


def _write_matrix(group: h5py.Group, name: str, matrix: Any) -> None:
    if not hasattr(matrix, "tocsr"):
        _write_array(group, name, np.asarray(matrix))
        return
    sparse = matrix.tocsr()
    node = group.create_group(name)
    node.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": sparse.shape})
    for part in ("data", "indices", "indptr"):
        node.create_dataset(part, data=getattr(sparse, part))


def _write_frame(group: h5py.Group, name: str, frame: pd.DataFrame) -> None:
    import h5py
    import pandas as pd

    node = group.create_group(name)
    names = [str(column) for column in frame.columns]
    order = np.array(names, dtype=object) if names else np.array([], dtype=float)
    node.attrs.create("column-order", order, dtype=h5py.string_dtype() if names else None)
    node.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
    _write_array(node, "_index", frame.index.to_numpy().astype(str).astype(object))
    for column in names:
        values = frame[column]
        if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            _write_array(node, column, values.to_numpy())
            continue
        codes, categories = pd.factorize(values.astype(object), sort=True)
        part = node.create_group(column)
        part.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
        size = np.int8 if len(categories) < 127 else np.int16 if len(categories) < 32767 else np.int32
        _write_array(part, "codes", codes.astype(size))
        _write_array(part, "categories", np.asarray(categories, dtype=object))
