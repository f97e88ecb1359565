"""How much of a pooled CC is between sections: the same predictions in all aggregations, split into their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.metrics.rows import read_metrics
from histoloom.report.style import PALETTE, figure, note, save

_PANELS = (
    ("cohort", "within sections\n(headline)"),
    ("pooled_patient", "pooled per patient"),
    ("pooled", "pooled over everything"),
    ("spot", "across types within a spot"),
)


def between_table(rows: pd.DataFrame, models: Sequence[str], cohort: str) -> pd.DataFrame:
    """Return cc, its between-section part and the section-mean predictor's cc, per model and aggregation.

    Returns
    -------
    DataFrame
        model, aggregation, cc, between, section_mean; the latter two are NaN where nothing is pooled over sections.
    """
    chosen = rows[
        (rows["cohort"] == cohort) & (rows["against"] == "labels") & (rows["target"] == "")
        & (rows["train_seed"] == -1) & (rows["qc_flag"] == "")
    ]  # fmt: skip
    found = []
    for model in models:
        for aggregation, _ in _PANELS:
            part = chosen[
                (chosen["model"] == model) & (chosen["aggregation"] == aggregation) & (chosen["patient"] == "")
            ]
            part = part[part["sample"] == ""] if aggregation == "spot" else part
            value = part.groupby("metric")["value"].first()
            found.append(
                {"model": model, "aggregation": aggregation, "cc": value.get("cc", np.nan),
                 "between": value.get("cc_between", np.nan), "section_mean": value.get("cc_section_mean", np.nan)}
            )  # fmt: skip
    return pd.DataFrame(found)


def draw_between(*, experiment: str, spec: Mapping[str, Any], metrics: Sequence[Path], out: Path) -> None:
    """Draw every model's CC in its four aggregations; pooled ones split into parts between and within sections.

    Parameters
    ----------
    experiment, spec
        Name and entry; ``models`` gives the order.
    metrics
        Metrics of its models.
    out
        png; one row of panels per cohort.
    """
    rows = read_metrics(metrics)
    rows = rows[rows["experiment"] == experiment]
    there = set(rows["model"])
    models = [m for m in (spec.get("models") or sorted(there)) if m in there]
    cohorts = sorted(rows.loc[(rows["aggregation"] == "cohort") & (rows["metric"] == "cc"), "cohort"].unique())
    title = str(spec.get("title") or experiment)
    with figure(11, 1.9 + (0.75 + 0.34 * max(len(models), 2)) * max(len(cohorts), 1)) as fig:
        if not cohorts:
            note(fig.subplots(), "no section without a QC flag was scored")
            save(fig, out)
            return
        grid = fig.subplots(len(cohorts), len(_PANELS), sharex=True, sharey=True, squeeze=False)
        for number, (line, cohort) in enumerate(zip(grid, cohorts, strict=True)):
            table = between_table(rows, models, cohort)
            for ax, (aggregation, label) in zip(line, _PANELS, strict=True):
                _panel(ax, table[table["aggregation"] == aggregation])
                ax.set_title(label if number == 0 else "", fontsize=9)
            line[0].set_yticks(range(len(models)), models)
            line[0].set_ylabel(cohort)
        grid[0][0].invert_yaxis()
        for ax in grid[-1]:
            ax.set_xlabel("CC, mean over types")
        handles, names = grid[0][2].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
        fig.suptitle(f"{title}: the same predictions, aggregated in four ways", x=0.01, ha="left", fontsize=10)
        save(fig, out)


def _panel(ax: Any, table: pd.DataFrame) -> None:
    y = np.arange(len(table))
    cc, between = table["cc"].to_numpy(dtype=float), table["between"].to_numpy(dtype=float)
    if np.isfinite(between).any():
        within = cc - between
        # Side by side from zero: the parts may have opposite signs; their sum is the CC.
        ax.barh(y - 0.15, between, 0.28, color=PALETTE[1], label="part between sections", zorder=1)
        ax.barh(y + 0.15, within, 0.28, color=PALETTE[0], label="part within sections", zorder=1)
        known = float(np.nanmean(table["section_mean"]))
        ax.axvline(known, color="black", ls="--", lw=1, zorder=4, label="predictor that knows section means only")
        ax.text(known, -0.62, f"{known:.2f}", ha="center", va="bottom", fontsize=7)
        ax.plot(cc, y, "D", ms=5, mfc="white", mec="black", ls="none", zorder=5, label="CC")
    else:
        ax.barh(y, np.nan_to_num(cc), 0.55, color=PALETTE[0], zorder=1)
        ax.plot(cc, y, "D", ms=5, mfc="white", mec="black", ls="none", zorder=5)
    for at, value in zip(y, cc, strict=True):
        text = f"{value:.2f}" if np.isfinite(value) else "undefined"
        box = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.3}
        ax.annotate(text, (value if np.isfinite(value) else 0.0, at), xytext=(6, 0), textcoords="offset points",
                    va="center", fontsize=7, bbox=box, zorder=6)  # fmt: skip
    ax.axvline(0, color="black", lw=0.6)
    ax.set_ylim(-0.9, len(table) - 0.4)
    ax.margins(x=0.16)
