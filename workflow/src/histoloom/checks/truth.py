"""Labels against the ground truth of a simulated cohort: every label type with every simulated type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.checks.base import Plan, Result, label_files, paired
from histoloom.checks.labelled import Labels
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.continuous import value_rows
from histoloom.report.style import DIVERGING, figure, save, short_names
from histoloom.stats import pearson_cross


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels and the ground truth of its cohorts."""
    return label_files(plan, entry)


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Score each cohort by `score_truth`."""
    return paired(spec, labels, against, score_truth)


def score_truth(spec: Mapping[str, Any], labels: Labels, truth: Labels) -> list[pd.DataFrame]:
    """Correlate every label type with every type of the ground truth, section by section.

    Returns
    -------
    list of DataFrame
        ``cc`` with target = label type, target2 = ground truth type; ``diagonal_is_max`` (1 or 0) for each label type
        whose namesake is in the ground truth: whether its largest cohort mean lies with its namesake.
    """
    first = [name for name in labels.types for _ in truth.types]
    second = truth.types * len(labels.types)
    parts = []
    for place, index, position in labels.shared_sections(truth):
        matrix = pearson_cross(labels.values[index], truth.values[position]).ravel()
        rows = value_rows(place, first, "cc", matrix, len(index))
        parts.append(rows.assign(target2=second))
    rows = roll_up(pd.concat(parts, ignore_index=True), types=False)
    cohort = rows[rows["aggregation"] == "cohort"].pivot(index="target", columns="target2", values="value")
    checks = []
    for name in cohort.index.intersection(cohort.columns):
        # Two readings must agree: no true type fits the label better, no label fits the true type better.
        row, column = cohort.loc[name].dropna(), cohort[name].dropna()
        own = cohort.loc[name, name]
        hit = float(own == row.max() and own == column.max()) if np.isfinite(own) else np.nan
        checks.append({"metric": "diagonal_is_max", "target": name, "target2": name, "value": hit, "n": len(row)})
    base = {"cohort": labels.cohort, "aggregation": "cohort"}
    check = pd.DataFrame(checks).assign(**base) if checks else pd.DataFrame()
    return [rows, check.assign(n_nan=check["value"].isna().astype(int)) if len(check) else check]


def _grid(rows: pd.DataFrame) -> tuple[np.ndarray, list[str], list[str]]:
    """Return cohort CC (label types, ground truth types), namesakes first so that they lie on the diagonal."""
    mean = rows[(rows["metric"] == "cc") & (rows["aggregation"] == "cohort")]
    wide = mean.groupby(["target", "target2"])["value"].mean().unstack()
    common = [name for name in wide.index if name in wide.columns]
    first = common + [name for name in wide.index if name not in common]
    second = common + [name for name in wide.columns if name not in common]
    return wide.reindex(index=first, columns=second).to_numpy(), first, second


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the correlations of label types with simulated types as a heatmap."""
    matrix, first, second = _grid(rows)
    n = rows[rows["aggregation"] == "section"].drop_duplicates(["cohort", "sample"])
    with figure(2.9 + 0.48 * max(len(second), 4), 2.5 + 0.36 * max(len(first), 4)) as fig:
        ax = fig.subplots()
        image = ax.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
        ax.set_facecolor("#D9D9D9")
        for (i, j), value in np.ndenumerate(matrix):
            text = f"{value:.2f}" if np.isfinite(value) else "–"
            weight = "bold" if first[i] == second[j] else "normal"
            ax.text(j, i, text, ha="center", va="center", fontsize=7, fontweight=weight,
                    color="white" if abs(value) > 0.6 else "black")  # fmt: skip
        ax.set_xticks(range(len(second)), short_names(second), rotation=45, ha="right")
        ax.set_yticks(range(len(first)), short_names(first))
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ax.set_xlabel("ground truth type")
        ax.set_ylabel("type of the labels")
        check = rows[rows["metric"] == "diagonal_is_max"]["value"]
        own = [matrix[i, second.index(name)] for i, name in enumerate(first) if name in second]
        mean = float(np.nanmean(own)) if np.isfinite(own).any() else np.nan
        fig.colorbar(image, ax=ax, shrink=0.7, pad=0.02).set_label("Pearson's r, mean over patients")
        fig.suptitle(
            f"{title}\n{n['patient'].nunique()} patients, {len(n)} sections; namesakes: mean {mean:.2f},\n"
            f"largest in row and column: {int(check.sum())} of {len(check)}",
            x=0.01, ha="left", fontsize=9,
        )  # fmt: skip
        save(fig, out)
