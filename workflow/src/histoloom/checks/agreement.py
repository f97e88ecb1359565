"""Labels against other labels of the same observations, type by type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.checks.base import FLAGGED, Plan, Result, label_files, paired
from histoloom.checks.labelled import Labels, joined
from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.continuous import value_rows
from histoloom.report.style import PALETTE, figure, jitter, save, short_names
from histoloom.stats import pearson_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels and the other labels of its cohorts."""
    return label_files(plan, entry)


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Score each cohort by `score_agreement`."""
    return paired(spec, labels, against, score_agreement)


def score_agreement(spec: Mapping[str, Any], labels: Labels, other: Labels) -> list[pd.DataFrame]:
    """Correlate labels with other labels, type by type through the check's map.

    Parameters
    ----------
    spec
        ``map``: {type of the labels: type or types of the others, whose abundances are summed}; empty: the types that
        both have.
    labels, other
        Of the same cohort.
    """
    pairs = dict(spec.get("map") or {}) or {name: name for name in labels.types if name in other.types}
    where = f"checks.{spec.get('name', '?')}.map"
    if not pairs:
        raise InputError(
            where, f"{labels.path} and {other.path} share no type.", "say which type is which.",
            code="check-no-shared-type",
        )  # fmt: skip
    own = np.column_stack([labels.sum_of(name, where) for name in pairs])
    expected = np.column_stack([other.sum_of(name, where) for name in pairs.values()])
    parts = []
    for place, index, position in labels.shared_sections(other):
        value, n = pearson_columns(own[index], expected[position])
        parts.append(value_rows(place, list(pairs), "cc", value, n).assign(target2=[joined(b) for b in pairs.values()]))
    return [roll_up(pd.concat(parts, ignore_index=True), types=True)]


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the correlations of each pair of types: sections as points, their mean as a bar."""
    sections = rows[(rows["aggregation"] == "section") & (rows["target"] != "")]
    pairs = sections.drop_duplicates(["target", "target2"])[["target", "target2"]]
    plain = sections[sections["qc_flag"] == ""]
    mean = plain.groupby(["target", "target2"])["value"].mean()
    pairs = pairs.assign(mean=[mean.get((a, b), np.nan) for a, b in pairs.itertuples(index=False)])
    pairs = pairs.sort_values("mean", ascending=True, na_position="first", kind="stable")
    names = sorted(sections["sample"].unique())
    few = len(names) <= len(PALETTE)
    with figure(7.6, 1.7 + 0.42 * max(len(pairs), 3)) as fig:
        ax = fig.subplots()
        for y, pair in enumerate(pairs.to_dict("records")):
            points = sections[(sections["target"] == pair["target"]) & (sections["target2"] == pair["target2"])]
            if np.isfinite(pair["mean"]):
                ax.barh(y, pair["mean"], 0.62, color="#DDE7EE", zorder=1)
                ax.plot([pair["mean"]] * 2, [y - 0.31, y + 0.31], color="black", lw=1.4, zorder=2)
            for shift, point in zip(jitter(len(points), 0.36), points.to_dict("records"), strict=True):
                fill = PALETTE[names.index(point["sample"])] if few else PALETTE[0]
                ax.plot(point["value"], y + shift, "o", ms=5, mec="white", mew=0.5, zorder=3,
                        color=FLAGGED if point["qc_flag"] else fill,
                        label=point["sample"] if few else None)  # fmt: skip
            undefined = int(points["value"].isna().sum())
            if undefined:
                ax.text(1.01, y, f"{undefined} undefined", va="center", ha="left", fontsize=7, color="#777777",
                        transform=ax.get_yaxis_transform())  # fmt: skip
        labels = [a if a == b else f"{a}  ↔  {b}" for a, b in zip(pairs["target"], pairs["target2"], strict=True)]
        ax.set_yticks(range(len(pairs)), short_names(labels, 60))
        ax.axvline(0, color="black", lw=0.6)
        low = float(np.nanmin([0.0, *sections["value"]]))
        ax.set_xlim(min(-0.05, low * 1.08), 1.02)
        ax.grid(axis="x", color="#E6E6E6", lw=0.6)
        ax.set_axisbelow(True)
        ax.set_xlabel("Pearson's r over the spots of a section; bar: mean of sections")
        fig.suptitle(
            f"{title}: {spec['labels']} against {spec['against']}, {sections['patient'].nunique()} patients, "
            f"{len(names)} sections", x=0.01, ha="left", fontsize=9.5,
        )  # fmt: skip
        _legend_once(fig, few)
        save(fig, out)


def _legend_once(fig: Figure, wanted: bool) -> None:
    handles, labels = fig.axes[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if wanted and once:
        ordered = sorted(once)
        fig.legend(
            [once[name] for name in ordered], ordered, loc="outside right center", title="section", frameon=False
        )
