"""How much of a pooled CC is between sections: the same predictions in all aggregations, split into their parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.report.pages import number, spread_ratio
from histoloom.report.results import Results, overall, pick
from histoloom.report.style import PALETTE, drawing, heading, legend, note
from histoloom.report.summary import cohort_means

_PANELS = (
    ("cohort", "within sections\n(headline)"),
    ("pooled_patient", "pooled per patient"),
    ("pooled", "pooled over everything"),
    ("spot", "across {item}s\nwithin a {observation}"),
)


def between_table(rows: pd.DataFrame, models: Sequence[str], cohort: str) -> pd.DataFrame:
    """Return cc, its part ``between`` sections and the ``section_mean`` predictor's cc, per model and aggregation.

    The latter two are NaN where nothing is pooled over sections.
    """
    rows = pick(rows, cohort=cohort, target="", train_seed=-1, patient="")
    lines = []
    for model in models:
        for aggregation, _ in _PANELS:
            part = pick(rows, model=model, aggregation=aggregation)
            part = part[part["sample"] == ""] if aggregation == "spot" else part
            value = part.groupby("metric")["value"].first()
            lines.append(
                {"model": model, "aggregation": aggregation, "cc": value.get("cc", np.nan),
                 "between": value.get("cc_between", np.nan), "section_mean": value.get("cc_section_mean", np.nan)}
            )  # fmt: skip
    return pd.DataFrame(lines)


def draw_between(results: Results, out: Path) -> None:
    """Draw every model's CC in four aggregations, a row per cohort; pooled ones with their part between sections."""
    rows, models = results.measured(), results.models
    means = cohort_means(results)
    cohorts = sorted(overall(rows, "cohort", "cc")["cohort"].unique())
    with drawing(out, 11, 1.9 + (0.75 + 0.34 * max(len(models), 2)) * max(len(cohorts), 1)) as fig:
        if not cohorts:
            note(fig.subplots(), "no correlation was scored in a section without a QC flag")
            return
        grid = fig.subplots(len(cohorts), len(_PANELS), sharex=True, sharey=True, squeeze=False)
        words = {"item": results.words.item, "observation": results.words.observation}
        for number_of_line, (line, cohort) in enumerate(zip(grid, cohorts, strict=True)):
            table = between_table(rows, models, cohort)
            ratios = means.loc[cohort, "sd_ratio"].reindex(models)
            for ax, (aggregation, label) in zip(line, _PANELS, strict=True):
                _panel(ax, table[table["aggregation"] == aggregation])
                ax.set_title(label.format(**words) if number_of_line == 0 else "", fontsize=9)
            line[0].set_yticks(
                range(len(models)), [f"{m}\nSD ratio {spread_ratio(r)}" for m, r in zip(models, ratios, strict=True)]
            )
            line[0].set_ylabel(cohort)
        grid[0][0].invert_yaxis()
        for ax in grid[-1]:
            ax.set_xlabel(f"CC, mean over {results.words.item}s")
        legend(fig, [grid[0][2]], loc="outside lower center", ncols=4)
        heading(fig, f"{results.title}: the same predictions, aggregated in four ways", 10)


def _panel(ax: Any, table: pd.DataFrame) -> None:
    y = np.arange(len(table))
    cc, between = table["cc"].to_numpy(dtype=float), table["between"].to_numpy(dtype=float)
    ax.barh(y, np.nan_to_num(cc), 0.6, color=PALETTE[0], zorder=1, label="CC")
    if np.isfinite(between).any():
        # The share between sections lies inside the bar: what is left of it was found within sections.
        ax.barh(y, np.nan_to_num(between), 0.28, color=PALETTE[1], zorder=2, label="its part between sections")
        known = float(np.nanmean(table["section_mean"]))
        ax.axvline(known, color="black", ls="--", lw=1, zorder=4, label="predictor that knows section means only")
        ax.text(
            known, 1.0, f" {number(known, 2)}", ha="center", va="bottom", fontsize=7, transform=ax.get_xaxis_transform()
        )
    for at, value in zip(y, cc, strict=True):
        defined = np.isfinite(value)
        text = number(value, 2) if defined else "undefined"
        ax.text(1.0, at, text, ha="right", va="center", fontsize=7.5, transform=ax.get_yaxis_transform(),
                color="black" if defined else "#777777", zorder=6)  # fmt: skip
    ax.axvline(0, color="black", lw=0.6)
    ax.set_ylim(-0.7, len(table) - 0.3)
    ax.margins(x=0.2)
