"""The baseline comparison: all models of an experiment by how much they are allowed to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.metrics.continuous import SMALL_SPREAD
from histoloom.metrics.uncertainty import MIN_PATIENTS, bootstrap_interval
from histoloom.report.pages import Page, mark_best, number, spread_ratio, with_interval
from histoloom.report.results import Results, overall, pick
from histoloom.report.style import colour, drawing, grid, heading, jitter
from histoloom.report.summary import cohort_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = "#9A9A9A"
_READING = (
    "Each level may know more than the one above it: nothing, the mean label of the test section (a diagnostic that "
    "sees test labels), the place in the section, how many nuclei the tile holds, its colours, features of a network "
    "that was never trained, texture, frozen encoders under a linear model, trained models. Gain: the score minus the "
    "best score of any lower level; a model without a gain did not need what it was given. Patients: mean over "
    "sections and {item}s."
)


def baseline_table(results: Results) -> pd.DataFrame:
    """Return score, interval, gain and patients' scores, one row per model and cohort, from the lowest level up.

    Correlations have sd_ratio, slope, cc_pooled_patient, cc_pooled and l1_skill too.
    """
    score = results.words.score
    correlations = ["sd_ratio", "slope", "cc_pooled_patient", "cc_pooled", "l1_skill"]
    by_patient = overall(results.measured(), "patient", score)
    lines: list[dict[str, Any]] = []
    for cohort, means in cohort_means(results).groupby("cohort", sort=True):
        best: dict[str, float] = {}  # best defined score of each level so far
        for step in results.levels():
            mean, level = means.reset_index("cohort").reindex([step["model"]]).iloc[0], step["level"]
            lower = [v for name, v in best.items() if name != level]
            if level and np.isfinite(mean[score]):
                best[level] = max(best.get(level, mean[score]), mean[score])
            patients = pick(by_patient, cohort=cohort, model=step["model"]).set_index("patient")["value"]
            gain = mean[score] - max(lower) if level and lower else np.nan
            interval = mean[[score, f"{score}_low", f"{score}_high"]]
            line = {"level": level, "model": step["model"], "cohort": cohort, **interval, "gain": gain}
            line |= mean[correlations] if results.words.correlates else {}
            line |= {"n_patients": int(patients.notna().sum())}
            lines.append(line | {f"{score}_{name}": v for name, v in patients.sort_index().items()})
    return pd.DataFrame(lines)


def write_baselines(results: Results, out: Mapping[str, Path]) -> None:
    """Write the baseline comparison as ``csv``, ``md`` and ``html``."""
    table, words = baseline_table(results), results.words
    page = Page(f"{results.title}: baseline comparison")
    for cohort, rows in table.groupby("cohort", sort=False) if len(table) else ():
        if table["cohort"].nunique() > 1:
            page.heading(str(cohort))
        interval = [f"{words.score}_low", f"{words.score}_high"]
        cells = [with_interval(*values) for values in rows[[words.score, *interval]].to_numpy()]
        shown = pd.DataFrame({"level": rows["level"], "model": rows["model"]})
        shown[words.score_name] = mark_best(cells, rows[words.score].where(rows["level"] != "section mean"))
        shown["gain over lower levels"] = [number(v) for v in rows["gain"]]
        if words.correlates:
            shown["SD ratio"] = [spread_ratio(v) for v in rows["sd_ratio"]]
            shown["slope"] = [number(v, 2) for v in rows["slope"]]
            shown["CC pooled per patient"] = [number(v) for v in rows["cc_pooled_patient"]]
            shown["skill in L1"] = [number(v) for v in rows["l1_skill"]]
        page.table(shown)
        patients = [str(c) for c in rows if str(c).startswith(f"{words.score}_") and rows[c].notna().any()]
        patients = [c for c in patients if c not in {*interval, "cc_pooled_patient", "cc_pooled"}]
        page.heading(f"{words.score_name} by patient")
        by_patient = {
            c.removeprefix(f"{words.score}_"): mark_best([number(v) for v in rows[c]], rows[c]) for c in patients
        }
        page.table(pd.DataFrame({"model": rows["model"], **by_patient}))
    page.text(_READING.format(item=words.item))
    page.write(table, out)


def draw_baselines(results: Results, out: Path) -> None:
    """Draw every model of an experiment: its score, its amplitude, the score pooled over a patient, the skill in L1.

    Points are patients, diamonds their mean (skill: of the mean errors, as in the tables); an interval (bootstrap over
    patients) from five patients on.
    """
    rows, words, steps = results.measured(), results.words, results.levels()
    panels = [
        (overall(rows, "patient", words.score), f"{words.score_name} within sections (headline)", "sections", 0.0)
    ]
    if words.correlates:
        pooled = overall(rows, "pooled_patient", "cc")
        panels += [
            (overall(rows, "patient", "sd_ratio"), "SD ratio, prediction / label (1: same spread)", "sections", 1.0),
            (pooled[pooled["patient"] != ""], "CC pooled over a patient's sections", "patients", 0.0),
            (_skill(rows), "skill in L1 (1 − L1 / L1 of training mean)", "training", 0.0),
        ]
    else:
        panels.append((overall(rows, "patient", words.error), words.error_name, "sections", 0.0))
    n = rows[rows["aggregation"] == "patient"].drop_duplicates(["cohort", "patient"])
    interval = len(n) >= MIN_PATIENTS
    models = [step["model"] for step in steps]
    learners = [step["model"] for step in steps if not step["baseline"]]
    faces = dict.fromkeys(models, _GREY) | {model: colour(i)["facecolor"] for i, model in enumerate(learners)}
    with drawing(out, 2.6 + 2.9 * len(panels), 1.7 + 0.5 * max(len(steps), 2)) as fig:
        axes = fig.subplots(1, len(panels), sharey=True)
        for ax, (part, label, within, line) in zip(axes, panels, strict=True):
            _panel(ax, part, faces, models, within, interval=interval)
            ax.axvline(line, color="black", lw=0.6, ls="--" if line else "-")
            ax.set_xlabel(label, fontsize=8.5)
            for y in _borders([step["level"] for step in steps]):
                ax.axhline(y, color="#C8C8C8", lw=0.7, zorder=0)
        if words.correlates:
            axes[1].axvspan(0, SMALL_SPREAD, color="#D55E00", alpha=0.12, lw=0)
            axes[1].set_xlim(left=0)
        names = [f"{step['level']}\n{step['model']}" if step["level"] else step["model"] for step in steps]
        axes[0].set_yticklabels(list(reversed(names)))
        count = len(rows[rows["aggregation"] == "section"].drop_duplicates(["cohort", "sample"]))
        from matplotlib.lines import Line2D

        dot: dict[str, Any] = {"marker": "o", "ms": 5, "ls": "none", "mec": "none"}
        handles = [Line2D([], [], color=_GREY, label="baseline, a point per patient", **dot)]
        handles.append(Line2D([], [], color=colour(0)["facecolor"], label="model, a point per patient", **dot))
        handles.append(
            Line2D([], [], marker="D", ms=6, mfc="white", mec="black", ls="none", label="mean over patients")
        )
        if interval:
            handles.append(Line2D([], [], color="black", lw=1.2, label="95 % bootstrap over patients"))
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        few = "" if interval else " (too few patients for an interval)"
        heading(fig, f"{results.title}: {len(n)} held-out patients, {count} sections{few}", 10)


def _skill(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the skill by patient; weighted by the error of the training mean, its mean is that of the mean errors."""
    keys = ["model", "variant", "cohort", "patient"]
    error = overall(rows, "patient", "l1_mean_predictor").rename(columns={"value": "weight"})
    return overall(rows, "patient", "l1_skill").merge(error[[*keys, "weight"]], on=keys, validate="1:1")


