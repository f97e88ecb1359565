"""The long table of metrics: its columns, how it is written and read.

What `n` and `n_nan` count depends on the row and is the same everywhere:

=================  ==========  ==========================================  =================================
aggregation        target      n                                           n_nan
=================  ==========  ==========================================  =================================
section            a type      observations compared                       1 when the value is undefined
pooled_patient,    a type      observations compared                       1 when the value is undefined
pooled
section, pooled_*  "" (all)    types averaged                              types undefined
patient            any         sections averaged                           sections undefined
cohort             any         patients averaged                           patients undefined
spot               "" (all)    spots (a section), patients (the cohort)    the same units, undefined
=================  ==========  ==========================================  =================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.stats import Floats

_NAMES = (
    "experiment model variant fold cohort sample patient against target target2 metric gene_set k aggregation "
    "n n_nan value train_seed qc_flag protocol"
)
_NUMBERS = {"n": 0, "n_nan": 0, "value": float("nan"), "train_seed": -1}
COLUMNS: Mapping[str, Any] = {name: _NUMBERS.get(name, "") for name in _NAMES.split()}
"""Columns of a metrics table in order, with the value that means "does not apply"."""

_SORT = [
    "against", "metric", "gene_set", "aggregation", "train_seed", "cohort", "patient", "sample", "fold",
    "target", "target2",
]  # fmt: skip
_TYPES = {"n": "int64", "n_nan": "int64", "train_seed": "int64", "value": "float64"}


def value_row(place: Mapping[str, Any], metric: str, value: float, n: int, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "value": value, "n": n, "n_nan": int(np.isnan(value)), **more, **place}


def value_rows(
    place: Mapping[str, Any], types: Sequence[str], metric: str, value: Floats, n: np.ndarray | int
) -> pd.DataFrame:
    return pd.DataFrame(
        {"metric": metric, "target": types, "value": value, "n": n, "n_nan": np.isnan(value).astype(int), **place}
    )


def assemble(parts: Sequence[pd.DataFrame], **constants: Any) -> pd.DataFrame:
    """Join rows into a metrics table: exactly `COLUMNS`, in order, sorted; `constants` are columns of one value."""
    parts = [part for part in parts if len(part)]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
    unknown = set(frame.columns) - set(COLUMNS)
    if unknown:
        raise ValueError(f"not columns of a metrics table: {sorted(unknown)}")
    for column, default in COLUMNS.items():
        if column in constants:
            frame[column] = constants[column]
        elif column not in frame:
            frame[column] = default
        elif default == default:  # a NaN default means that NaN is an answer
            frame[column] = frame[column].fillna(default)
    frame = frame.astype(_TYPES).sort_values(_SORT, kind="stable", ignore_index=True)
    return frame[list(COLUMNS)]


def read_metrics(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read metrics tables and stack them in the order of the files."""
    frames = []
    for path in paths:
        frame = pd.read_parquet(path)
        missing = [column for column in COLUMNS if column not in frame]
        if missing:
            problem = f"is no metrics table: it lacks {', '.join(missing)}."
            raise InputError(path, problem, "remove it, so that it is made anew.", code="metrics-columns")
        frames.append(frame[list(COLUMNS)])
    return pd.concat(frames, ignore_index=True) if frames else assemble([])


def read_protocols(paths: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """Return the metadata of metrics files by model name (for checks: by check name)."""
    metadata = {Path(path).stem: dict(read_metadata(path)) for path in paths}
    return {str(facts.get("model") or stem): facts for stem, facts in metadata.items()}
