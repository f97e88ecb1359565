"""Labels of cells: what a section's job reads."""

from __future__ import annotations

from typing import Any

from histoloom import kinds, paths
from histoloom.config import Config
from histoloom.errors import InputError
from histoloom.kind_entries import CellLabelsKind
from histoloom.plan.sections import Sections

_FILES = ("reference", "reference_labels", "nuclei")


class CellLabels:
    """Label methods of single cells."""

    def __init__(self, config: Config, sections: Sections) -> None:
        self.config, self.sections = config, sections

    def spec(self, cell_labels: str) -> dict[str, Any]:
        """Return what of an entry decides the labels; files are tracked by their content."""
        entry = self.config.get("cell_labels", cell_labels)
        return {key: value for key, value in entry.items() if key not in _FILES}

    def kind(self, cell_labels: str) -> CellLabelsKind:
        return kinds.CELL_LABELS[self.config.get("cell_labels", cell_labels)["method"]]

    def own_files(self, cell_labels: str, cohort: str, sample: str) -> dict[str, str]:
        """Return the user's files that a section's labels are made from, by role."""
        entry, files = self.config.get("cell_labels", cell_labels), {}
        for role in _FILES:
            if pattern := entry.get(role):
                path = self.config.place(pattern, f"cell_labels.{cell_labels}.{role}")
                files[role] = path.replace("{cohort}", cohort).replace("{sample}", sample)
        return files

    def inputs(self, cell_labels: str, cohort: str, sample: str) -> dict[str, Any]:
        files: dict[str, Any] = {"sample": paths.SAMPLE.format(cohort=cohort, sample=sample)}
        files |= self.own_files(cell_labels, cohort, sample)
        if other := self.config.get("cell_labels", cell_labels)["matched"]:
            if other == cell_labels:
                where = f"{self.config.origin}: cell_labels.{cell_labels}.matched"
                raise InputError(where, "names itself.", "name other labels.", code="cell-labels-itself")
            files["matched"] = paths.CELL_LABELS.format(cell_labels=other, cohort=cohort, sample=sample)
        if "reference" in files:
            origins = [self.sections.gene_origin(cohort), f"cell labels {cell_labels}"]
            files["genes"] = self.sections.gene_table(origins)
        return files
