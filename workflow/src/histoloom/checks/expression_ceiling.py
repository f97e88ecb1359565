"""The attainable correlation of expression: the target's genes, formed from two halves of the counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from histoloom import paths
from histoloom.artefacts import read_table
from histoloom.checks.base import Plan, Result, where
from histoloom.checks.ceiling import draw
from histoloom.checks.labelled import place_of
from histoloom.errors import InputError
from histoloom.labels.thinning import HALVES, thin_counts
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.ceiling import halves_rows
from histoloom.samples.section import open_section
from histoloom.targets.expression import expression_of

__all__ = ["draw", "inputs", "score"]


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the experiment's target, which has the genes, the recipe and the observations, and its sections."""
    sections = plan.experiments.samples(entry["experiment"])
    files = [paths.SAMPLE.format(cohort=cohort, sample=sample) for cohort, sample in sections]
    return {"labels": [paths.TARGET.format(experiment=entry["experiment"])], "against": files}


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Return rows of ``halves_r``, ``reliability`` and ``ceiling`` of each gene per section, patient and cohort.

    The counts of the whole section are split, so that a size factor is that of the half.
    """
    target = read_table(labels[0], layers=[])
    recipe = target.metadata.get("recipe") or {}
    if "size_factor" not in recipe:
        problem = f"'{spec['experiment']}' does not predict expression."
        remedy = "name one whose target is expression; labels have checks of kind ceiling."
        raise InputError(where(spec, "experiment"), problem, remedy, code="ceiling-not-expression")
    parts = []
    for section in map(open_section, against):
        chosen = (target.obs["cohort"] == section.cohort) & (target.obs["sample"] == section.sample)
        obs = target.obs[chosen.to_numpy()]
        if obs.empty:
            continue
        rows = section.obs.index.get_indexer(pd.Index(obs["obs_id"].astype(str)))
        columns = section.var.index.get_indexer(pd.Index(target.var_names))
        if (rows < 0).any() or (columns < 0).any():
            problem = f"lacks observations or genes of {labels[0]}."
            raise InputError(section.path, problem, "remove the target and run again.", code="ceiling-other-section")
        halves = []
        for half in HALVES:
            counts = thin_counts(section.counts, half, int(spec["seed"]), f"{section.cohort}/{section.sample}")[rows]
            totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
            halves.append(expression_of(csr_array(counts[:, columns]), recipe, totals).toarray())
        qc_flag = str(section.metadata.get("qc_flag") or "")
        place = place_of(section.cohort, section.sample, str(obs["patient"].iloc[0]), qc_flag)
        parts.append(halves_rows(place, target.var_names, *halves))
    yield str(spec["experiment"]), [roll_up(pd.concat(parts, ignore_index=True), types=True)], target.metadata
