"""Abundance of a type inside a pathologist's region against the section's other annotated regions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.checks.base import FLAGGED, Plan, Result, each_cohort, label_files
from histoloom.checks.labelled import Labels, joined, read_regions
from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.auroc import auroc_with_interval
from histoloom.report.style import PALETTE, figure, note, save


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels and the sections of its cohorts."""
    return label_files(plan, entry)


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Score each cohort, or each model's predictions of it, by `score_regions`."""
    for name, item in each_cohort(spec, labels):
        regions, qc_flags = read_regions(against, item.cohort)
        yield name, score_regions(spec, item.flagged(qc_flags), regions), item.metadata


def score_regions(spec: Mapping[str, Any], labels: Labels, regions: pd.Series) -> list[pd.DataFrame]:
    """Ask whether a type is more abundant inside a pathologist's region than in the section's other regions.

    Parameters
    ----------
    spec
        ``pairs``: list of {type, region}, either one name or a list; ``ignore``: regions that count as not annotated.
    labels
        Of one cohort.
    regions
        Region by ``cohort/sample/obs_id``; "" where there is none.

    Returns
    -------
    list of DataFrame
        ``auroc`` per section, patient and cohort; ``auroc_low``, ``auroc_high`` (95 %, DeLong) and ``n_inside`` per
        section; ``sections_skipped`` per cohort: sections without both sides.
    """
    where = f"checks.{spec.get('name', '?')}.pairs"
    # An observation without annotation says nothing about being outside.
    region = regions.reindex(labels.obs.index).fillna("").replace(dict.fromkeys(spec.get("ignore") or [], ""))
    known = sorted(set(region) - {""})
    parts, skipped = [], []
    for pair in spec["pairs"]:
        names = [pair["region"]] if isinstance(pair["region"], str) else list(pair["region"])
        absent = [name for name in names if name not in known]
        if absent:
            raise InputError(
                where,
                f"region '{absent[0]}' is in no section of cohort '{labels.cohort}'.",
                f"use: {', '.join(known) or 'no section is annotated; choose other sections'}.",
                code="check-unknown-region",
            )
        abundance = labels.sum_of(pair["type"], where)
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
            parts += [
                {"metric": m, "value": v, "n": len(index), "n_nan": int(np.isnan(v)), **quantity, **place}
                for m, v in numbers.items()
            ]
        skipped.append({"metric": "sections_skipped", "value": float(missing), "n": missing, **quantity})
    cohort = {"cohort": labels.cohort, "aggregation": "cohort"}
    tables = [pd.DataFrame(skipped).assign(**cohort)]
    if parts:
        rows = pd.DataFrame(parts)
        main = rows["metric"] == "auroc"
        tables += [roll_up(rows[main], types=False), rows[~main].assign(aggregation="section")]
    return tables


def _few(joined: str) -> str:
    """Return the first of many joined names and the number of the others."""
    names = joined.split(" + ")
    return joined if len(names) < 3 else f"{names[0]} and {len(names) - 1} more types"


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the AUROC of each pair of type and region, with intervals, by section."""
    sections = rows[rows["aggregation"] == "section"]
    wide = sections.pivot_table(
        index=["target", "target2", "cohort", "sample", "qc_flag", "n"], columns="metric", values="value", dropna=True
    ).reset_index()
    order = [(joined(pair["type"]), joined(pair["region"])) for pair in spec["pairs"]]
    skipped = rows[rows["metric"] == "sections_skipped"].groupby(["target", "target2"])["value"].sum()
    count = sum(len(wide[(wide["target"] == a) & (wide["target2"] == b)]) for a, b in order) if len(wide) else 0
    with figure(7.6, 1.6 + 0.34 * len(order) + 0.24 * max(count, 2)) as fig:
        ax = fig.subplots()
        if not count:
            note(ax, "no section has spots inside and outside of a region")
            save(fig, out)
            return
        y, ticks, names = 0.0, [], []
        for number, (kind, region) in enumerate(order):
            points = wide[(wide["target"] == kind) & (wide["target2"] == region)].sort_values("sample")
            face = PALETTE[number % len(PALETTE)]
            top = y
            for row in points.to_dict("records"):
                tone = FLAGGED if row["qc_flag"] else face
                if np.isfinite(row.get("auroc_low", np.nan)):
                    ax.plot([row["auroc_low"], row["auroc_high"]], [y, y], color=tone, lw=2)
                ax.plot(row["auroc"], y, "o", ms=5.5, color=tone, mec="black", mew=0.5)
                ticks.append(y)
                names.append(f"{row['sample']} ({int(row['n_inside'])} of {int(row['n'])})")
                y += 1
            mean = points.loc[points["qc_flag"] == "", "auroc"].mean()
            text = f"{_few(kind)} in {_few(region)}: mean {mean:.2f}, {len(points)} sections"
            if skipped.get((kind, region), 0):
                text += f" ({int(skipped[kind, region])} without both sides)"
            ax.text(
                0.0, top - 0.95, text, fontsize=7, fontweight="bold", transform=ax.get_yaxis_transform(), va="center"
            )
            y += 1.4
        ax.axvline(0.5, color="black", lw=0.8, ls="--")
        ax.set_yticks(ticks, names)
        ax.set_ylim(y - 1.2, -1.8)
        ax.set_xlim(max(0.0, float(np.nanmin(wide[["auroc", "auroc_low"]])) - 0.05), 1.0)
        ax.set_xlabel("AUROC (0.5: no better than chance)\nline: 95 % DeLong interval over spots, which are neighbours")
        ax.set_ylabel("section (annotated spots inside of all)")
        fig.suptitle(title, x=0.01, ha="left", fontsize=9.5)
        save(fig, out)
