"""The encoder ablation: the same model on encoders alone and together (figure 4 of the decomposition paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.metrics.continuous import SMALL_SPREAD
from histoloom.metrics.uncertainty import MIN_PATIENTS, holm, sign_flip_p
from histoloom.report.pages import Page, mark_best, number, spread_ratio
from histoloom.report.results import Results, Words, overall, read_results
from histoloom.report.style import PALETTE, drawing, grid, heading, jitter, legend, note
from histoloom.report.summary import cohort_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_READING = (
    "The same model, with the same settings, on encoders alone and together. CC and L1: per type over the "
    "spots of a section, mean over types, sections of a patient, then patients; the spread is over training "
    "seeds. Gain: CC minus the best CC of a configuration that uses some of the same encoders and no other; that "
    "best one is chosen on these same test patients, which makes the gain smaller, not larger. Better for: "
    "patients whose CC is above that of the best part. p: exact two-sided sign-flip over patients, from "
    f"{MIN_PATIENTS} patients on, Holm-corrected over the rows of a cohort."
)
_COLOURS = PALETTE[:5]
_MARKS = "osD^vPX*"


def ablation_table(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row per configuration and cohort, fewest encoders first, and scores of each held-out patient.

    ``ablation`` of the experiment's entry lists {model, kind, encoders}. A row has the best of its parts
    (``best_part``), the ``gain`` over it, the number of patients it is ``better_for``, and p after Holm.
    """
    keys = ["model", "cohort", "patient"]
    rows = {name: overall(results.measured(), "patient", name) for name in _panels(results)}
    patients = pd.DataFrame({name: part.set_index(keys)["value"] for name, part in rows.items()}).reset_index()
    means = cohort_means(results)
    entries = [entry for entry in results.spec["ablation"] if entry["model"] in results.models]
    entries.sort(key=lambda entry: (entry["kind"], len(entry["encoders"])))
    cohorts = sorted(means.index.unique("cohort"))
    table = pd.DataFrame(
        [
            {
                "cohort": cohort,
                **_row(means.loc[cohort], patients[patients["cohort"] == cohort], entry, entries, results.words),
            }
            for cohort in cohorts
            for entry in entries
        ]
    )
    for cohort in cohorts if len(table) else ():
        of_cohort = table["cohort"] == cohort
        table.loc[of_cohort, "p"] = holm(table.loc[of_cohort, "p"].to_numpy(dtype=float))
    return table, patients


def _row(
    means: pd.DataFrame,
    patients: pd.DataFrame,
    entry: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    words: Words,
) -> dict[str, Any]:
    """Return a configuration's row, against the best of those that use some of its encoders."""
    model, score = str(entry["model"]), words.score
    more = ["sd_ratio", "slope", "l1", "l1_skill"] if words.correlates else [words.error]
    metrics = [score, *more, f"{score}_seed_sd"]
    own = means.loc[model]
    parts = [o["model"] for o in entries if o["kind"] == entry["kind"] and set(o["encoders"]) < set(entry["encoders"])]
    defined = means[score].reindex(parts).dropna()
    best = str(defined.idxmax()) if len(defined) and np.isfinite(own[score]) else ""
    scores = patients.pivot_table(index="patient", columns="model", values=score)
    change = (scores[model] - scores[best]).dropna().to_numpy() if best else np.zeros(0)
    return {
        "kind": entry["kind"],
        "encoders": "+".join(entry["encoders"]),
        "n_encoders": len(entry["encoders"]),
        "model": model,
        **own[metrics],
        "best_part": best,
        "gain": own[score] - defined[best] if best else np.nan,
        "better_for": int((change > 0).sum()) if best else pd.NA,
        "n_patients": own["n_patients"],
        "p": sign_flip_p(change),
    }


def report_ablation(
    *, experiment: str, spec: Mapping[str, Any], metrics: Sequence[Path], out: Mapping[str, Path]
) -> None:
    """Write the ablation as ``csv``, ``md`` and ``html``, and draw it as ``figure``."""
    results = read_results(experiment, spec, metrics)
    table, patients = ablation_table(results)
    page = Page(f"{results.title}: encoders alone and together")
    for cohort, rows in table.groupby("cohort", sort=False) if len(table) else ():
        if table["cohort"].nunique() > 1:
            page.heading(str(cohort))
        shown = rows[["kind", "encoders"]].copy() if rows["kind"].nunique() > 1 else rows[["encoders"]].copy()
        words = results.words
        spread = zip(rows[words.score], rows[f"{words.score}_seed_sd"], strict=True)
        texts = [number(value) + (f" ± {number(sd)}" if np.isfinite(sd) else "") for value, sd in spread]
        shown[words.score_name] = mark_best(texts, rows[words.score])
        if words.correlates:
            shown["SD ratio"] = [spread_ratio(v) for v in rows["sd_ratio"]]
            shown["slope"] = [number(v, 2) for v in rows["slope"]]
            shown["L1"] = mark_best([number(v) for v in rows["l1"]], rows["l1"], lower=True)
            shown["skill in L1"] = [number(v) for v in rows["l1_skill"]]
        else:
            shown[words.error_name] = mark_best([number(v) for v in rows[words.error]], rows[words.error])
        shown["best part"] = rows["best_part"]
        shown["gain"] = [number(v) for v in rows["gain"]]
        better = zip(rows["better_for"], rows["n_patients"], strict=True)
        shown["better for"] = ["" if pd.isna(k) else f"{k} of {n} patients" for k, n in better]
        if rows["p"].notna().any():
            shown["p"] = [number(v) for v in rows["p"]]
        page.table(shown)
    page.text(_READING)
    page.write(table, out)
    _draw(table, patients, results, out["figure"])


