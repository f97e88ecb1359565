"""Labels against the ground truth of a simulated cohort: every label type with every simulated type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.checks.base import Labels, Tables, check_files, paired
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.rows import value_row, value_rows
from histoloom.report.style import DIVERGING, drawing, heading, short_names
from histoloom.stats import pearson_cross

inputs = check_files


def score_truth(spec: Mapping[str, Any], labels: Labels, truth: Labels) -> Tables:
    """Correlate every label type (target) with every type of the ground truth (target2), section by section.

    ``diagonal_is_max`` (1 or 0), for each label type that is in the ground truth too, says whether its largest
    cohort mean lies with itself.
    """
    first = [name for name in labels.types for _ in truth.types]
    second = truth.types * len(labels.types)
    parts = []
    for place, index, position in labels.shared_sections(truth):
        matrix = pearson_cross(labels.values[index], truth.values[position]).ravel()
        parts.append(value_rows(place, first, "cc", matrix, len(index)).assign(target2=second))
    rows = roll_up(pd.concat(parts, ignore_index=True), types=False)
    cohort = rows[rows["aggregation"] == "cohort"].pivot(index="target", columns="target2", values="value")
    base, checks = {"cohort": labels.cohort, "aggregation": "cohort"}, []
    for name in cohort.index.intersection(cohort.columns):
        # Two readings must agree: no true type fits the label better, no label fits the true type better.
        row, column = cohort.loc[name].dropna(), cohort[name].dropna()
        own = cohort.loc[name, name]
        hit = float(own == row.max() and own == column.max()) if np.isfinite(own) else np.nan
        checks.append(value_row(base, "diagonal_is_max", hit, len(row), target=name, target2=name))
    return [rows, pd.DataFrame(checks)]


score = paired(score_truth)


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the correlations of label types with simulated types as a heatmap, those of one name on the diagonal."""
    mean = rows[(rows["metric"] == "cc") & (rows["aggregation"] == "cohort")]
    wide = mean.groupby(["target", "target2"])["value"].mean().unstack()
    common = [name for name in wide.index if name in wide.columns]
    first, second = ([*common, *(name for name in names if name not in common)] for names in (wide.index, wide.columns))
    matrix = wide.reindex(index=first, columns=second).to_numpy()
    n = rows[rows["aggregation"] == "section"].drop_duplicates(["cohort", "sample"])
    with drawing(out, 2.9 + 0.48 * max(len(second), 4), 2.5 + 0.36 * max(len(first), 4)) as fig:
        ax = fig.subplots()
        image = ax.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
        ax.set_facecolor("#D9D9D9")
        for (i, j), value in np.ndenumerate(matrix):
            text = f"{value:.2f}" if np.isfinite(value) else "–"
            weight, tone = "bold" if first[i] == second[j] else "normal", "white" if abs(value) > 0.6 else "black"
            ax.text(j, i, text, ha="center", va="center", fontsize=7, fontweight=weight, color=tone)
        ax.set_xticks(range(len(second)), short_names(second), rotation=45, ha="right")
        ax.set_yticks(range(len(first)), short_names(first))
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ax.set_xlabel("ground truth type")
        ax.set_ylabel("type of the labels")
        check = rows[rows["metric"] == "diagonal_is_max"]["value"]
        own = np.diagonal(matrix)[: len(common)]
        mean_own = float(np.nanmean(own)) if np.isfinite(own).any() else np.nan
        fig.colorbar(image, ax=ax, shrink=0.7, pad=0.02).set_label("Pearson's r, mean over patients")
        text = (
            f"{n['patient'].nunique()} patients, {len(n)} sections; same type: mean {mean_own:.2f},\n"
            f"largest in row and column: {int(check.sum())} of {len(check)}"
        )
        heading(fig, f"{title}\n{text}")
