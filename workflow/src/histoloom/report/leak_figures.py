"""Figures of what a leak is worth: paired points per section, and a transfer's columns per patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.metrics.leakage import GROUPS
from histoloom.metrics.uncertainty import MIN_PATIENTS
from histoloom.report.leaks import PAIRED, TRAININGS, read_leaks
from histoloom.report.style import PALETTE, drawing, grid, heading, legend, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACROSS = 4
_STEPS = (
    ("as_published", GROUPS[0], "(a) as\npublished"),
    ("as_published", GROUPS[1], "(b) unshared\npatients only"),
    ("shared_dropped", GROUPS[0], "(c) shared\ndropped"),
    ("random_drop", GROUPS[0], "random drop\nof equal size"),
)


def draw_leaks(*, spec: Mapping[str, Any], metrics: Sequence[Path], out: Path) -> None:
    """Draw the leakage effect in an experiment, a panel per model."""
    table, compared, models = read_leaks(spec, metrics)
    table = table[table["against"] == "labels"]
    defined = set(table.loc[table["cc" if "cc" in table else "cc_with"].notna(), "model"])
    models = [model for model in models if model in defined]
    title = str(spec.get("title") or spec.get("name") or "")
    across = max(min(len(models), _ACROSS), 1)
    down = -(-max(len(models), 1) // across)
    paired = compared["kind"] == PAIRED
    with drawing(out, max(1.0 + (2.5 if paired else 3.5) * across, 6.6), 1.3 + 3.1 * down) as fig:
        if not models:
            note(fig.subplots(), "no model has a defined correlation in a compared section")
            return
        axes = fig.subplots(down, across, sharey=True, squeeze=False).ravel()
        for ax in axes[len(models) :]:
            ax.set_axis_off()
        draw = _paired_panel if paired else _transfer_panel
        for ax, model in zip(axes, models, strict=False):
            draw(ax, table[table["model"] == model], compared)
            ax.set_title(model)
        for ax in axes[::across]:
            ax.set_ylabel("CC within sections")
        legend(fig, fig.axes, loc="outside lower center", ncols=5)
        second = _paired_heading(table, models, compared) if paired else _transfer_heading(compared)
        heading(fig, f"{title}\n{second}")


def _paired_heading(table: pd.DataFrame, models: Sequence[str], compared: Mapping[str, Any]) -> str:
    cohort = table[(table["level"] == "cohort") & table["model"].isin(models)]
    parts = []
    for row in cohort.to_dict("records"):
        p = f", p {row['p']:.3f}" if np.isfinite(row["p"]) else ""
        parts.append(f"{row['model']} {row['difference']:+.2f}{p}")
    patients = sorted(set(cohort["n_patients"].astype(int)))
    few = f" (fewer than {MIN_PATIENTS}: points, no p)" if patients and max(patients) < MIN_PATIENTS else ""
    others = (
        "other sections of the patient" if compared["other_sections"] == "all" else "one other section of the patient"
    )
    count = "/".join(map(str, patients))
    return (
        f"CC with {others} in training minus without, as many observations in both;\n"
        f"mean over {count} patient{'s' * (patients != [1])}{few}: {'; '.join(parts)}"
    )


def _paired_panel(ax: Axes, table: pd.DataFrame, compared: Mapping[str, Any]) -> None:
    names = sorted({fold["patient"] for fold in compared["folds"].values()})
    sections = table[table["level"] == "section"].sort_values(["patient", "sample"], kind="stable")
    for row in sections.to_dict("records"):
        tone = PALETTE[names.index(row["patient"]) % len(PALETTE)]
        style: dict[str, Any] = {"ls": "--" if row["qc_flag"] else "-", "mfc": "white" if row["qc_flag"] else tone}
        name = f"patient {row['patient']}" + (f" [{row['qc_flag']}]" if row["qc_flag"] else "")
        cc = [row["cc_without"], row["cc_with"]]
        ax.plot([0, 1], cc, marker="o", ms=4.5, lw=1.1, color=tone, alpha=0.85, label=name, **style)
    _section_names(ax, sections)
    for row in table[(table["level"] == "patient") & (table["qc_flag"] == "")].to_dict("records"):
        tone = PALETTE[names.index(row["patient"]) % len(PALETTE)]
        ax.plot([0, 1], [row["cc_without"], row["cc_with"]], "D", ms=7, mfc=tone, mec="black", mew=0.9, zorder=4)
    ax.plot([], [], "D", ms=7, mfc="white", mec="black", ls="none", label="mean of the patient")
    ax.set_xticks([0, 1], ["without", "with other section"])
    ax.set_xlim(-0.25, 1.45)
    ax.axhline(0, color="black", lw=0.6)
    grid(ax, "y")


def _section_names(ax: Axes, sections: pd.DataFrame, most: int = 12) -> None:
    """Name the sections at their right end, apart from one another; not where they are too many to read."""
    if len(sections) > most:
        return
    values = np.append(sections[["cc_with", "cc_without"]].to_numpy(dtype=float).ravel(), 0.0)
    step = 0.05 * float(np.nanmax(values) - np.nanmin(values))
    at = -np.inf
    for row in sections.dropna(subset="cc_with").sort_values("cc_with", kind="stable").to_dict("records"):
        at = max(at + step, row["cc_with"])
        ax.annotate(row["sample"], (1, row["cc_with"]), xytext=(1.12, at), fontsize=7, va="center",
                    arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#999999"})  # fmt: skip


def _transfer_heading(compared: Mapping[str, Any]) -> str:
    sizes = {fold["what"]: fold["n_train"] for fold in compared["folds"].values()}
    words = zip(TRAININGS, ("(a), (b)", "(c)", "random drop"), strict=True)
    counts = ", ".join(f"{word} {sizes[what]}" for what, word in words if what in sizes)
    shared = len(compared["shared_patients"])
    return f"{shared} patient{'s' * (shared != 1)} on both sides as published;\nobservations in training: {counts}"


def _transfer_panel(ax: Axes, table: pd.DataFrame, compared: Mapping[str, Any]) -> None:
    shared = set(compared["shared_patients"])
    rows = table[table["level"] == "patient"]
    places = {
        i: rows[(rows["training"] == what) & (rows["tested"] == group)].set_index(["cohort", "patient"])
        for i, (what, group, _) in enumerate(_STEPS)
    }
    for key in dict.fromkeys(k for part in places.values() for k in part.index):
        by_step = {i: part.loc[key] for i, part in places.items() if key in part.index}
        qc_flag = next(iter(by_step.values()))["qc_flag"]
        tone = PALETTE[1] if key[1] in shared else PALETTE[0]
        # Lines join the trainings of the same patients; (b) is (a) with patients left out.
        line = [i for i in (0, 2, 3) if i in by_step]
        ax.plot(line, [by_step[i]["cc"] for i in line], lw=0.7, color=tone, alpha=0.45, zorder=1)
        ax.plot(list(by_step), [row["cc"] for row in by_step.values()], "o", ms=4.2, color=tone, alpha=0.8, zorder=2,
                mfc="white" if qc_flag else tone,
                label=("patient on both sides" if key[1] in shared else "unshared patient")
                + (f" [{qc_flag}]" if qc_flag else ""))  # fmt: skip
    means = table[table["level"] == "cohort"]
    for i, (what, group, _) in enumerate(_STEPS):
        here = means[(means["training"] == what) & (means["tested"] == group)]
        for row in here.to_dict("records"):
            ax.plot([i - 0.2, i + 0.2], [row["cc"]] * 2, color="black", lw=2, zorder=4, label="mean over patients")
            ax.annotate(f"{row['cc']:.2f}", (i + 0.22, row["cc"]), fontsize=7.5, va="center")
            if row["n_draws"] > 1:
                ax.plot([i, i], [row["cc_low_draw"], row["cc_high_draw"]], color="black", lw=1, zorder=3)
        if here.empty:
            ax.annotate(
                "none", (i, 0.02), xycoords=("data", "axes fraction"), ha="center", fontsize=7.5, color="#777777"
            )
    ax.set_xticks(range(len(_STEPS)), [label for _, _, label in _STEPS])
    ax.set_xlim(-0.4, len(_STEPS) - 0.35)
    ax.axhline(0, color="black", lw=0.6)
    grid(ax, "y")
