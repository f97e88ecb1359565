"""The baseline comparison: all models of an experiment by how much they may know, as one figure and one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.metrics.uncertainty import MIN_PATIENTS, bootstrap_interval
from histoloom.report.bars import read_experiment, whole
from histoloom.report.pages import Page, number, write_csv
from histoloom.report.style import colour, figure, jitter, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FLOOR = "#9A9A9A"
_READING = (
    "Each level may know more than the one below: nothing, the mean label of the test section (a diagnostic that sees "
    "test labels), the place in the section, how many nuclei the tile holds, its colours, features of a network that "
    "never learnt anything, texture, frozen encoders under a linear model, trained models. Gain: CC minus the best CC "
    "of any lower level; a model without a gain did not need what it was given. CC of a patient: mean over its "
    "sections and types."
)


def _steps(spec: Mapping[str, Any], models: Sequence[str]) -> list[tuple[str, str]]:
    """Return (model, level) from the ground up; models without a known level keep their order and stand on none."""
    there = [
        (str(item["model"]), str(item["level"])) for item in spec.get("baselines") or () if item["model"] in models
    ]
    known = {model for model, _ in there}
    return there + [(model, "") for model in models if model not in known]


def baseline_table(
    experiment: str, spec: Mapping[str, Any], metrics: Sequence[Path]
) -> tuple[pd.DataFrame, list[tuple[str, str]], str]:
    """Return one row per model and cohort, from the ground up.

    Parameters
    ----------
    experiment, spec
        Name and entry; ``baselines`` lists {model, level, baseline} in order.
    metrics
        Metrics of its models.

    Returns
    -------
    table
        level, model, cohort, cc, cc_low, cc_high, gain, cc_pooled_patient, cc_pooled, l1_skill, n_patients, then
        ``cc_<patient>`` for each held-out patient without a QC flag.
    steps
        (model, level) in order.
    title
        Of the experiment.
    """
    rows, models, title = read_experiment(experiment, spec, metrics)
    rows, steps = rows[rows["qc_flag"] == ""], _steps(spec, models)
    patients = whole(rows, "patient", "cc")
    found: list[dict[str, Any]] = []
    for cohort in sorted(patients["cohort"].unique()):
        here = rows[rows["cohort"] == cohort]
        below: dict[str, float] = {}  # best defined CC of each level so far
        for model, level in steps:
            mine = here[here["model"] == model]
            of_patients = whole(mine, "patient", "cc").set_index("patient")["value"]
            low, high = bootstrap_interval(of_patients.to_numpy()) or (np.nan, np.nan)
            cc = _one(whole(mine, "cohort", "cc"))
            lower = [value for name, value in below.items() if name != level and np.isfinite(value)]
            if level:
                below[level] = (
                    float(np.nanmax([below.get(level, np.nan), cc])) if np.isfinite(cc) else below.get(level, cc)
                )
            pooled = whole(mine, "pooled_patient", "cc")
            found.append(
                {
                    "level": level, "model": model, "cohort": cohort, "cc": cc, "cc_low": low, "cc_high": high,
                    "gain": cc - max(lower) if level and lower else np.nan,
                    "cc_pooled_patient": _one(pooled[pooled["patient"] == ""]),
                    "cc_pooled": _one(whole(mine, "pooled", "cc")),
                    "l1_skill": _one(whole(mine, "cohort", "l1_skill")),
                    "n_patients": int(of_patients.notna().sum()),
                    **{f"cc_{name}": value for name, value in of_patients.sort_index().items()},
                }
            )  # fmt: skip
    return pd.DataFrame(found), steps, title


def _one(rows: pd.DataFrame) -> float:
    return float(rows["value"].iloc[0]) if len(rows) else float("nan")


def write_baselines(
    *, experiment: str, spec: Mapping[str, Any], metrics: Sequence[Path], out: Mapping[str, Path]
) -> None:
    """Write the baseline comparison as a table.

    Parameters
    ----------
    experiment, spec, metrics
        See `baseline_table`.
    out
        Path by role ``csv``, ``md``, ``html``.
    """
    table, _, title = baseline_table(experiment, spec, metrics)
    write_csv(table, out["csv"])
    page = Page(f"{title}: baseline comparison")
    shown = pd.DataFrame(index=table.index)
    for name in ("level", "model", "cohort"):
        shown[name] = table[name] if len(table) else []
    if len(table):
        interval = [
            f"{number(cc)}" + (f" [{number(low, 2)}, {number(high, 2)}]" if np.isfinite(low) else "")
            for cc, low, high in zip(table["cc"], table["cc_low"], table["cc_high"], strict=True)
        ]
        shown["CC"] = interval
        shown["gain over lower levels"] = [number(v) for v in table["gain"]]
        names = {"cc_pooled_patient": "CC pooled per patient", "cc_pooled": "CC pooled", "l1_skill": "skill in L1"}
        for name, title_of in names.items():
            shown[title_of] = [number(v) for v in table[name]]
        for name in [c for c in table.columns if c.startswith("cc_") and c not in {*names, "cc_low", "cc_high"}]:
            shown[f"CC of {name.removeprefix('cc_')}"] = [number(v) for v in table[name]]
    page.table(shown)
    page.text(_READING)
    out["md"].write_text(page.markdown(), encoding="utf-8")
    out["html"].write_text(page.html(), encoding="utf-8")


def _faces(spec: Mapping[str, Any], steps: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return grey for what is there to be stepped on, colours for the others."""
    floor = {str(item["model"]) for item in spec.get("baselines") or () if item.get("baseline")}
    climbers = [model for model, _ in steps if model not in floor]
    return dict.fromkeys(floor, _FLOOR) | {model: colour(i)["facecolor"] for i, model in enumerate(climbers)}


