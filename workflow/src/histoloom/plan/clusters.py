"""Clusters of cells: which entries run, on which sections, and what each reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from histoloom import paths
from histoloom.config import Config
from histoloom.errors import InputError
from histoloom.plan.experiments import Experiments
from histoloom.plan.models import Models


class Clusters:
    """Clusters and niches of experiments on classes of cells."""

    def __init__(self, config: Config, experiments: Experiments, models: Models) -> None:
        self.config, self.experiments, self.models = config, experiments, models
        for name in self.named():
            self._check(name)

    def named(self) -> list[str]:
        """Return the entries that are to run."""
        return [name for name in self.config.entries["clusters"] if self.config.runs(name)]

    def of(self, experiment: str) -> list[str]:
        """Return the entries on an experiment."""
        return [name for name in self.named() if self.config.get("clusters", name)["experiment"] == experiment]

    def spec(self, clusters: str) -> dict[str, Any]:
        """Return an entry with its name and fold."""
        entry = self.config.get("clusters", clusters)
        fold = entry["fold"] or self.models.fold_names(entry["experiment"])[0]
        return {**entry, "name": clusters, "fold": fold}

    def inputs(self, clusters: str) -> dict[str, list[str]]:
        """Return what a section's clusters are made from, by role."""
        spec = self.spec(clusters)
        experiment, sources = spec["experiment"], spec["representations"]
        names = {"experiment": experiment, "fold": spec["fold"]}
        cohorts = self.experiments.cohorts(experiment)
        embedded = {source["encoder"] for source in sources if "encoder" in source}
        projected = {source["model"] for source in sources if "model" in source}
        return {
            "target": [paths.TARGET.format(experiment=experiment)],
            "folds": [paths.FOLDS.format(experiment=experiment)],
            **{f"embeddings_{e}": self.models.embeddings.files(e, cohorts) for e in sorted(embedded)},
            **{f"projections_{m}": [paths.REPRESENTATIONS.format(**names, model=m)] for m in sorted(projected)},
        }

    def samples(self, clusters: str) -> list[tuple[str, str]]:
        """Return (cohort, sample) of the sections of an entry."""
        return self.experiments.samples(self.config.get("clusters", clusters)["experiment"])

    def parts(self, clusters: str) -> dict[str, list[str]]:
        """Return the tables of an entry's sections, by what they hold."""
        pairs = self.samples(clusters)
        return {
            table: paths.each(paths.CLUSTERS_PART, pairs, clusters=clusters, table=table)
            for table in paths.CLUSTERS_TABLES
        }

    def cell_files(self, experiment: str, model: str, cohort: str, sample: str) -> dict[str, list[str]]:
        """Return what a section's cells are exported with, by role: predictions, embeddings, projections, clusters."""
        own, names = self.of(experiment), {"cohort": cohort, "sample": sample}
        projected = {role: f for name in own for role, f in self.inputs(name).items() if role.startswith("projections")}
        embedded = self.models.inputs(experiment, model)
        return {
            "sample": [paths.SAMPLE.format(**names)],
            "target": [paths.TARGET.format(experiment=experiment)],
            "predictions": [self.models.first_predictions(experiment, model)],
            **{role: files for role, files in embedded.items() if role.startswith("embeddings_")},
            **projected,
            "clusters": [paths.CLUSTERS.format(**names, clusters=name) for name in own],
            **{role: [path] for role, path in self.experiments.sections.outlines(cohort, sample).items()},
        }

    def targets(self) -> Iterator[str]:
        """Yield the pages and figures of the entries that run."""
        for name in self.named():
            yield from (
                paths.CLUSTERS_TABLE.format(clusters=name, table="clusters", ending=ending) for ending in ("md", "html")
            )
            yield from paths.each(paths.CLUSTERS_FIGURE, self.samples(name), clusters=name)

    def _check(self, name: str) -> None:
        entry, where = self.config.get("clusters", name), f"{self.config.origin}: clusters.{name}"
        experiment = self.experiments.entry(entry["experiment"])
        if experiment.get("target", {}).get("kind") != "cell_class":
            problem = f"'{entry['experiment']}' has no classes of cells."
            raise InputError(f"{where}.experiment", problem, "name one of target cell_class.", "clusters-target")
        folds = self.models.fold_names(entry["experiment"])
        if entry["fold"] not in (None, *folds):
            problem = f"'{entry['fold']}' is no fold of '{entry['experiment']}'."
            raise InputError(f"{where}.fold", problem, f"use one of: {', '.join(folds)}.", "clusters-fold")
        used = {e for model in experiment["models"] for e in self.models.embeddings.of_model(model)}
        aligned = [m for m in experiment["models"] if self.config.get("models", m)["kind"] == "alignment"]
        names = [source["name"] for source in entry["representations"]]
        for source in entry["representations"]:
            kind, known = ("encoder", sorted(used)) if "encoder" in source else ("model", aligned)
            if names.count(source["name"]) > 1 or ("encoder" in source) == ("model" in source):
                problem = f"'{source['name']}' is named twice, or has not one of `encoder` and `model`."
                remedy = "give each a name of its own, and one of both."
                raise InputError(f"{where}.representations", problem, remedy, "clusters-representations")
            if source[kind] not in known:
                problem = f"'{source[kind]}' is no {kind} of '{entry['experiment']}' that represents cells."
                remedy = f"use one of: {', '.join(known) or 'none, add one to its models'}."
                raise InputError(f"{where}.representations", problem, remedy, "clusters-representation")
