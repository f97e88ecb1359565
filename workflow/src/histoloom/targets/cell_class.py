"""Classes of observations (cells, mostly): a column of the sections, or a table of labels."""

from __future__ import annotations

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


class CellClass:
    """One class per observation: ``obs["label"]``, X its CSR indicators (n, classes)."""

    def build(self, *, spec: Mapping[str, Any], files: Files, out: Path) -> None:
        """Write the target; observations without a label, or of a class that is not asked for, are left out."""
        recipe = spec["target"]
        tables = [read_label_table(Path(path)) for path in files.get("table", [])]
        wanted = recipe["classes"]

        def join(section: Observed) -> npt.NDArray[np.bool_]:
            if tables:
                keys = pd.MultiIndex.from_frame(section.obs[["cohort", "sample", "obs_id"]].astype(str))
                label = pd.concat(tables).reindex(keys).to_numpy(object)
            else:
                label = _column(section.path, recipe["column"])
            label = pd.Series(label, section.obs.index, dtype=object).fillna("").astype(str)
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


def read_label_table(path: Path) -> pd.Series:
    """Return labels by cohort, sample and obs_id from a csv or tsv with these columns and ``label``."""
    table = read_text_table(path)
    columns = ["cohort", "sample", "obs_id", "label"]
    missing = [column for column in columns if column not in table]
    if missing:
        problem = f"lacks the columns {', '.join(missing)}."
        raise InputError(path, problem, f"give {', '.join(columns)}.", code="class-table")
    twice = table.duplicated(columns[:3])
    if twice.any():
        key = "/".join(table.loc[twice, columns[:3]].iloc[0])
        raise InputError(path, f"labels {key} twice.", "keep one label per observation.", code="class-table-twice")
    return table.set_index(columns[:3])["label"]
