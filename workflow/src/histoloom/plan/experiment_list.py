"""Which experiments run, which sections they read, which are evaluations and which measure what a leak is worth."""

from __future__ import annotations

from histoloom.folds import DELIBERATE, is_compared
from histoloom.plan.sections import Row, SectionPlan


class ExperimentPlan(SectionPlan):
    """The part of a plan that knows the experiments: evaluations, and comparisons that leak on purpose."""

    def experiments(self, task: str) -> list[str]:
        """Return the names of the experiments of a task that are to run."""
        entries = self.config.entries["experiments"]
        return [name for name in entries if entries[name]["task"] == task and self._wanted(name)]

    def _wanted(self, name: str) -> bool:
        return self.config.only is None or name in self.config.only

    def evaluations(self) -> list[str]:
        """Return the experiments that are evaluations; the others leak on purpose, to measure the leakage effect."""
        entries = self.config.entries["experiments"]
        return [name for name in self.experiments("abundance") if entries[name]["split"] not in DELIBERATE]

    def leakage_tests(self) -> list[str]:
        """Return the experiments that measure what a leak is worth."""
        entries = self.config.entries["experiments"]
        return [name for name in self.experiments("abundance") if is_compared(entries[name], self._sections(name))]

    def experiment_cohorts(self, experiment: str) -> list[str]:
        """Return the cohorts of an experiment, training ones first."""
        entry = self.config.get("experiments", experiment)
        named = [
            *(entry.get("cohorts") or []),
            *(entry.get("train_cohorts") or []),
            *(entry.get("test_cohorts") or []),
        ]
        return list(dict.fromkeys(named))

    def experiment_samples(self, experiment: str) -> list[tuple[str, str]]:
        """Return (cohort, sample) of all sections of an experiment."""
        return [(c, s) for c in self.experiment_cohorts(experiment) for s in self.samples(c)]

    def _sections(self, experiment: str) -> list[Row]:
        """Return cohort, sample and patient of all sections of an experiment."""
        return [{**row, "cohort": c} for c in self.experiment_cohorts(experiment) for row in self.rows(c)]

    def leak_results(self, experiment: str) -> dict[str, list[str]]:
        """Return the metrics of what a leak is worth, model by model."""
        models = self.config.get("experiments", experiment)["models"]
        return {"metrics": [f"results/metrics/leaks/{experiment}/{m}.parquet" for m in models]}
