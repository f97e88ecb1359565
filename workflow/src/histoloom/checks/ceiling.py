"""The attainable correlation of labels: those of two halves of the counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom import kinds, paths
from histoloom.checks.base import FLAGGED, Plan, Result, heading, paired
from histoloom.checks.labelled import Labels
from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.ceiling import IDENTIFIABLE, halves_rows
from histoloom.report.style import PALETTE, figure, jitter, save, short_names
from histoloom.targets.abundance import apply_recipe


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels of the first and of the second halves."""
    method = plan.config.get("labels", entry["labels"])["method"]
    if kinds.LABELS[method].whole_cohort:
        raise InputError(
            f"{plan.config.origin}: a check of kind ceiling",
            f"labels '{entry['labels']}' ({method}) are read from a table: half of the counts gives the same labels.",
            "name labels that are made from counts.",
            code="ceiling-no-counts",
        )
    names = [f"{entry['labels']}-half{half}s{entry['seed']}" for half in (0, 1)]
    first, second = ([paths.LABELS.format(labels=name, cohort=c) for c in entry["cohorts"]] for name in names)
    return {"labels": first, "against": second}


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Score each cohort by `score_ceiling`."""
    return paired(spec, labels, against, score_ceiling)


def score_ceiling(spec: Mapping[str, Any], first: Labels, second: Labels) -> list[pd.DataFrame]:
    """Return rows of ``halves_r``, ``reliability`` and ``ceiling`` per section, patient and cohort.

    Parameters
    ----------
    spec
        The check's entry: ``transform``, of what the correlation is taken.
    first, second
        Labels of the two halves of the counts of one cohort.

    Notes
    -----
    Reliability and ceiling are formed per section and then averaged like a CC is, so that a cohort's CC and ceiling
    are means over the same sections. Abundance follows the depth of a spot in both halves alike, so that even a type
    that counts say nothing about repeats itself; its share of the spot does not.
    """
    transform = str(spec.get("transform", "none"))
    if first.types != second.types:
        raise InputError(
            second.path,
            f"has other types than {first.path}.",
            "remove both and label them again.",
            code="ceiling-types",
        )
    parts = [
        halves_rows(
            place, first.types,
            apply_recipe(first.values[index], transform, first.path),
            apply_recipe(second.values[position], transform, second.path),
        )
        for place, index, position in first.shared_sections(second)
    ]  # fmt: skip
    return [roll_up(pd.concat(parts, ignore_index=True), types=True)]


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the ceiling of each type: sections as points, the cohort as a bar."""
    sections = rows[(rows["aggregation"] == "section") & (rows["metric"] == "ceiling") & (rows["target"] != "")]
    cohort = rows[(rows["aggregation"] == "cohort") & (rows["target"] != "")]
    mean = cohort.pivot_table(index="target", columns="metric", values="value", dropna=False)
    mean = mean.sort_values("reliability", ascending=False, kind="stable")
    names = sorted(sections["sample"].unique())
    few = len(names) <= len(PALETTE)
    with figure(7.4, 1.8 + 0.27 * max(len(mean), 4)) as fig:
        ax = fig.subplots()
        for y, (name, row) in enumerate(mean.iterrows()):
            good = row["reliability"] >= IDENTIFIABLE
            ax.barh(y, row["ceiling"], 0.72, color="#D5DDE3" if good else "#F0E9DF", zorder=1)
            points = sections[sections["target"] == name]
            for shift, point in zip(jitter(len(points), 0.4), points.to_dict("records"), strict=True):
                tone = PALETTE[names.index(point["sample"])] if few else PALETTE[0]
                label = point["sample"] if few and not y else None
                tone = FLAGGED if point["qc_flag"] else tone
                ax.plot(point["value"], y + shift, "o", ms=4, mec="white", mew=0.4, zorder=3, color=tone, label=label)
        ax.set_yticks(range(len(mean)), short_names(list(mean.index), 34))
        ax.invert_yaxis()
        ax.set_xlim(0, 1.02)
        ax.axvline(np.sqrt(IDENTIFIABLE), color="black", ls="--", lw=0.8)
        ax.set_xlabel(f"ceiling of CC; dashed: reliability {IDENTIFIABLE:g}; pale bars: not identifiable")
        if few:
            fig.legend(loc="outside right center", title="section", frameon=False)
        good = int((mean["reliability"] >= IDENTIFIABLE).sum())
        of = {"none": "", "log1p": " (log1p)", "proportion": " (proportions)"}[spec.get("transform", "none")]
        count = f"{good} of {len(mean)} types identifiable, {len(names)} section{'s'[: len(names) > 1]}"
        text = f"{spec.get('labels') or spec['experiment']}{of}, counts split in two: {count}"
        fig.suptitle(**heading(title, text))
        save(fig, out)
