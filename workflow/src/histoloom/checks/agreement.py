"""Labels against other labels of the same observations, type by type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.checks.base import (
    Labels,
    Tables,
    check_files,
    correlated,
    draw_points,
    joined,
    legend_once,
    paired,
    where,
)
from histoloom.errors import InputError
from histoloom.report.style import drawing, heading, short_names

inputs = check_files


def score_agreement(spec: Mapping[str, Any], labels: Labels, other: Labels) -> Tables:
    """Correlate labels with other labels of the same cohort, type by type.

    ``map``: {type of the labels: type or types of the others, which are summed}; empty: the types that both have.
    """
    pairs = dict(spec.get("map") or {}) or {name: name for name in labels.types if name in other.types}
    place_of_map = where(spec, "map")
    if not pairs:
        problem = f"{labels.path} and {other.path} share no type."
        raise InputError(place_of_map, problem, "say which type is which.", code="check-no-shared-type")
    own = np.column_stack([labels.sum_of(name, place_of_map) for name in pairs])
    expected = np.column_stack([other.sum_of(name, place_of_map) for name in pairs.values()])
    return [correlated(labels, other, list(pairs), (own, expected), target2=[joined(b) for b in pairs.values()])]


score = paired(score_agreement)


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the correlations of each pair of types: sections as points, their mean as a bar."""
    sections = rows[(rows["aggregation"] == "section") & (rows["target"] != "")]
    mean = sections["value"].where(sections["qc_flag"] == "").groupby([sections["target"], sections["target2"]]).mean()
    mean = mean.sort_values(na_position="first", kind="stable")
    names = sorted(sections["sample"].unique())
    with drawing(out, 7.6, 1.7 + 0.42 * max(len(mean), 3)) as fig:
        ax = fig.subplots()
        for y, (first, second, value) in enumerate(mean.reset_index().itertuples(index=False)):
            points = sections[(sections["target"] == first) & (sections["target2"] == second)]
            if np.isfinite(value):
                ax.barh(y, value, 0.62, color="#DDE7EE", zorder=1)
                ax.plot([value] * 2, [y - 0.31, y + 0.31], color="black", lw=1.4, zorder=2)
            draw_points(ax, y, points, names)
            undefined = int(points["value"].isna().sum())
            if undefined:
                text = f"{undefined} undefined"
                ax.text(1.01, y, text, va="center", fontsize=7, color="#777777", transform=ax.get_yaxis_transform())
        ax.set_yticks(range(len(mean)), short_names([a if a == b else f"{a}  ↔  {b}" for a, b in mean.index], 60))
        ax.axvline(0, color="black", lw=0.6)
        low = float(np.nanmin([0.0, *sections["value"]]))
        ax.set_xlim(min(-0.05, low * 1.08), 1.02)
        ax.grid(axis="x", color="#E6E6E6", lw=0.6)
        ax.set_axisbelow(True)
        ax.set_xlabel("Pearson's r over the spots of a section; bar: mean of sections")
        count = f"{sections['patient'].nunique()} patients, {len(names)} sections"
        heading(fig, f"{title}\n{spec['labels']} against {spec['against']}, {count}")
        legend_once(fig, "section")
