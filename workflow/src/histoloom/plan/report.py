"""What the tables and figures of a run are made from, and every file that `all` asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from histoloom import paths
from histoloom.config import RESOURCES, Config
from histoloom.plan.checks import Checks
from histoloom.plan.clusters import Clusters
from histoloom.plan.experiments import Experiments
from histoloom.plan.models import Models
from histoloom.plan.sections import Sections

CHAPTERS = (
    "In short",
    "What was measured",
    "How good could it be",
    "How good is it",
    "Compared with baselines",
    "Where does it fail",
    "Clusters and niches",
    "Leakage",
    "What depends on the labels",
    "Next to the papers",
    "New slides",
    "Viewer",
)
"""Chapters of the report in order; a run numbers those that it has."""


class Report:
    """Tables, figures and the targets of a run."""

    def __init__(
        self,
        config: Config,
        sections: Sections,
        experiments: Experiments,
        models: Models,
        checks: Checks,
        clusters: Clusters,
    ) -> None:
        self.config, self.sections, self.experiments, self.models = config, sections, experiments, models
        self.checks, self.clusters = checks, clusters

    def spec(self, experiment: str) -> dict[str, Any]:
        """Return an experiment's entry with the levels of its models and the comparison of their encoders."""
        entry = self.experiments.entry(experiment)
        if entry["task"] != "evaluate":
            return {**entry, "name": experiment}
        compared = {"baselines": self.models.baselines(experiment), "ablation": self.models.ablation(experiment)}
        return {**entry, "name": experiment, **compared}

    def own(self, pattern: str) -> str:
        """Return a file of the whole run, named after its config: several configs may run in one folder."""
        names = "_".join(Path(name).stem for name in self.config.origin.split(" + "))
        return paths.fill(pattern, config=re.sub("[^A-Za-z0-9_-]+", "_", names))

    def title(self, experiment: str) -> str:
        return str(self.experiments.entry(experiment).get("title") or "")

    def results(self, experiment: str) -> dict[str, list[str]]:
        entry = self.experiments.entry(experiment)
        return {
            "metrics": [paths.METRICS.format(experiment=experiment, model=m) for m in entry["models"]],
            "efficiency": [paths.MODEL_EFFICIENCY.format(experiment=experiment, model=m) for m in entry["models"]],
        }

    def leakage_results(self, experiment: str) -> dict[str, list[str]]:
        """Return the metrics of the leakage effect, model by model."""
        models = self.experiments.entry(experiment)["models"]
        return {"metrics": [paths.LEAKAGE_METRICS.format(experiment=experiment, model=m) for m in models]}

    def attainable_files(self, experiment: str) -> dict[str, list[str]]:
        """Return the metrics of an experiment's models and the ceilings of its labels, by role."""
        ceilings = [paths.CHECK.format(check=name) for name in self.checks.ceilings(experiment)]
        return {"metrics": self.results(experiment)["metrics"], "ceilings": ceilings}

    def expression_files(self, experiment: str) -> dict[str, list[str]]:
        """Return metrics, ceilings, sections, and predictions of the models that predict from morphology, by role."""
        return {
            **self.attainable_files(experiment),
            "predictions": [self.models.first_predictions(experiment, m) for m in self.models.mapped(experiment)],
            "samples": self.experiments.sample_files(experiment),
        }

    def expression_spec(self, experiment: str) -> dict[str, Any]:
        """Return the experiment's entry with the names of the models whose predictions are drawn."""
        shown = []
        for model in self.models.mapped(experiment):
            variant = self.models.variants(model)[0]
            shown.append(model if variant == "default" else f"{model} ({variant})")
        return {**self.spec(experiment), "shown": shown}

    def compared(self, experiment: str) -> list[str]:
        """Return the models that are drawn side by side: several that predict abundance from morphology."""
        models = self.models.mapped(experiment)
        kind = self.experiments.entry(experiment)["target"]["kind"]
        return models if kind == "abundance" and len(models) > 1 else []

    def compared_files(self, experiment: str) -> dict[str, list[str]]:
        """Return predictions and metrics of the models that are drawn side by side, in order, and the sections."""
        models = self.compared(experiment)
        return {
            "predictions": [self.models.first_predictions(experiment, model) for model in models],
            "metrics": [paths.METRICS.format(experiment=experiment, model=model) for model in models],
            "samples": self.experiments.sample_files(experiment),
        }

    def predicts_genes(self, experiment: str) -> bool:
        """Whether an experiment is on expression, with a model that predicts from morphology."""
        kind = self.experiments.entry(experiment)["target"]["kind"]
        return kind == "expression" and bool(self.models.mapped(experiment))

    def report_files(self, experiment: str) -> dict[str, list[str]]:
        """Return an experiment's sections and slides, in the same order."""
        return {
            "samples": self.experiments.sample_files(experiment),
            "slides": [self.sections.slide(c, s) for c, s in self.experiments.samples(experiment)],
        }

    # chapters ------------------------------------------------------------------------------------------------

    def chapter(self, title: str) -> str:
        """Return a chapter's title with its number among those that this run has; the report sorts by name."""
        chapters = self._chapters
        width = len(str(len(chapters)))
        return f"{chapters.index(title) + 1:0{width}d}. {title}" if title in chapters else title

    @cached_property
    def _chapters(self) -> list[str]:
        evaluations = self.experiments.evaluations()
        present = {self.checks.chapter(name) for name in self.checks.named()} | {"What was measured"}
        if evaluations:
            present |= {"In short", "How good is it", "Compared with baselines"}
        if any(map(self.models.mapped, evaluations)):
            present.add("Where does it fail")
        if self.clusters.named():
            present.add("Clusters and niches")
        leakage = self.experiments.leakage_tests()
        if leakage or any(self.experiments.audit_file(name) for name in evaluations):
            present.add("Leakage")
        if self.papers():
            present.add("Next to the papers")
        if self.experiments.named("apply"):
            present.add("New slides")
        if self.config.viewer["make"] == "all" or (self.config.viewer["make"] == "slides" and "New slides" in present):
            present.add("Viewer")
        return [title for title in CHAPTERS if title in present]

    # front page ----------------------------------------------------------------------------------------------

    def front_files(self) -> dict[str, list[str]]:
        tables, figures = [], []
        for name in self.experiments.evaluations():
            names = ["summary", "baselines", *["attainable"] * bool(self.checks.ceilings(name))]
            tables += [paths.TABLE.format(experiment=name, table=table, ending="csv") for table in names]
            figures += [paths.FIGURE.format(experiment=name, figure=figure) for figure in ("baselines", "bars")]
            maps = paths.fill(paths.MODEL_FIGURE, experiment=name, figure="maps.jpg")
            figures += [maps.format(model=m) for m in self.models.mapped(name)]
        return {"tables": tables, "figures": figures}

    def front_spec(self) -> list[dict[str, Any]]:
        return [self.spec(name) for name in self.experiments.evaluations()]

    # papers --------------------------------------------------------------------------------------------------

    def papers(self) -> dict[str, list[str]]:
        papers: dict[str, list[str]] = {}
        for name in self.experiments.named("evaluate"):
            if paper := self.experiments.entry(name).get("paper"):
                papers.setdefault(paper, []).append(name)
        return papers

    def paper_results(self, paper: str) -> dict[str, list[str]]:
        results = [self.results(e) for e in self.papers()[paper]]
        return {role: [f for r in results for f in r.get(role, [])] for role in ("metrics", "efficiency")}

    def published_table(self, paper: str, number: str) -> str:
        """Return the file with the values that a paper published in a table."""
        return str(RESOURCES / "published" / f"{paper}_table{number}.yaml")

    def paper_spec(self, paper: str) -> dict[str, Any]:
        """Return the paper's experiments with what decides whether a number may stand next to a published one."""
        return {"paper": paper, "experiments": {name: self._paper_entry(name) for name in self.papers()[paper]}}

    def _paper_entry(self, experiment: str) -> dict[str, Any]:
        entry = self.experiments.entry(experiment)
        cohorts = {c: self.sections.entry(c) for c in self.experiments.cohorts(experiment)}
        # Tasks of one benchmark are cohorts of their own.
        sources = {name: " ".join(filter(None, (c["source"], c.get("task")))) for name, c in cohorts.items()}
        labels = {"label_spec": self.config.get("labels", entry["labels"])} if entry["labels"] else {}
        if method := entry["target"].get("cell_labels"):
            labels = {"label_spec": self.config.get("cell_labels", method)}
        models = {name: self.models.spec(name) for name in entry["models"]}
        samples = {c: self.sections.samples(c) for c in cohorts}
        return {**entry, "sources": sources, "samples": samples, "model_specs": models, **labels}

    # targets -------------------------------------------------------------------------------------------------

    def targets(self) -> list[str]:
        """Return every file that `all` asks for."""
        return list(dict.fromkeys(self._targets()))

    def _targets(self) -> Iterator[str]:
        for name in self.experiments.leakage_tests():
            yield from self._tables(name, "leaks")
            yield paths.FIGURE.format(experiment=name, figure="leaks")
            yield from self.experiments.audit_file(name)
        for name in self.experiments.evaluations():
            yield from self._evaluation_targets(name)
        for name in self.experiments.named("apply"):
            for model in self.experiments.entry(name)["models"]:
                for cohort, sample in self.experiments.samples(name):
                    names = {"experiment": name, "model": model, "cohort": cohort, "sample": sample}
                    yield from (paths.SLIDE.format(**names, ending=ending) for ending in ("tsv", "geojson"))
                    yield paths.SLIDE_FIGURE.format(**names)
        for name in self.checks.named():
            yield from (paths.CHECK.format(check=name), paths.CHECK_FIGURE.format(check=name))
        yield from self.clusters.targets()
        for paper in self.papers():
            for table in sorted((RESOURCES / "published").glob(f"{paper}_table*.yaml")):
                number = table.stem.rpartition("_table")[2]
                yield from (paths.PAPER_TABLE.format(paper=paper, number=number, ending=e) for e in paths.TABLE_ENDINGS)
        if self.experiments.evaluations():
            yield self.own(paths.FRONT_PAGE)
        yield self.own(paths.EXCLUSIONS)

    def _tables(self, experiment: str, table: str) -> list[str]:
        return [paths.TABLE.format(experiment=experiment, table=table, ending=ending) for ending in paths.TABLE_ENDINGS]

    def _evaluation_targets(self, name: str) -> Iterator[str]:
        entry, ablation = self.experiments.entry(name), bool(self.models.ablation(name))
        attainable = bool(self.checks.ceilings(name))
        tables = ["summary", "baselines", *["ablation"] * ablation, *["attainable"] * attainable]
        for table in tables:
            yield from self._tables(name, table)
        for figure in ("bars", "baselines", "between", "curves", *["ablation"] * ablation):
            yield paths.FIGURE.format(experiment=name, figure=figure)
        if self.compared(name):
            yield paths.MODELS_FIGURE.format(experiment=name)
            yield paths.FIGURE.format(experiment=name, figure="models_colocalization")
        if self.predicts_genes(name):
            yield from self._tables(name, "protocols")
            for figure in ("gene_pcc", "gene_profiles", "gene_gene"):
                yield paths.FIGURE.format(experiment=name, figure=figure)
            yield paths.GENE_MAPS.format(experiment=name)
        yield from self.experiments.audit_file(name)
        for model in self.models.mapped(name):
            for figure in ("maps.jpg", "colocalization.png", "ranks.png", "errors.jpg"):
                yield paths.MODEL_FIGURE.format(experiment=name, model=model, figure=figure)
        for cohort, sample in self.experiments.samples(name):
            yield paths.SAMPLE_PICTURE.format(cohort=cohort, sample=sample)
            if self.sections.outlines(cohort, sample):
                yield paths.OUTLINES_PICTURE.format(tiles=entry["tiles"], cohort=cohort, sample=sample)