def _panel(
    ax: Axes, rows: pd.DataFrame, faces: Mapping[str, str], models: Sequence[str], within: str, *, interval: bool
) -> None:
    for i, model in enumerate(models):
        y = len(models) - 1 - i
        own = rows[(rows["model"] == model) & rows["value"].notna()]
        points = own["value"].to_numpy()
        weights = own["weight"].to_numpy() if "weight" in own else np.ones(len(own))
        if not len(points):
            ax.text(0.02, y, f"undefined: constant within {within}", va="center", color="#777777", fontsize=7.5,
                    transform=ax.get_yaxis_transform(), bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
            continue
        bounds = bootstrap_interval(points, weights) if interval else None
        if bounds:
            ax.plot(bounds, [y, y], color="black", lw=1.2, zorder=2)
        shift = jitter(len(points), 0.3)[: len(points)]
        ax.plot(points, y + shift, "o", ms=4, color=faces[model], alpha=0.65, mec="none", ls="none")
        mean = float(np.average(points, weights=weights))
        ax.plot([mean], [y], "D", ms=6.5, mfc=faces[model], mec="black", mew=0.8, zorder=3)
        ax.annotate(number(mean, 2), (mean, y), (0, 8), textcoords="offset points", ha="center", fontsize=7.5)
    ax.set_ylim(-0.6, len(models) - 0.2)
    ax.set_yticks(range(len(models)))
    ax.tick_params(axis="y", length=0)
    grid(ax, "x")


def _borders(levels: Sequence[str]) -> list[float]:
    """Return where a new level begins, in the figure's coordinates (the lowest on top)."""
    return [len(levels) - i - 0.5 for i in range(1, len(levels)) if levels[i] != levels[i - 1]]
