"""Labels that are not fitted here: a publisher's table, the user's own, or the ground truth of a simulated cohort."""

from __future__ import annotations

import itertools
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from histoloom.artefacts import dense, read_table
from histoloom.content import refuse_pages
from histoloom.errors import InputError
from histoloom.labels.artefact import GroupLabels, LabelTask
from histoloom.labels.prepare import Section, read_section
from histoloom.text_tables import read_text_table

logger = logging.getLogger(__name__)
# Columns of a ground truth table that are not types.
_NOT_TYPES = ("obs_id", "n_cells")


def label_published(task: LabelTask) -> GroupLabels:
    """Read a published table of abundances: a zip with one tab-separated file per section.

    her2st's stereoscope proportions (Andersson et al. 2021, doi 10.1038/s41467-021-26271-2) come as
    ``<level>/<section>-proportion.tsv``, spots x types, rows summing to 1. Blanks around type names are cut (one
    minor type is published as ``"NK cells "``).
    """
    if len(task.tables) != 1:
        problem = f"{len(task.tables)} tables were given, 1 is needed."
        raise InputError(task.where, problem, "name one table in `table`.", code="published-tables")
    (path,) = task.tables
    if not path.is_file():
        raise InputError(path, "does not exist.", "download it, or fix mirror_dir.", code="published-missing")
    if not zipfile.is_zipfile(path):
        raise InputError(path, "is not a zip file.", "download it again; it may be cut short.", code="published-zip")
    with zipfile.ZipFile(path) as archive:
        by_name = {Path(name).name: name for name in archive.namelist() if not name.endswith("/")}

        def read(section: Section) -> tuple[str, pd.DataFrame]:
            wanted = task.spec["member"].format(sample=section.sample)
            if wanted not in by_name:
                examples = f"{len(by_name)} files, such as {', '.join(sorted(by_name)[:3]) or 'none'}"
                problem = f"has no table '{wanted}' for section '{section.sample}'; it holds {examples}."
                remedy = "exclude the section in the cohort sheet or set `member` to the name the files have."
                raise InputError(path, problem, remedy, code="published-member")
            with archive.open(by_name[wanted]) as handle:
                return f"{path}:{by_name[wanted]}", _read_table(handle)

        return join_tables(task, read)


def label_truth(task: LabelTask) -> GroupLabels:
    """Read the ground truth of simulated sections: ``<section>_abundance.tsv``, cells per spot and type."""

    def read(section: Section) -> tuple[str, pd.DataFrame]:
        matches = [p for p in task.tables if p.name.partition(".")[0] == f"{section.sample}_abundance"]
        if len(matches) != 1 or not matches[0].is_file():
            given = ", ".join(p.name for p in task.tables) or "none"
            problem = f"section '{section.sample}' has no table '{section.sample}_abundance.tsv'; given: {given}."
            raise InputError(task.where, problem, "use `truth` with simulated cohorts only.", code="truth-table")
        return str(matches[0]), _read_table(matches[0])

    return join_tables(task, read)


def _read_table(file: IO[bytes] | Path) -> pd.DataFrame:
    return pd.read_csv(file, sep="\t", index_col=0, float_precision="round_trip")


