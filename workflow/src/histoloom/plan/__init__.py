"""Which files, batches, groups and targets a config asks for: a pure function of config and sheets.

No job is needed to know the whole graph, so a dry run shows everything and touches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from histoloom.config import Config, load_config
from histoloom.errors import Collected, InputError
from histoloom.plan.cell_labels import CellLabels
from histoloom.plan.checks import Checks
from histoloom.plan.clusters import Clusters
from histoloom.plan.embeddings import Embeddings
from histoloom.plan.experiments import Experiments
from histoloom.plan.labels import Labels
from histoloom.plan.models import Models
from histoloom.plan.report import Report
from histoloom.plan.sections import Sections
from histoloom.plan.viewer import Viewers

__all__ = ["Plan"]


class Plan:
    """The plan of a run, one part per stage; a part knows only those before it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sections = Sections(config)
        self.labels = Labels(config, self.sections)
        self.cell_labels = CellLabels(config, self.sections)
        self.experiments = Experiments(config, self.sections)
        self.embeddings = Embeddings(config, self.sections, self.experiments)
        self.models = Models(config, self.experiments, self.embeddings)
        self.clusters = Clusters(config, self.experiments, self.models)
        self.checks = Checks(config, self.sections, self.labels, self.experiments, self.models)
        self.viewers = Viewers(config, self.sections, self.experiments, self.models)
        self.report = Report(config, self.sections, self.experiments, self.models, self.checks, self.clusters)

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any], files: Iterable[str | Path]) -> Plan:
        """Validate a config as Snakemake merged it and plan it."""
        return cls(load_config(raw, list(files)))

    def check_files(self) -> None:
        """Raise one error of everything that is wrong with the user's own files, as far as paths tell."""
        faults, raw = Collected(), f"{self.config.raw_dir}/"
        own: dict[str, str] = {}
        for section in self.sections_of_run():
            with faults.each():
                self.sections.raw_files(*section)
        for labels, cohort in self.labels_of_run():
            for group in self.labels.groups(labels, cohort):
                with faults.each():
                    files = self.labels.inputs(labels, cohort, group)
                    own |= dict.fromkeys(files["tables"], f"labels.{labels}.path")
            if reference := self.labels.entry(labels).get("reference"):
                for paths in self.labels.reference_files(reference).values():
                    own |= dict.fromkeys(paths, f"references.{reference}")
        for cell_labels, section in self.cell_labels_of_run():
            with faults.each():
                named = self.cell_labels.own_files(cell_labels, *section).values()
                own |= dict.fromkeys(named, f"cell_labels.{cell_labels}")
        for path, where in own.items():
            if not path.startswith(raw) and not Path(path).exists():
                problem, remedy = f"{path} does not exist.", "correct the path; it is relative to the run's folder."
                faults.add(InputError(f"{self.config.origin}: {where}", problem, remedy, "user-file-missing"))
        faults.stop()

    def sections_of_run(self) -> list[tuple[str, str]]:
        """Return (cohort, sample) of every section that an experiment or a check of this run reads."""
        names = [name for task in ("evaluate", "apply") for name in self.experiments.named(task)]
        pairs = [pair for name in names for pair in self.experiments.samples(name)]
        for check in self.checks.named():
            pairs += self.sections.pairs(self.config.get("checks", check).get("cohorts", []))
        return list(dict.fromkeys(pairs))

    def cell_labels_of_run(self) -> list[tuple[str, tuple[str, str]]]:
        """Return (cell_labels, section) of all cells that are to be labelled for a target."""
        names = self.experiments.named("evaluate")
        used = [(self.config.get("experiments", name)["target"].get("cell_labels"), name) for name in names]
        return [(labels, section) for labels, name in used if labels for section in self.experiments.samples(name)]

    def labels_of_run(self) -> list[tuple[str, str]]:
        """Return (labels, cohort) of everything that is to be labelled."""
        pairs = []
        for name in self.experiments.named("evaluate"):
            entry = self.config.get("experiments", name)
            named = filter(None, (entry.get("labels"), entry.get("truth")))
            pairs += [(str(labels), cohort) for labels in named for cohort in self.experiments.cohorts(name)]
        for name in self.checks.named():
            entry = self.config.get("checks", name)
            given = entry.get("labels") or []
            named = filter(None, [*([given] if isinstance(given, str) else given), entry.get("against")])
            pairs += [(str(labels), cohort) for labels in named for cohort in entry.get("cohorts", [])]
        return list(dict.fromkeys(pairs))
