"""Labels of a section's cells as a table, by a method, and how many cells each step left."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom import kinds
from histoloom.errors import InputError
from histoloom.references.readers import is_mitochondrial
from histoloom.samples.section import Section, open_section
from histoloom.targets.cell_class import read_section_labels

logger = logging.getLogger(__name__)


@dataclass
class CellLabelTask:
    """One section to label.

    Attributes
    ----------
    spec
        The method's entry (``cell_labels.<method>.schema.yaml``), with its defaults.
    files
        By role: those of the method; ``matched``, the section's table of other labels; ``genes``, the table through
        which genes are matched (`histoloom.genes`).
    used, genes
        (n,) cells and (G,) genes that passed the filters of counts.
    steps
        Name and number of cells (or of genes, where the name says so) after each step, in order.
    """

    spec: Mapping[str, Any]
    section: Section
    files: Mapping[str, Path]
    used: npt.NDArray[np.bool_]
    genes: npt.NDArray[np.bool_]
    threads: int = 1
    steps: list[tuple[str, int]] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"{self.section.cohort}/{self.section.sample}"

    def count(self, step: str, number: int) -> None:
        """Note and log what a step left."""
        self.steps.append((step, int(number)))
        logger.info("%s: %s: %d", self.where, step, number)


def label_cells(
    *, spec: Mapping[str, Any], sample: Path, files: Mapping[str, Path], out: Path, steps: Path, threads: int = 1
) -> None:
    """Write the labels of a section's cells (cell_id, label, confidence and what else the method says) and the steps.

    Steps in order: cells of the section; filters of counts (``min_genes``, ``max_mitochondrial``); what the method
    labels; classes that the map knows; cells that the other labels have (``matched``); classes that are large enough.
    """
    task = start(spec, open_section(sample), files, threads)
    table: pd.DataFrame = kinds.load("cell_labels", spec["method"])(task)
    if not len(table):
        remedy = "look at the steps in the log: filters, and how far nuclei or markers are known."
        raise InputError(task.where, "no cell got a label.", remedy, code="cell-labels-empty")
    table = _mapped(table, task)
    if matched := files.get("matched"):
        table = table[table.index.isin(read_section_labels(matched).index)]
        task.count(f"with a label of '{spec['matched']}' too", len(table))
    if spec["min_cells"]:
        size = table.groupby("label")["label"].transform("size")
        small = ", ".join(sorted(set(table.loc[size <= spec["min_cells"], "label"]))) or "none"
        table = table[size > spec["min_cells"]]
        task.count(f"of classes with more than {spec['min_cells']} cells (without {small})", len(table))
    for name, number in table["label"].value_counts().items():
        logger.info("%s: %s: %d (%.1f %%)", task.where, name, number, 100 * number / len(table))
    table.rename_axis("cell_id").to_csv(out)
    pd.DataFrame(task.steps, columns=["step", "n"]).to_csv(steps, index=False)


def start(spec: Mapping[str, Any], section: Section, files: Mapping[str, Path], threads: int = 1) -> CellLabelTask:
    """Return the task of a section after the filters of counts."""
    counts = section.counts
    task = CellLabelTask(spec, section, files, np.ones(counts.shape[0], bool), np.ones(counts.shape[1], bool), threads)
    task.count("cells of the section", len(task.used))
    if spec["min_genes"]:
        task.used &= np.diff(counts.indptr) >= spec["min_genes"]
        task.count(f"with at least {spec['min_genes']} genes", task.used.sum())
    if spec["min_cells_of_gene"]:
        seen = np.bincount(counts[task.used].indices, minlength=counts.shape[1])
        task.genes &= seen >= spec["min_cells_of_gene"]
        task.count(f"genes that at least {spec['min_cells_of_gene']} cells have", task.genes.sum())
    if spec["max_mitochondrial"] < 1:
        own = np.asarray(is_mitochondrial(section.var.index), bool)
        total = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
        share = np.asarray(counts[:, own].sum(axis=1)).ravel() / total
        task.used &= share < spec["max_mitochondrial"]
        task.count(f"with a mitochondrial share below {spec['max_mitochondrial']:g}", task.used.sum())
    return task


def _mapped(table: pd.DataFrame, task: CellLabelTask) -> pd.DataFrame:
    """Rename labels as ``classes`` says; cells of labels that it does not name are left out."""
    classes: Mapping[str, list[str]] = task.spec["classes"]
    if not classes:
        return table
    name_of: dict[str, str] = {}
    for name, labels in classes.items():
        for label in labels:
            if name_of.setdefault(label, name) != name:
                problem = f"label '{label}' is in '{name_of[label]}' and in '{name}'."
                raise InputError("classes", problem, "put each label into one class.", code="cell-labels-class-twice")
    known, files = set(table["label"]), task.files
    if not known & name_of.keys():
        problem = f"names none of the labels: {', '.join(sorted(known)[:12])}."
        raise InputError("classes", problem, f"use labels of {', '.join(map(str, files.values()))}.", "cell-labels-map")
    kept = table[table["label"].isin(list(name_of))]
    lost = table.loc[~table["label"].isin(list(name_of)), "label"].value_counts()
    task.count(f"of a class (without {', '.join(f'{k} {v}' for k, v in lost.items()) or 'none'})", len(kept))
    return kept.assign(label=kept["label"].map(name_of))
