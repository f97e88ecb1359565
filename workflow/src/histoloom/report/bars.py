"""How well each model does: bars per patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histoloom.metrics.continuous import SMALL_SPREAD
from histoloom.report.results import Results, overall, units
from histoloom.report.style import colour, drawing, heading, jitter, legend, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_bars(results: Results, out: Path) -> None:
    """Draw score, amplitude and error per patient as bars, sections as points (decomposition paper, figures 2, 3)."""
    rows, models, words = results.measured(flagged=True), results.models, results.words
    places = (
        overall(rows, "patient", words.score).groupby(["cohort", "patient"], sort=True)["qc_flag"].first().reset_index()
    )
    places = places.sort_values(["qc_flag", "cohort", "patient"], kind="stable").reset_index(drop=True)
    counts = overall(rows, "section", words.score).groupby(["cohort", "patient"])["sample"].nunique()
    several = places["cohort"].nunique() > 1
    width = float(np.clip(2.2 + 0.16 * len(places) * (len(models) + 1.5), 6.5, 22))
    panels = [(words.score, f"{words.score_name}, mean over {words.item}s", 1.5)]
    if words.correlates:
        panels.append(("sd_ratio", "SD ratio", 0.8))
    panels.append((words.error, f"{words.error_name} ({units(rows)})" if words.correlates else words.error_name, 1.2))
    with drawing(out, width, 1.2 + 1.9 * sum(height for _, _, height in panels)) as fig:
        if places.empty:
            note(fig.subplots(), "no patient was scored")
            return
        axes = fig.subplots(len(panels), 1, sharex=True, height_ratios=[height for _, _, height in panels])
        for ax, (metric, label, _) in zip(axes, panels, strict=True):
            _panel(ax, rows, models, places, metric)
            ax.set_ylabel(label)
        if words.correlates:
            axes[1].axhspan(0, SMALL_SPREAD, color="#D55E00", alpha=0.15, lw=0)
            axes[1].axhline(1, color="black", ls=":", lw=0.8)
            base = overall(rows, "patient", "l1_mean_predictor").groupby(["cohort", "patient"])["value"].first()
            heights = base.reindex(pd.MultiIndex.from_frame(places[["cohort", "patient"]]))
            x = np.arange(len(places))
            axes[-1].hlines(heights, x - 0.42, x + 0.42, color="black", ls="--", lw=1, label="mean of training labels")
        sizes = [int(counts.get((place["cohort"], place["patient"]), 0)) for place in places.to_dict("records")]
        names = [
            f"{place['patient']}{' · ' + place['cohort'] if several else ''}\n"
            f"{size} section{'s' * (size != 1)}" + (f"\n[{place['qc_flag']}]" if place["qc_flag"] else "")
            for place, size in zip(places.to_dict("records"), sizes, strict=True)
        ]
        axes[-1].set_xticklabels(names)
        shaded = "\nshaded: flat predictions (SD ratio below 0.1)" if words.correlates else ""
        axes[-1].set_xlabel(f"held-out patient; points are its sections; × is undefined{shaded}")
        heading(fig, results.title, 10)
        legend(fig, [axes[-1]], loc="outside right upper")


def _panel(ax: Axes, rows: pd.DataFrame, models: Sequence[str], places: pd.DataFrame, metric: str) -> None:
    width = 0.8 / max(len(models), 1)
    patients, sections = overall(rows, "patient", metric), overall(rows, "section", metric)
    keys = pd.MultiIndex.from_frame(places[["cohort", "patient"]])
    for i, model in enumerate(models):
        values = patients[patients["model"] == model].set_index(["cohort", "patient"])["value"]
        offset = (i - (len(models) - 1) / 2) * width
        heights = values.reindex(keys).to_numpy()
        x = np.arange(len(places)) + offset
        bars = ax.bar(x, heights, width * 0.92, label=model, edgecolor="white", linewidth=0, **colour(i))
        for bar, flag in zip(bars, places["qc_flag"], strict=True):
            bar.set_alpha(0.4 if flag else 1.0)
        of_model = sections[sections["model"] == model].groupby(["cohort", "patient"])["value"]
        for at, key in enumerate(keys):
            points = of_model.get_group(key).dropna() if key in of_model.groups else ()
            spread = at + offset + jitter(len(points), width * 0.5)
            ax.plot(spread[: len(points)], points, "o", ms=2.6, mfc="white", mec="black", mew=0.6, ls="none", zorder=3)
        for empty in np.flatnonzero(np.isnan(heights)):
            ax.text(float(empty) + offset, 0.0, "×", ha="center", va="bottom", color="#777777", fontsize=8)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.set_xticks(np.arange(len(places)))
