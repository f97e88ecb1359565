"""Reading and writing the metadata that every artefact carries, whatever its format.

The metadata is one JSON object: the stage's own facts (units, spec, counts of what was dropped) and, under
``identity``, the record of `histoloom.identity`. It lies in ``uns["histoloom"]`` of an h5ad, in the root attribute
``histoloom`` of an h5, in the schema metadata of a parquet, and in ``<file>.json`` next to a csv, tsv or picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoloom.errors import InputError
from histoloom.identity import canonical_json, sha256_file

if TYPE_CHECKING:
    import pandas as pd

KEY = "histoloom"


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata of an artefact; empty when the file carries none.

    Parameters
    ----------
    path
        An h5ad, h5, parquet, pt or any file with a ``<file>.json`` next to it.
    """
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
    """Return an input's identity: the recorded one of an artefact, else the sha256 of the file's bytes.

    Raises
    ------
    InputError
        If the file does not exist.
    """
    if not Path(path).exists():
        raise InputError(path, "does not exist.", "make it or download it, or fix the path in the config.")
    recorded = read_metadata(path).get("identity", {}).get("sha256")
    return recorded or sha256_file(path)


def identities_of(paths: Mapping[str, str | Path | Iterable[str | Path]]) -> dict[str, str]:
    """Return identities by role; a role with several files gets one entry per file, numbered in order."""
    found: dict[str, str] = {}
    for role, value in paths.items():
        if isinstance(value, (str, Path)):
            found[role] = identity_of(value)
        else:
            found.update({f"{role}.{i:04d}": identity_of(item) for i, item in enumerate(value)})
    return found


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
    path.with_name(path.name + ".json").write_text(
        json.dumps(metadata, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    )