def check_table(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return one section's table (index = obs_id, columns = types) as float; names are unique and no cell is empty."""
    frame.index = frame.index.astype(str).str.strip()
    frame = frame.drop(columns=[c for c in _NOT_TYPES if c in frame.columns])
    frame.columns = pd.Index([str(c).strip() for c in frame.columns])
    for kind, labels in (("observation", frame.index), ("type", frame.columns)):
        if labels.has_duplicates:
            problem = f"{kind} '{labels[labels.duplicated()][0]}' occurs twice."
            raise InputError(where, problem, "keep one of them.", code="published-twice")
    numbers = frame.apply(pd.to_numeric, errors="coerce")
    bad = ~np.isfinite(numbers.to_numpy(np.float64))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        cell, value = f"row '{frame.index[row]}', column '{frame.columns[column]}'", frame.iloc[row, column]
        raise InputError(where, f"{cell} holds '{value}', no number.", "fix the table.", code="published-number")
    return numbers.astype(float)


def join_tables(task: LabelTask, read: Callable[[Section], tuple[str, pd.DataFrame]]) -> GroupLabels:
    """Join a table per section to the section's spots by id; `read` also names a table, for messages."""
    obs, values, dropped, unmatched, first = [], [], {}, {}, ""
    types: list[str] = []
    for section in (read_section(path, int(task.spec["low_umi"])) for path in task.samples):
        where, frame = read(section)
        frame = check_table(frame, where)
        first, types = first or where, types or sorted(frame.columns)
        if sorted(frame.columns) != types:
            difference = sorted(set(frame.columns) ^ set(types))
            problem = f"its types differ from {first}: {', '.join(difference)}."
            raise InputError(where, problem, "use tables of one fit.", code="published-types")
        matched = section.obs["obs_id"].isin(frame.index).to_numpy()
        if not matched.any():
            ids = f"ids such as {_examples(frame.index)} against {_examples(section.obs['obs_id'])}"
            problem = f"shares no observation with section '{section.sample}': {ids}."
            raise InputError(where, problem, "use the section's own observation ids.", code="published-ids")
        kept = section.obs[matched]
        obs.append(kept)
        values.append(frame.loc[kept["obs_id"], types].to_numpy())
        dropped[section.sample] = {**section.dropped, "not in the table": int((~matched).sum())}
        unmatched[section.sample] = len(frame) - int(matched.sum())
    logger.info("%s: rows of the tables without a usable spot: %s", task.where, unmatched)
    qc, joined = {"table_rows_without_spot": unmatched}, pd.concat(obs, ignore_index=True)
    return GroupLabels(joined, np.concatenate(values), types, str(task.spec["units"]), dropped=dropped, qc=qc)


def _examples(ids: pd.Index | pd.Series) -> str:
    return ", ".join(f"'{value}'" for value in list(ids)[:2]) or "none"


_TEXT = frozenset({".csv", ".tsv", ".txt"})
_ROUNDING = 0.01


def label_own_table(task: LabelTask) -> GroupLabels:
    """Read the user's labels.

    A csv or tsv has a column of observation ids (``obs_id_key``, else the first column) and a numeric column per type.
    An h5ad has observations as rows and types as columns. One file for several sections needs a column of their names
    (``sample_key``; in ``obs`` of an h5ad); the labels that this workflow writes are such a file.
    """
    obs_id_key, sample_key = str(task.spec["obs_id_key"]), str(task.spec["sample_key"])
    tables = {path: _read(path, obs_id_key, sample_key) for path in task.tables}
    each = iter(task.tables) if len(task.tables) == len(task.samples) else itertools.repeat(task.tables[0])

    def read(section: Section) -> tuple[str, pd.DataFrame]:
        path = next(each)
        frame, where = tables[path], f"{path}, section '{section.sample}'"
        if sample_key in frame.columns:
            frame = frame[frame[sample_key].astype(str).str.strip() == section.sample].drop(columns=sample_key)
        elif len(task.tables) < len(task.samples):
            problem = f"is for {len(task.samples)} sections and has no column '{sample_key}' (sample_key)."
            remedy = "add the column, or give a file for each section with {sample} in `path`."
            raise InputError(path, problem, remedy, code="table-sample-column")
        if not len(frame):
            raise InputError(where, "has no rows.", "add it, or exclude it in the sheet.", code="table-section")
        frame = check_table(frame, where)
        highest = float(frame.sum(axis=1).max())
        if task.spec["units"] == "proportion" and highest > 1 + _ROUNDING:
            problem = f"the proportions of '{frame.sum(axis=1).idxmax()}' sum to {highest:.4g}, more than 1."
            remedy = "set `units: cells` if the numbers are abundances, and leave out columns that are not types."
            raise InputError(where, problem, remedy, code="table-proportions")
        return where, frame

    return join_tables(task, read)


def _numbers(column: pd.Series) -> pd.Series:
    """Return a text column as numbers, an empty cell as NaN; unchanged where a cell is neither."""
    try:
        return column.replace("", "nan").astype(np.float64)
    except ValueError:
        return column


def _read(path: Path, obs_id_key: str, sample_key: str) -> pd.DataFrame:
    """Return a file's rows, index = obs_id; columns are types, and the sections' names where it has them."""
    if not path.is_file():
        raise InputError(path, "the table does not exist.", "fix `path` of the labels.", code="table-missing")
    refuse_pages([path])
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    if suffix == ".h5ad":
        table, keys = read_table(path, layers=()), (obs_id_key, sample_key)
        frame = pd.DataFrame(dense(table.X), index=table.obs.index, columns=table.var_names)
        frame = frame.join(table.obs[[key for key in keys if key in table.obs.columns and key not in frame.columns]])
    elif suffix in _TEXT:
        frame = read_text_table(path)
        if obs_id_key in frame.columns:
            # Row numbers, which pandas writes into a first column without a name.
            frame = frame.drop(columns="", errors="ignore")
        frame = frame.set_index(obs_id_key if obs_id_key in frame.columns else frame.columns[0])
        frame = frame.apply(lambda column: column if column.name == sample_key else _numbers(column))
    else:
        raise InputError(path, "is neither csv, tsv nor h5ad.", "write the table as one of these.", code="table-format")
    return frame.set_index(obs_id_key) if obs_id_key in frame.columns else frame
