"""Which sections get a viewer, and what each is made from."""

from __future__ import annotations

from histoloom import bundles, paths
from histoloom.config import Config
from histoloom.plan.experiments import Experiments
from histoloom.plan.models import Models
from histoloom.plan.sections import Sections


class Viewers:
    """Viewers of predictions and of labels, one HTML file per section."""

    def __init__(self, config: Config, sections: Sections, experiments: Experiments, models: Models) -> None:
        self.config, self.sections, self.experiments, self.models = config, sections, experiments, models

    def files(self, experiment: str, model: str, cohort: str, sample: str) -> dict[str, str]:
        """Return what the viewer of a section's predictions is made from, by role."""
        entry = self.experiments.entry(experiment)
        applied = entry["task"] == "apply"
        names = {"experiment": experiment, "model": model}
        if applied and entry["bundle"]:
            scores = {"bundle": f"{entry['bundle']}/{bundles.FACTS}"}
        else:
            trained = entry["from"] if applied else experiment
            scores = {"metrics": paths.METRICS.format(experiment=trained, model=model)}
        return {
            **scores,
            "predictions": paths.SLIDE_PREDICTIONS.format(**names)
            if applied
            else self.models.first_predictions(experiment, model),
            "sample": paths.SAMPLE.format(cohort=cohort, sample=sample),
        }

    def slides(self) -> list[str]:
        return self._of(self.experiments.named("apply"), paths.VIEWER)

    def evaluations(self) -> list[str]:
        """Return the viewers of held-out sections, of models that predict from morphology."""
        return self._of(self.experiments.evaluations(), paths.VIEWER)

    def labels(self, pattern: str = paths.VIEWER_LABELS) -> list[str]:
        used = [
            (entry["labels"], cohort)
            for name in self.experiments.named("evaluate")
            for entry in [self.experiments.entry(name)]
            if entry["labels"]
            for cohort in self.experiments.cohorts(name)
        ]
        for name, check in self.config.entries["checks"].items():
            if self.config.runs(name) and isinstance(check.get("labels"), str):
                used += [(check["labels"], cohort) for cohort in check.get("cohorts") or []]
        return [
            path
            for labels, cohort in dict.fromkeys(used)
            for path in paths.each(pattern, self.sections.pairs([cohort]), labels=labels)
        ]

    def shown(self) -> list[str]:
        """Return the viewers that a run makes unasked."""
        return {"none": [], "slides": self.slides(), "all": self.all_files()}[self.config.viewer["make"]]

    def all_files(self) -> list[str]:
        return [*self.slides(), *self.evaluations(), *self.labels()]

    def exports(self) -> list[str]:
        """Return the same sections' predictions and labels for scanpy and squidpy."""
        experiments = [*self.experiments.named("apply"), *self.experiments.evaluations()]
        predicted = self._of(experiments, paths.fill(paths.EXPORT, ending="h5ad"))
        return [*predicted, *self.labels(paths.fill(paths.LABELS_EXPORT, ending="h5ad"))]

    def _of(self, experiments: list[str], pattern: str) -> list[str]:
        return [
            path
            for name in experiments
            for model in self.models.mapped(name)
            for path in paths.each(pattern, self.experiments.samples(name), experiment=name, model=model)
        ]
