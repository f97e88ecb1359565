"""How well each model does: bars per patient (CC and L1)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.metrics.rows import read_metrics
from histoloom.report.style import colour, figure, jitter, note, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def whole(rows: pd.DataFrame, aggregation: str, metric: str) -> pd.DataFrame:
    """Return rows over all types of the mean prediction."""
    keep = (rows["aggregation"] == aggregation) & (rows["metric"] == metric) & (rows["target"] == "")
    return rows[keep & (rows["train_seed"] == -1)]


def read_experiment(
    experiment: str, spec: Mapping[str, Any], metrics: Sequence[Path]
) -> tuple[pd.DataFrame, list[str], str]:
    """Return the experiment's rows against what its numbers are told against, and its models in order."""
    rows = read_metrics(metrics)
    rows = rows[(rows["experiment"] == experiment) & (rows["against"] == "labels")]
    there = set(rows["model"])
    models = [m for m in (spec.get("models") or sorted(there)) if m in there]
    return rows, models, marked(str(spec.get("title") or experiment), rows)


def marked(title: str, rows: pd.DataFrame) -> str:
    """Return a title that says so where labels come from a fit too short to trust."""
    stamps = [json.loads(text) for text in rows["protocol"].unique() if text]
    short = any(s.get("demo_fit") or (isinstance(of := s.get("labels"), dict) and of.get("demo_fit")) for s in stamps)
    return f"{title} [demo fit]" if short else title


def _bar_panel(ax: Axes, rows: pd.DataFrame, models: Sequence[str], places: pd.DataFrame, metric: str) -> None:
    width = 0.8 / max(len(models), 1)
    patients, sections = whole(rows, "patient", metric), whole(rows, "section", metric)
    for i, model in enumerate(models):
        mine = patients[patients["model"] == model].set_index(["cohort", "patient"])["value"]
        offset = (i - (len(models) - 1) / 2) * width
        heights = mine.reindex(pd.MultiIndex.from_frame(places[["cohort", "patient"]])).to_numpy()
        bars = ax.bar(
            np.arange(len(places)) + offset, heights, width * 0.92, label=model, edgecolor="white", linewidth=0,
            **colour(i),
        )  # fmt: skip
        for bar, qc_flag in zip(bars, places["qc_flag"], strict=True):
            bar.set_alpha(0.4 if qc_flag else 1.0)
        for at, place in enumerate(places.to_dict("records")):
            points = sections[
                (sections["model"] == model)
                & (sections["cohort"] == place["cohort"])
                & (sections["patient"] == place["patient"])
            ]["value"].dropna()
            x = at + offset + jitter(len(points), width * 0.5)
            ax.plot(x[: len(points)], points, "o", ms=2.6, mfc="white", mec="black", mew=0.6, ls="none", zorder=3)
        for empty in np.flatnonzero(np.isnan(heights)):
            ax.text(float(empty) + offset, 0.0, "×", ha="center", va="bottom", color="#777777", fontsize=8)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xlim(-0.6, len(places) - 0.4)
    ax.set_xticks(np.arange(len(places)))


def draw_bars(*, experiment: str, spec: Mapping[str, Any], metrics: Sequence[Path], out: Path) -> None:
    """Draw CC and L1 per patient as bars, sections as points (figures 2 and 3 of the decomposition paper).

    Parameters
    ----------
    experiment, spec
        Name and entry; ``models`` gives the order.
    metrics
        Metrics of its models.
    out
        png.
    """
    rows, models, title = read_experiment(experiment, spec, metrics)
    patients = whole(rows, "patient", "cc")
    places = patients.groupby(["cohort", "patient"], sort=True)["qc_flag"].first().reset_index()
    places = places.sort_values(["qc_flag", "cohort", "patient"], kind="stable").reset_index(drop=True)
    counts = whole(rows, "section", "cc").groupby(["cohort", "patient"])["sample"].nunique()
    several = places["cohort"].nunique() > 1
    width = float(np.clip(2.2 + 0.16 * len(places) * (len(models) + 1.5), 6, 22))
    with figure(width, 6.2) as fig:
        top, bottom = fig.subplots(2, 1, sharex=True)
        if places.empty:
            note(top, "no patient was scored")
            note(bottom, "")
            save(fig, out)
            return
        _bar_panel(top, rows, models, places, "cc")
        _bar_panel(bottom, rows, models, places, "l1")
        base = whole(rows, "patient", "l1_mean_predictor").groupby(["cohort", "patient"])["value"].first()
        for at, (cohort, patient) in enumerate(places[["cohort", "patient"]].itertuples(index=False)):
            label = "mean of training labels" if at == 0 else None
            height = base.get((cohort, patient), np.nan)
            bottom.plot([at - 0.42, at + 0.42], [height] * 2, color="black", ls="--", lw=1, label=label)
        names = [
            f"{place['patient']}{' · ' + place['cohort'] if several else ''}\n"
            f"{counts.get((place['cohort'], place['patient']), 0)} sect."
            + (f"\n[{place['qc_flag']}]" if place["qc_flag"] else "")
            for place in places.to_dict("records")
        ]
        bottom.set_xticklabels(names)
        top.set_ylabel("CC (Pearson's r, mean over types)")
        bottom.set_ylabel(f"L1 (mean absolute error, {_units(rows)})")
        bottom.set_xlabel("held-out patient; points are its sections; × is undefined")
        top.set_title(title, loc="left")
        handles, labels = bottom.get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper right", ncols=min(len(labels), max(2, int(width // 2))))
        save(fig, out)


def _units(rows: pd.DataFrame) -> str:
    return str(json.loads(rows["protocol"].iloc[0]).get("units", "units of the labels")) if len(rows) else ""
