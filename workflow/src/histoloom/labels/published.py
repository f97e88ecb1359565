"""Labels that are not fitted here: a publisher's table, or the ground truth of a simulated cohort."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.labels.artefact import GroupLabels, LabelTask
from histoloom.labels.prepare import Section, read_section

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
    sections = [read_section(p, int(task.spec["low_umi"])) for p in task.samples]
    if not path.is_file():
        problem = "the published table does not exist."
        raise InputError(path, problem, "download it, or fix mirror_dir.", code="published-missing")
    if not zipfile.is_zipfile(path):
        raise InputError(path, "is not a zip file.", "download it again; it may be cut short.", code="published-zip")
    with zipfile.ZipFile(path) as archive:
        by_name = {Path(name).name: name for name in archive.namelist() if not name.endswith("/")}
        frames = []
        for section in sections:
            wanted = task.spec["member"].format(sample=section.sample)
            if wanted not in by_name:
                examples = f"{len(by_name)} files, such as {', '.join(sorted(by_name)[:3]) or 'none'}"
                problem = f"has no table '{wanted}' for section '{section.sample}'; it holds {examples}."
                remedy = "exclude the section in the cohort sheet or set `member` to the name the files have."
                raise InputError(path, problem, remedy, code="published-member")
            with archive.open(by_name[wanted]) as handle:
                frames.append(_read_table(handle, f"{path}:{by_name[wanted]}"))
    return join_tables(task, sections, frames, [f"{path}:{s.sample}" for s in sections])


def label_truth(task: LabelTask) -> GroupLabels:
    """Read the ground truth of simulated sections: ``<section>_abundance.tsv``, cells per spot and type."""
    sections = [read_section(p, int(task.spec["low_umi"])) for p in task.samples]
    frames, places = [], []
    for section in sections:
        matches = [p for p in task.tables if p.name.partition(".")[0] == f"{section.sample}_abundance"]
        if len(matches) != 1 or not matches[0].is_file():
            given = ", ".join(p.name for p in task.tables) or "none"
            problem = f"section '{section.sample}' has no table '{section.sample}_abundance.tsv'; given: {given}."
            raise InputError(task.where, problem, "use `truth` with simulated cohorts only.", code="truth-table")
        with matches[0].open("rb") as handle:
            frames.append(_read_table(handle, str(matches[0])))
        places.append(str(matches[0]))
    return join_tables(task, sections, frames, places)


def _read_table(handle: IO[bytes], where: str) -> pd.DataFrame:
    return check_table(pd.read_csv(handle, sep="\t", index_col=0, float_precision="round_trip"), where)


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
    bad = numbers.isna().to_numpy()
    if bad.any():
        row, column = np.argwhere(bad)[0]
        cell, value = f"row '{frame.index[row]}', column '{frame.columns[column]}'", frame.iloc[row, column]
        raise InputError(where, f"{cell} holds '{value}', no number.", "fix the table.", code="published-number")
    return numbers.astype(float)


def join_tables(task: LabelTask, sections: list[Section], frames: list[pd.DataFrame], places: list[str]) -> GroupLabels:
    """Join a table per section to the section's spots by id; `places` name the tables in messages."""
    types = sorted(frames[0].columns)
    obs, values, dropped, unmatched = [], [], {}, {}
    for section, frame, where in zip(sections, frames, places, strict=True):
        if sorted(frame.columns) != types:
            difference = sorted(set(frame.columns) ^ set(types))
            problem = f"its types differ from {places[0]}: {', '.join(difference)}."
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
