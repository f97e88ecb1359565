"""Which files, batches, groups and targets a config asks for: a pure function of config and sheets.

No job is needed to know the whole graph, so a dry run shows everything and touches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from histoloom.config import Config, load_config
from histoloom.plan.checks import Checks
from histoloom.plan.embeddings import Embeddings
from histoloom.plan.experiments import Experiments
from histoloom.plan.labels import Labels
from histoloom.plan.models import Models
from histoloom.plan.report import Report
from histoloom.plan.sections import Sections

__all__ = ["Plan"]


class Plan:
    """The plan of a run, one part per stage; a part knows only those before it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sections = Sections(config)
        self.labels = Labels(config, self.sections)
        self.experiments = Experiments(config, self.sections)
        self.embeddings = Embeddings(config, self.sections, self.experiments)
        self.models = Models(config, self.experiments, self.embeddings)
        self.checks = Checks(config, self.sections, self.experiments, self.models)
        self.report = Report(config, self.sections, self.experiments, self.models, self.checks)

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any], files: Iterable[str | Path]) -> Plan:
        """Validate a config as Snakemake merged it and plan it."""
        return cls(load_config(raw, list(files)))
