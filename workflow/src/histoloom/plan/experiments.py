"""Experiments: which of them run, on which sections, and what each part of the workflow depends on."""

from __future__ import annotations

from typing import Any

from histoloom import kinds, paths
from histoloom.config import Config
from histoloom.folds import is_compared
from histoloom.plan.sections import Row, Sections
from histoloom.schemas import affected


class Experiments:
    """Experiments: evaluations, comparisons that leak on purpose, and what each reads before any model is trained."""

    def __init__(self, config: Config, sections: Sections) -> None:
        self.config, self.sections = config, sections

    def entry(self, experiment: str) -> dict[str, Any]:
        return self.config.get("experiments", experiment)

    def named(self, task: str) -> list[str]:
        entries = self.config.entries["experiments"]
        return [name for name in entries if entries[name]["task"] == task and self.config.runs(name)]

    def evaluations(self) -> list[str]:
        """Return the experiments that are evaluations; the others leak on purpose, to measure the leakage effect."""
        return [name for name in self.named("evaluate") if not kinds.SPLITS[self.entry(name)["split"]].paired]

    def of_classes(self) -> list[str]:
        """Return the evaluations that predict classes of single cells."""
        return [name for name in self.evaluations() if self.entry(name)["target"]["kind"] == "cell_class"]

    def leakage_tests(self) -> list[str]:
        return [name for name in self.named("evaluate") if is_compared(self.entry(name), self.rows(name))]

    def cohorts(self, experiment: str) -> list[str]:
        """Return the cohorts of an experiment, training ones first."""
        entry = self.entry(experiment)
        keys = ("cohorts", "train_cohorts", "test_cohorts")
        return list(dict.fromkeys(cohort for key in keys for cohort in entry.get(key) or []))

    def samples(self, experiment: str) -> list[tuple[str, str]]:
        """Return (cohort, sample) of all sections of an experiment."""
        return self.sections.pairs(self.cohorts(experiment))

    def rows(self, experiment: str) -> list[Row]:
        """Return the sheet rows of all sections of an experiment, with their cohort."""
        return [{**row, "cohort": c} for c in self.cohorts(experiment) for row in self.sections.rows(c)]

    def sample_files(self, experiment: str) -> list[str]:
        return paths.each(paths.SAMPLE, self.samples(experiment))

    def spec(self, experiment: str, part: str) -> dict[str, Any]:
        """Return the keys of an experiment that affect a part of the workflow, as its schema says (``x-affects``).

        A change of title or of the list of models must not rebuild targets or train other models again.
        """
        entry = self.entry(experiment)
        return {"name": experiment, **affected(f"experiment.{entry['task']}", entry, part)}

    def bench_tables(self, experiment: str) -> dict[str, str]:
        """Return what the task of a benchmark came with: gene list and splits."""
        (cohort,) = self.cohorts(experiment)
        return self.sections.tables(cohort)

    def published_splits(self, experiment: str) -> list[str]:
        """Return the tables of published folds, train_0, test_0, train_1 and so on; none for other splits."""
        if self.entry(experiment).get("split") != "published":
            return []
        return [path for name, path in self.bench_tables(experiment).items() if name != "genes"]

    def fold_spec(self, experiment: str) -> dict[str, Any]:
        """Return the experiment's entry with as many published folds as its cohort states."""
        entry = self.entry(experiment)
        if entry["split"] != "published":
            return entry
        (cohort,) = self.cohorts(experiment)
        return {**entry, "published_folds": [{}] * self.sections.entry(cohort)["folds"]}

    def audit_genes(self, experiment: str) -> list[str]:
        """Return the table that matches genes of the experiment's cohorts in the content guard."""
        cohorts = self.cohorts(experiment)
        with_counts = [c for c in cohorts if self.sections.has_expression(c)]
        return self.sections.gene_table(map(self.sections.gene_origin, with_counts))

    def audit_file(self, experiment: str) -> list[str]:
        """Return the table of the content guard, which training waits for; nothing where it is off."""
        guard = self.entry(experiment)["content_guard"]
        return [] if guard == "off" else [paths.AUDIT.format(experiment=experiment)]
