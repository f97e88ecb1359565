"""The attainable correlation of labels or of expression: of two halves of the counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from histoloom import kinds, paths
from histoloom.artefacts import read_table
from histoloom.checks.base import (
    Labels,
    Plan,
    Result,
    Tables,
    draw_points,
    legend_once,
    paired,
    place_of,
    where,
)
from histoloom.errors import InputError
from histoloom.labels.thinning import HALVES, thin_counts
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.ceiling import IDENTIFIABLE, halves_rows
from histoloom.paths import HalfLabels
from histoloom.report.style import drawing, heading, short_names
from histoloom.samples.section import open_section
from histoloom.targets.abundance import apply_recipe
from histoloom.targets.recipes import Recipe


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels of both halves; or an experiment's target (genes, recipe, observations) and its sections."""
    if "experiment" in entry:
        files = plan.experiments.sample_files(entry["experiment"])
        return {"labels": [paths.TARGET.format(experiment=entry["experiment"])], "against": files}
    method = plan.config.get("labels", entry["labels"])["method"]
    if kinds.LABELS[method].whole_cohort:
        place, remedy = f"{plan.config.origin}: a check of kind ceiling", "name labels that are made from counts."
        problem = f"labels '{entry['labels']}' ({method}) are read from a table: halves of counts do not change them."
        raise InputError(place, problem, remedy, code="ceiling-no-counts")
    names = [HalfLabels(entry["labels"], half, entry["seed"]) for half in HALVES]
    first, second = ([paths.LABELS.format(labels=name, cohort=c) for c in entry["cohorts"]] for name in names)
    return {"labels": first, "against": second}


def score_ceiling(spec: Mapping[str, Any], first: Labels, second: Labels) -> Tables:
    """Return rows of ``halves_r``, ``reliability`` and ``ceiling`` per section, patient and cohort.

    Abundance follows the depth of a spot in both halves alike, so that even a type that counts say nothing about
    repeats itself; its share of the spot does not: see ``transform`` of the entry.
    """
    transform = str(spec.get("transform", "none"))
    if first.types != second.types:
        problem = f"has other types than {first.path}."
        raise InputError(second.path, problem, "remove both and label them again.", code="ceiling-types")
    parts = []
    for place, index, position in first.shared_sections(second):
        own = apply_recipe(first.values[index], transform, first.path)
        other = apply_recipe(second.values[position], transform, second.path)
        parts.append(halves_rows(place, first.types, own, other))
    return [roll_up(pd.concat(parts, ignore_index=True), types=True)]


def score_expression(spec: Mapping[str, Any], target_file: Path, sections: Sequence[Path]) -> Result:
    """Return the same rows of each gene of an expression target, formed from two halves of the counts.

    The counts of the whole section are split, so that a size factor is that of the half.
    """
    target = read_table(target_file, layers=[])
    recipe = target.metadata.get("recipe") or {}
    if "size_factor" not in recipe:
        problem = f"'{spec['experiment']}' does not predict expression."
        remedy = "name one whose target is expression; labels have checks of kind ceiling."
        raise InputError(where(spec, "experiment"), problem, remedy, code="ceiling-not-expression")
    for key in ("smoothing", "batch_correction"):
        if recipe.get(key, "none") != "none":
            problem = f"has `{key}: {recipe[key]}`, which mixes the noise of observations."
            remedy = "check an experiment without it: thinning says how good one observation's counts are."
            raise InputError(where(spec, "experiment"), problem, remedy, code="ceiling-mixed")
    parts, scale = [], Recipe.from_json(recipe)
    for section in map(open_section, sections):
        chosen = (target.obs["cohort"] == section.cohort) & (target.obs["sample"] == section.sample)
        obs = target.obs[chosen.to_numpy()]
        if obs.empty:
            continue
        rows = section.obs.index.get_indexer(pd.Index(obs["obs_id"].astype(str)))
        columns = section.var.index.get_indexer(pd.Index(target.var_names))
        if (rows < 0).any() or (columns < 0).any():
            problem = f"lacks observations or genes of {target_file}."
            raise InputError(section.path, problem, "remove the target and run again.", code="ceiling-other-section")
        halves = []
        for half in HALVES:
            counts = thin_counts(section.counts, half, int(spec["seed"]), f"{section.cohort}/{section.sample}")[rows]
            totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
            halves.append(scale.values(csr_array(counts[:, columns]), totals, counts.shape[1]).toarray())
        qc_flag = str(section.metadata.get("qc_flag") or "")
        place = place_of(section.cohort, section.sample, str(obs["patient"].iloc[0]), qc_flag)
        parts.append(halves_rows(place, target.var_names, *halves))
    return str(spec["experiment"]), [roll_up(pd.concat(parts, ignore_index=True), types=True)], target.metadata


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Score each cohort of labels by `score_ceiling`, or an experiment by `score_expression`."""
    if "experiment" in spec:
        yield score_expression(spec, labels[0], against)
    else:
        yield from paired(score_ceiling)(spec, labels, against)


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the ceiling of each type: sections as points, the cohort as a bar."""
    sections = rows[(rows["aggregation"] == "section") & (rows["metric"] == "ceiling") & (rows["target"] != "")]
    cohort = rows[(rows["aggregation"] == "cohort") & (rows["target"] != "")]
    mean = cohort.pivot_table(index="target", columns="metric", values="value", dropna=False)
    mean = mean.sort_values("reliability", ascending=False, kind="stable")
    names = sorted(sections["sample"].unique())
    with drawing(out, 7.4, 1.8 + 0.27 * max(len(mean), 4)) as fig:
        ax = fig.subplots()
        for y, (name, row) in enumerate(mean.iterrows()):
            good = row["reliability"] >= IDENTIFIABLE
            ax.barh(y, row["ceiling"], 0.72, color="#D5DDE3" if good else "#F0E9DF", zorder=1)
            draw_points(ax, y, sections[sections["target"] == name], names)
        ax.set_yticks(range(len(mean)), short_names(list(mean.index), 34))
        ax.invert_yaxis()
        ax.set_xlim(0, 1.02)
        ax.axvline(np.sqrt(IDENTIFIABLE), color="black", ls="--", lw=0.8)
        ax.set_xlabel(f"ceiling of CC; dashed: reliability {IDENTIFIABLE:g}; pale bars: not identifiable")
        legend_once(fig, "section")
        good = int((mean["reliability"] >= IDENTIFIABLE).sum())
        of = {"none": "", "log1p": " (log1p)", "proportion": " (proportions)"}[spec.get("transform", "none")]
        count = f"{good} of {len(mean)} types identifiable, {len(names)} section{'s'[: len(names) > 1]}"
        text = f"{spec.get('labels') or spec['experiment']}{of}, counts split in two: {count}"
        heading(fig, f"{title}\n{text}")
