"""Labels that the user brings: csv, tsv or h5ad, one file for a cohort or one for each section."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from histoloom.artefacts import dense, read_table
from histoloom.errors import InputError
from histoloom.labels.artefact import GroupLabels, LabelTask
from histoloom.labels.prepare import read_section
from histoloom.labels.published import check_table, join_tables

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_ROUNDING = 0.01


def label_own_table(task: LabelTask) -> GroupLabels:
    """Read the user's labels.

    A csv or tsv has a column of observation ids (``obs_id_key``, else the first column) and a numeric column per type.
    An h5ad has observations as rows and types as columns. One file for several sections needs a column of their names
    (``sample_key``; in ``obs`` of an h5ad); the labels that this workflow writes are such a file.
    """
    sections = [read_section(path, int(task.spec["low_umi"])) for path in task.samples]
    obs_id_key, sample_key = str(task.spec["obs_id_key"]), str(task.spec["sample_key"])
    tables = {path: _read(path, obs_id_key, sample_key) for path in task.tables}
    frames, places = [], []
    for number, section in enumerate(sections):
        path = task.tables[number] if len(task.tables) == len(sections) else task.tables[0]
        frame, where = tables[path], f"{path}, section '{section.sample}'"
        if sample_key in frame.columns:
            frame = frame[frame[sample_key].astype(str).str.strip() == section.sample].drop(columns=sample_key)
        elif len(task.tables) < len(sections):
            problem = f"is for {len(sections)} sections and has no column '{sample_key}' (sample_key)."
            remedy = "add the column, or give a file for each section with {sample} in `path`."
            raise InputError(path, problem, remedy, code="table-sample-column")
        if not len(frame):
            remedy = "add the section, or exclude it in the cohort sheet."
            raise InputError(where, "has no rows.", remedy, code="table-section")
        frame = check_table(frame, where)
        highest = float(frame.sum(axis=1).max())
        if task.spec["units"] == "proportion" and highest > 1 + _ROUNDING:
            problem = f"the proportions of '{frame.sum(axis=1).idxmax()}' sum to {highest:.4g}, more than 1."
            remedy = "set `units: cells` if the numbers are abundances, and leave out columns that are not types."
            raise InputError(where, problem, remedy, code="table-proportions")
        frames.append(frame)
        places.append(where)
    return join_tables(task, sections, frames, places)


def _read(path: Path, obs_id_key: str, sample_key: str) -> pd.DataFrame:
    """Return a file's rows, index = obs_id; columns are types, and the sections' names where it has them."""
    if not path.is_file():
        raise InputError(path, "the table does not exist.", "fix `path` of the labels.", code="table-missing")
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    if suffix == ".h5ad":
        table, keys = read_table(path, layers=()), (obs_id_key, sample_key)
        frame = pd.DataFrame(dense(table.X), index=table.obs.index, columns=table.var_names)
        frame = frame.join(table.obs[[key for key in keys if key in table.obs.columns and key not in frame.columns]])
    elif suffix in _SEPARATORS:
        frame = pd.read_csv(path, sep=_SEPARATORS[suffix], float_precision="round_trip", dtype={obs_id_key: str})
        if obs_id_key not in frame.columns:
            frame = frame.set_index(frame.columns[0])
    else:
        raise InputError(path, "is neither csv, tsv nor h5ad.", "write the table as one of these.", code="table-format")
    return frame.set_index(obs_id_key) if obs_id_key in frame.columns else frame