def _panel(
    ax: Axes, rows: pd.DataFrame, faces: Mapping[str, str], models: Sequence[str], within: str, *, interval: bool
) -> None:
    for i, model in enumerate(models):
        y = len(models) - 1 - i
        points = rows.loc[rows["model"] == model, "value"].dropna().to_numpy()
        if not len(points):
            ax.text(0.02, y, f"undefined: constant within {within}", va="center", color="#777777", fontsize=7.5,
                    transform=ax.get_yaxis_transform(), bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
            continue
        bounds = bootstrap_interval(points) if interval else None
        if bounds:
            ax.plot(bounds, [y, y], color="black", lw=1.2, zorder=2)
        face = faces[model]
        shift = jitter(len(points), 0.3)[: len(points)]
        ax.plot(points, y + shift, "o", ms=4, color=face, alpha=0.65, mec="none", ls="none")
        ax.plot([points.mean()], [y], "D", ms=6.5, mfc=face, mec="black", mew=0.8, zorder=3)
        ax.annotate(f"{points.mean():.2f}", (points.mean(), y), xytext=(0, 8), textcoords="offset points", ha="center",
                    fontsize=7.5)  # fmt: skip
    ax.axvline(0, color="black", lw=0.6)
    ax.set_ylim(-0.6, len(models) - 0.2)
    ax.set_yticks(range(len(models)))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#E6E6E6", lw=0.6)
    ax.set_axisbelow(True)


def draw_baselines(*, experiment: str, spec: Mapping[str, Any], metrics: Sequence[Path], out: Path) -> None:
    """Draw every model of an experiment: CC per section, the same pooled over a patient, and the skill in L1.

    Parameters
    ----------
    experiment, spec
        Name and entry; ``baselines`` lists {model, level, baseline} from the ground up.
    metrics
        Metrics of its models.
    out
        png. Points are patients, diamonds their mean; an interval (bootstrap over patients) from five patients on.
    """
    rows, models, title = read_experiment(experiment, spec, metrics)
    rows, steps = rows[rows["qc_flag"] == ""], _steps(spec, models)
    pooled = whole(rows, "pooled_patient", "cc")
    panels = [
        (whole(rows, "patient", "cc"), "CC within sections (headline)", "sections"),
        (pooled[pooled["patient"] != ""], "CC pooled over a patient's sections", "patients"),
        (whole(rows, "patient", "l1_skill"), "skill in L1 (1 − L1 / L1 of training mean)", "training"),
    ]
    n = rows[rows["aggregation"] == "patient"].drop_duplicates(["cohort", "patient"])
    with figure(11.4, 1.5 + 0.5 * max(len(steps), 2)) as fig:
        axes = fig.subplots(1, 3, sharey=True)
        faces, models = _faces(spec, steps), [model for model, _ in steps]
        for ax, (part, label, within) in zip(axes, panels, strict=True):
            _panel(ax, part, faces, models, within, interval=len(n) >= MIN_PATIENTS)
            ax.set_xlabel(label)
            for y in _borders([level for _, level in steps]):
                ax.axhline(y, color="#C8C8C8", lw=0.7, zorder=0)
        names = [f"{level}\n{model}" if level else model for model, level in steps]
        axes[0].set_yticklabels(list(reversed(names)))
        count = len(rows[rows["aggregation"] == "section"].drop_duplicates(["cohort", "sample"]))
        what = "bar: 95 % bootstrap over patients" if len(n) >= MIN_PATIENTS else "too few patients for an interval"
        fig.suptitle(f"{title}: {len(n)} held-out patients, {count} sections ({what})", x=0.01, ha="left", fontsize=10)
        save(fig, out)


def _borders(levels: Sequence[str]) -> list[float]:
    """Return where a new level begins, in the figure's coordinates (the ground on top)."""
    return [len(levels) - i - 0.5 for i in range(1, len(levels)) if levels[i] != levels[i - 1]]