def _panels(results: Results) -> dict[str, str]:
    """Return the metrics that are drawn, with their names."""
    words = results.words
    if words.correlates:
        return {"cc": "CC within sections (headline)", "sd_ratio": "SD ratio", "l1": "L1 (mean absolute error)"}
    return {words.score: f"{words.score_name} (headline)", words.error: words.error_name}


def _draw(table: pd.DataFrame, patients: pd.DataFrame, results: Results, out: Path) -> None:
    """Draw which encoders each configuration has, its CC, SD ratio and L1; a row of panels per cohort."""
    cohorts = list(dict.fromkeys(table["cohort"])) if len(table) else []
    configurations = int(table.groupby("cohort").size().max()) if cohorts else 1
    names = list(dict.fromkeys(e for entry in results.spec["ablation"] for e in entry["encoders"]))
    panels = _panels(results)
    height = 1.2 + max(len(cohorts), 1) * (0.9 + 0.36 * configurations)
    with drawing(out, 3.4 + 0.45 * len(names) + 8.0, height) as fig:
        if not cohorts:
            note(fig.subplots(), "no configuration was scored")
            return
        ratios = [0.45 * len(names), 3.2, 1.8, 3.0][: 1 + len(panels)]
        axes = fig.subplots(
            len(cohorts), 1 + len(panels), squeeze=False, sharey="row", gridspec_kw={"width_ratios": ratios}
        )
        for row, cohort in zip(axes, cohorts, strict=True):
            of_cohort = table[table["cohort"] == cohort].reset_index(drop=True)
            _matrix(row[0], of_cohort, names)
            for ax, (metric, label) in zip(row[1:], panels.items(), strict=True):
                _values(ax, of_cohort, patients[patients["cohort"] == cohort], metric)
                ax.set_xlabel(label)
            if "sd_ratio" in panels:
                row[2].axvspan(0, SMALL_SPREAD, color="#D55E00", alpha=0.15, lw=0)
            row[1].set_title(f"{cohort}: {of_cohort['n_patients'].max()} held-out patients, points", loc="left")
        if axes[0][1].get_legend_handles_labels()[1]:
            legend(fig, [axes[0][1]], loc="outside lower right", ncols=8, title="held-out patient", frameon=True)
        heading(fig, results.title, 10)


def _matrix(ax: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Draw a dot where a configuration has an encoder."""
    for i, row in table.iterrows():
        y = len(table) - 1 - int(str(i))
        used = [names.index(name) for name in row["encoders"].split("+")]
        ax.plot(range(len(names)), [y] * len(names), "o", ms=6, color="#DDDDDD", ls="none")
        ax.plot(used, [y] * len(used), "o-", ms=7, color="black", lw=1.2)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="left")
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(table)), [f"{row['model']}" for row in reversed(table.to_dict("records"))])
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set_ylim(-0.7, len(table) - 0.3)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)


def _values(ax: Axes, table: pd.DataFrame, patients: pd.DataFrame, metric: str) -> None:
    """Draw each configuration's mean as a bar, shaded by its number of encoders, and its patients as points."""
    known = sorted(patients["patient"].unique())
    spread = jitter(len(known), 0.4)
    for i, row in table.iterrows():
        y = len(table) - 1 - int(str(i))
        face = _COLOURS[min(int(row["n_encoders"]), len(_COLOURS)) - 1]
        ax.barh(y, row[metric], height=0.68, color=face, alpha=0.55, zorder=1)
        values = patients[patients["model"] == row["model"]].set_index("patient")[metric].reindex(known)
        for at, (patient, value) in enumerate(values.items()):
            # More patients than shapes: one shape for all, and no legend.
            alike = len(known) > len(_MARKS)
            label = str(patient) if i == 0 and not alike else None
            shape: dict[str, Any] = {"marker": "o", "ms": 3} if alike else {"marker": _MARKS[at], "ms": 4.5}
            style: dict[str, Any] = {**shape, "mew": 0.8 if not alike else 0.6, "ls": "none"}
            ax.plot([value], [y + spread[at]], mfc="white", mec="black", label=label, zorder=3, **style)
        if not np.isfinite(row[metric]):
            ax.text(0, y, " undefined", va="center", fontsize=7.5, color="#777777")
        # Outside the panel: in a bar, points would lie over it.
        digits = 2 if metric == "sd_ratio" else 3
        ax.text(1.01, y, number(row[metric], digits), va="center", fontsize=7.5, transform=ax.get_yaxis_transform())
    ax.axvline(0, color="black", lw=0.6)
    grid(ax, "x")
    ax.tick_params(axis="y", length=0)
