"""Abundance of a type, labelled or predicted, inside a pathologist's region against the other annotated regions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.checks.base import (
    FLAGGED,
    Labels,
    Tables,
    by_sections,
    check_files,
    joined,
    legend_once,
    read_regions,
    where,
)
from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.rows import value_row
from histoloom.metrics.uncertainty import auroc_with_interval
from histoloom.report.style import PALETTE, drawing, heading, note

inputs = check_files


def score_regions(spec: Mapping[str, Any], labels: Labels, regions: pd.Series) -> Tables:
    """Ask whether a type is more abundant inside a pathologist's region than in the section's other regions.

    ``auroc`` per section, patient and cohort; ``auroc_low``, ``auroc_high`` (95 %, DeLong) and ``n_inside`` per
    section; ``sections_skipped`` per cohort: sections without both sides. The entry's ``ignore`` names regions that
    count as not annotated.
    """
    # An observation without annotation says nothing about being outside.
    region = regions.reindex(labels.obs.index).fillna("").replace(dict.fromkeys(spec.get("ignore") or [], ""))
    known = sorted(set(region) - {""})
    parts, skipped = [], []
    for pair in spec["pairs"]:
        names = [pair["region"]] if isinstance(pair["region"], str) else list(pair["region"])
        for name in names:
            if name not in known:
                problem = f"region '{name}' is in no section of cohort '{labels.cohort}'."
                remedy = f"use: {', '.join(known) or 'no section is annotated; choose other sections'}."
                raise InputError(where(spec, "pairs"), problem, remedy, code="check-unknown-region")
        abundance = labels.sum_of(pair["type"], where(spec, "pairs"))
        quantity = {"target": joined(pair["type"]), "target2": joined(pair["region"])}
        missing = 0
        for place, index in labels.sections():
            index = index[region.to_numpy()[index] != ""]
            inside = region.iloc[index].isin(names).to_numpy()
            if inside.all() or not inside.any():
                missing += 1
                continue
            value, low, high = auroc_with_interval(inside, abundance[index])
            numbers = {"auroc": value, "auroc_low": low, "auroc_high": high, "n_inside": float(inside.sum())}
            parts += [value_row(place, metric, number, len(index), **quantity) for metric, number in numbers.items()]
        cohort = {"cohort": labels.cohort, "aggregation": "cohort"}
        skipped.append(value_row(cohort, "sections_skipped", float(missing), missing, **quantity))
    tables = [pd.DataFrame(skipped)]
    if parts:
        rows = pd.DataFrame(parts)
        main = rows["metric"] == "auroc"
        tables += [roll_up(rows[main], types=False), rows[~main].assign(aggregation="section")]
    return tables


score = by_sections(read_regions, score_regions)


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the AUROC of each pair of type and region, with intervals, by section, and by model where there are some."""
    sections = rows[rows["aggregation"] == "section"]
    wide = sections.pivot_table(
        index=["target", "target2", "cohort", "sample", "qc_flag", "n", "model"], columns="metric", values="value"
    ).reset_index()
    models = sorted(rows["model"].unique())
    order = [(joined(pair["type"]), joined(pair["region"])) for pair in spec["pairs"]]
    skipped = rows[rows["metric"] == "sections_skipped"].groupby(["target", "target2"])["value"].max()
    with drawing(out, 7.6, 1.6 + 0.34 * len(order) + 0.24 * max(len(wide) / len(models), 2)) as fig:
        ax = fig.subplots()
        if wide.empty:
            note(ax, "no section has spots inside and outside of a region")
            return
        y, ticks, names = 0.0, [], []
        for number, (kind, region) in enumerate(order):
            points = wide[(wide["target"] == kind) & (wide["target2"] == region)]
            by_section = points.groupby(["cohort", "sample"], sort=True)
            mean = points.loc[points["qc_flag"] == "", "auroc"].mean()
            few = [
                name if name.count(" + ") < 2 else f"{name.partition(' + ')[0]} and others" for name in (kind, region)
            ]
            text = f"{few[0]} in {few[1]}: mean {mean:.2f}, {len(by_section)} sections"
            if skipped.get((kind, region), 0):
                text += f" ({int(skipped[kind, region])} without both sides)"
            ax.text(0, y - 0.95, text, fontsize=7, fontweight="bold", transform=ax.get_yaxis_transform(), va="center")
            for (_, sample), section in by_section:
                for row in section.to_dict("records"):
                    i = models.index(row["model"])
                    at = y + (i - (len(models) - 1) / 2) * 0.7 / len(models)
                    tone = PALETTE[(i if len(models) > 1 else number) % len(PALETTE)]
                    tone = FLAGGED if row["qc_flag"] else tone
                    if np.isfinite(row.get("auroc_low", np.nan)):
                        ax.plot([row["auroc_low"], row["auroc_high"]], [at, at], color=tone, lw=1.6)
                    ax.plot(row["auroc"], at, "o", ms=5, color=tone, mec="black", mew=0.5, label=row["model"])
                ticks.append(y)
                names.append(f"{sample} ({int(row['n_inside'])} of {int(row['n'])})")
                y += 1
            y += 1.4
        ax.axvline(0.5, color="black", lw=0.8, ls="--")
        ax.set_yticks(ticks, names)
        ax.set_ylim(y - 1.2, -1.8)
        ax.set_xlim(max(0.0, float(np.nanmin(wide[["auroc", "auroc_low"]])) - 0.05), 1.0)
        ax.set_xlabel("AUROC (0.5: no better than chance)\nline: 95 % DeLong interval over spots, which are neighbours")
        ax.set_ylabel("section (annotated spots inside of all)")
        text = f"held-out predictions of {spec['experiment']}" if "experiment" in spec else f"labels {spec['labels']}"
        heading(fig, f"{title}\n{text} against a pathologist's regions")
        if len(models) > 1:
            legend_once(fig)
