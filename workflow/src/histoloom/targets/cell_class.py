"""Classes of observations (cells, mostly): a column of the sections, or a table of labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array

from histoloom.errors import InputError
from histoloom.samples.section import open_section
from histoloom.targets.base import Files, one_hot, write_target
from histoloom.targets.sections import Observed, common_facts, join_sections
from histoloom.text_tables import read_text_table

logger = logging.getLogger(__name__)


class CellClass:
    """One class per observation: ``obs["label"]``, X its CSR indicators (n, classes)."""

    def build(self, *, spec: Mapping[str, Any], files: Files, out: Path) -> None:
        """Write the target; observations without a label, or of a class that is not asked for, are left out."""
        recipe = spec["target"]
        tables, per_section = [Path(path) for path in files.get("table", [])], "{sample}" in recipe.get("table", "")
        per_section |= "cell_labels" in recipe
        least = float(recipe["min_confidence"])
        shared = pd.concat([read_label_table(path, least) for path in tables]) if tables and not per_section else None
        remaining = iter(tables)
        wanted = recipe["classes"]

        def join(section: Observed) -> npt.NDArray[np.bool_]:
            given: npt.NDArray[np.object_]
            if per_section:
                given = labels_of_section(next(remaining), section.obs["obs_id"], least)
            elif shared is not None:
                keys = pd.MultiIndex.from_frame(section.obs[["cohort", "sample", "obs_id"]].astype(str))
                given = shared.reindex(keys).to_numpy(object)
            else:
                given = _column(section.path, recipe["column"])
            label = pd.Series(given, section.obs.index, dtype=object).fillna("").astype(str)
            section.obs["label"] = label
            present = (label != "").to_numpy() & (label.isin(wanted).to_numpy() if wanted else True)
            section.step["labelled"] = int((section.kept & present).sum())
            return np.asarray(present, bool)

        sections = join_sections(files, join, "labelled")
        obs = pd.concat([section.table() for section in sections])
        patients = obs.groupby("label")["patient"].nunique()
        alone = sorted(patients.index[patients == 1]) if obs["patient"].nunique() > 1 else []
        if alone and recipe["one_patient"] == "fail":
            problem = f"only one patient has {', '.join(alone)}: its fold could not be trained for that."
            remedy = "leave out these classes (`target.classes`), or set `target.one_patient: drop` or `keep`."
            raise InputError("target", problem, remedy, code="class-one-patient")
        if recipe["one_patient"] == "drop":
            obs = obs[~obs["label"].isin(alone)]
        classes = [name for name in wanted or sorted(obs["label"].unique()) if (obs["label"] == name).any()]
        if len(classes) < 2:
            problem = f"has {len(classes)} classes ({', '.join(classes) or 'no label'})."
            raise InputError("target", problem, "give labels of at least two classes.", code="class-too-few")
        codes = pd.Index(classes).get_indexer(obs["label"])
        metadata = {
            **common_facts(sections, spec, files),
            "units": "probability",
            "labels_from": recipe.get("labels_from", "unstated"),
            "truth_units": None,
            "constant_types": [],
            "one_patient_classes": alone,
            "n_by_class": {name: int((codes == i).sum()) for i, name in enumerate(classes)},
        }
        write_target(obs, csr_array(one_hot(codes, len(classes))), classes, metadata, out)

    def selection_score(self, prediction: npt.NDArray[Any], y: Any, section: npt.NDArray[np.intp]) -> float:
        """Return the balanced accuracy over all validation rows."""
        del section
        guess = prediction.argmax(axis=1)
        recalls = [float((guess[y == code] == code).mean()) for code in np.unique(y)]
        return float(np.mean(recalls)) if recalls else -np.inf

    def reference_prediction(self, y: Any, n_outputs: int) -> npt.NDArray[np.float64]:
        """Return the classes' shares in training: the most probable one is the majority class."""
        return np.bincount(y, minlength=n_outputs) / len(y)


def _column(sample: Path, column: str) -> npt.NDArray[np.object_]:
    obs = open_section(sample).obs
    if column not in obs:
        problem = f"has no column '{column}' in obs; there are: {', '.join(map(str, obs.columns))}."
        remedy = "name one of these under `target.column`, or give `target.table`."
        raise InputError(sample, problem, remedy, code="class-column")
    return obs[column].astype(object).to_numpy()


def read_label_table(path: Path, min_confidence: float = 0.0) -> pd.Series:
    """Return labels by cohort, sample and obs_id from a csv or tsv with these columns and ``label``."""
    return _read_labels(path, ["cohort", "sample", "obs_id"], min_confidence)


def read_section_labels(path: Path, min_confidence: float = 0.0) -> pd.Series:
    """Return labels by obs_id from a section's own table (``cell_id`` or ``obs_id``, ``label``)."""
    return _read_labels(path, ["obs_id"], min_confidence)


def labels_of_section(path: Path, obs_ids: pd.Series, min_confidence: float = 0.0) -> npt.NDArray[np.object_]:
    """Return the label of each observation of a section from its own table (``cell_id`` or ``obs_id``, ``label``)."""
    labels = read_section_labels(path, min_confidence)
    ids = obs_ids.astype(str)
    unknown = labels.index.difference(pd.Index(ids))
    if len(labels) and len(unknown) == len(labels):
        examples = ", ".join(map(str, labels.index[:3])), ", ".join(ids[:3])
        problem = f"names no cell of the section: {examples[0]} in the table, {examples[1]} in the section."
        raise InputError(path, problem, "give the table of this section.", code="class-table-ids")
    if len(unknown):
        logger.info("%s: %d of %d labels are of cells that the section lacks", path, len(unknown), len(labels))
    return labels.reindex(ids).to_numpy(object)


def _read_labels(path: Path, keys: list[str], min_confidence: float) -> pd.Series:
    table = read_text_table(path)
    if "obs_id" not in table and "cell_id" in table:
        table = table.rename(columns={"cell_id": "obs_id"})
    missing = [column for column in (*keys, "label") if column not in table]
    if missing:
        problem = f"lacks the columns {', '.join(missing)}."
        raise InputError(path, problem, f"give {', '.join([*keys, 'label'])}.", code="class-table")
    twice = table.duplicated(keys)
    if twice.any():
        key = "/".join(table.loc[twice, keys].iloc[0])
        raise InputError(path, f"labels {key} twice.", "keep one label per observation.", code="class-table-twice")
    if "confidence" in table:
        stated = pd.to_numeric(table["confidence"], errors="coerce")
        bad = ~stated.between(0, 1)
        if bad.any():
            row = table[bad].iloc[0]
            problem = (
                f"'{row['confidence']}' is no confidence between 0 and 1 ({row['obs_id']}; {int(bad.sum())} such)."
            )
            raise InputError(path, problem, "give shares, or leave the column out.", code="class-table-confidence")
        logger.info("%s: %d labels below confidence %g", path, int((stated < min_confidence).sum()), min_confidence)
        table = table[stated >= min_confidence]
    index = pd.MultiIndex.from_frame(table[keys]) if len(keys) > 1 else pd.Index(table[keys[0]])
    return pd.Series(table["label"].to_numpy(object), index)
