"""Checks of labels, predictions and tiles: what each of them reads."""

from __future__ import annotations

from typing import Any

from histoloom import kinds
from histoloom.config import Config
from histoloom.plan.experiments import Experiments
from histoloom.plan.labels import Labels
from histoloom.plan.models import Models
from histoloom.plan.sections import Sections


class Checks:
    """The checks of a run."""

    def __init__(
        self, config: Config, sections: Sections, labels: Labels, experiments: Experiments, models: Models
    ) -> None:
        self.config, self.sections, self.labels = config, sections, labels
        self.experiments, self.models = experiments, models

    def named(self) -> list[str]:
        return [name for name in self.config.entries["checks"] if self.config.runs(name)]

    def spec(self, check: str) -> dict[str, Any]:
        return {**self.config.get("checks", check), "name": check}

    def files(self, check: str) -> dict[str, list[str]]:
        """Return what a check reads, by role: what is checked (``labels``), and what it is compared with."""
        entry = self.config.get("checks", check)
        files: dict[str, list[str]] = kinds.load_attribute(f"{kinds.CHECKS[entry['kind']].module}:inputs")(self, entry)
        return files

    def chapter(self, check: str) -> str:
        return kinds.CHECKS[self.config.get("checks", check)["kind"]].chapter

    def columns(self, check: str) -> dict[str, str]:
        """Return how the report lists a check: what it looks at (an experiment, labels or tiles), and its name."""
        entry = self.config.get("checks", check)
        subject = entry.get("experiment") or entry.get("labels") or entry.get("tiles")
        return {"experiment": subject if isinstance(subject, str) else "labels", "what": check}

    def ceilings(self, experiment: str) -> list[str]:
        """Return the checks that say what an experiment could reach: of its labels, or of its expression."""
        entry, checks = self.experiments.entry(experiment), self.config.entries["checks"]
        return [
            name
            for name in self.named()
            if (checks[name]["kind"] == "expression_ceiling" and checks[name]["experiment"] == experiment)
            or (
                checks[name]["kind"] == "ceiling"
                and checks[name]["labels"] == entry.get("labels")
                and checks[name]["transform"] == entry["target"].get("transform")
                and set(checks[name]["cohorts"]) & set(self.experiments.cohorts(experiment))
            )
        ]
