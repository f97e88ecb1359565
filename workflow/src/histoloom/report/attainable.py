"""CC and what is attainable: one figure and one table per experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.metrics.ceiling import IDENTIFIABLE, attainable
from histoloom.metrics.rows import read_metrics
from histoloom.report.pages import Page, number, spread_ratio
from histoloom.report.results import overall, pick, read_results, single, with_marks
from histoloom.report.style import colour, drawing, heading, note, short_names

_READING = (
    "Each count is split in two at random and both halves are labelled like the whole. Reliability = 2r / (1 + r), r "
    "being the correlation of the two; ceiling = its square root: what a predictor of the true abundance would reach "
    f"against these labels. Types with a reliability below {IDENTIFIABLE:g} are not identifiable and enter no "
    "mean. The ceiling knows the noise of counting only; a label that is wrong in the same way in both halves keeps "
    "it high."
)


def report_attainable(
    *, spec: Mapping[str, Any], metrics: Sequence[Path], ceilings: Sequence[Path], out: Mapping[str, Path]
) -> None:
    """Write CC, ceiling and their ratio per type as ``csv``, ``md`` and ``html``, and draw them as ``figure``.

    `ceilings` are rows of checks of kind ceiling on the experiment's labels.
    """
    results = read_results(str(spec["name"]), spec, metrics)
    # A model that is constant within sections has no CC to compare with a ceiling.
    cc = pick(results.rows, metric="cc", aggregation="section")
    defined = cc[cc["target"] != ""].groupby("model")["value"].apply(lambda v: v.notna().any())
    models = [m for m in results.models if defined.get(m, False)]
    rows = read_metrics(ceilings)
    table = attainable(results.rows, rows, models)
    ratios = {
        m: single(overall(results.measured()[results.measured()["model"] == m], "cohort", "sd_ratio")) for m in models
    }
    title = with_marks(str(spec.get("title") or spec["name"]), rows)
    _page(table, ratios, title).write(table, out)
    _draw(table, ratios, title, out["figure"])


def _page(table: pd.DataFrame, ratios: Mapping[str, float], title: str) -> Page:
    page = Page(f"{title}: CC and ceiling")
    for kind, part in (
        ("Identifiable", table[table["identifiable"]]),
        ("Not identifiable", table[~table["identifiable"]]),
    ):
        page.heading(f"{kind}: {len(part)} types")
        if part.empty:
            page.text("None.")
            continue
        shown = pd.DataFrame({"cohort": part["cohort"], "type": part["target"]})
        for name in ("reliability", "ceiling"):
            shown[name] = [number(v) for v in part[name]]
        for model in ratios:
            share = part[f"share_{model}"].map(lambda v: "" if pd.isna(v) else f" ({v:.0%})")
            shown[f"CC {model}"] = part[f"cc_{model}"].map(number) + (share if kind == "Identifiable" else "")
        if kind == "Identifiable":
            mean = {"type": "mean over types", "reliability": number(part["reliability"].mean())}
            mean |= {"cohort": "", "ceiling": number(part["ceiling"].mean())}
            for model in ratios:
                mean[f"CC {model}"] = f"{number(part[f'cc_{model}'].mean())} ({part[f'share_{model}'].mean():.0%})"
            shown = pd.concat([shown, pd.DataFrame([mean])], ignore_index=True)
        page.table(shown if table["cohort"].nunique() > 1 else shown.drop(columns="cohort"))
    page.text("In brackets: CC as a share of the ceiling. SD ratio: " + _amplitudes(ratios) + ".")
    page.text(_READING)
    return page


def _amplitudes(ratios: Mapping[str, float]) -> str:
    return ", ".join(f"{model} {spread_ratio(ratio)}" for model, ratio in ratios.items())


def _draw(table: pd.DataFrame, ratios: Mapping[str, float], title: str, out: Path) -> None:
    """Draw CC per type on the bar of its ceiling, types that are not identifiable apart."""
    models = list(ratios)
    table = pd.concat([part for _, part in table.groupby("identifiable", sort=False)]) if len(table) else table
    table = table.sort_values(["cohort", "identifiable", "reliability"], ascending=[True, False, False], kind="stable")
    several = table["cohort"].nunique() > 1
    with drawing(out, 8.8, 1.9 + 0.27 * max(len(table), 4)) as fig:
        ax = fig.subplots()
        if table.empty:
            note(ax, "no section of the experiment has a ceiling")
            return
        y = np.arange(len(table)) + 0.9 * np.cumsum(np.r_[0, np.diff(~table["identifiable"].to_numpy(int) == -1) != 0])
        ax.barh(y, table["ceiling"], 0.74, color=np.where(table["identifiable"], "#D5DDE3", "#F0E9DF"), zorder=1)
        for x, at in zip(table["ceiling"], y, strict=True):
            ax.plot([x, x], [at - 0.37, at + 0.37], color="black", lw=1.1, zorder=2)
        good = table[table["identifiable"]]
        for i, model in enumerate(models):
            share = good[f"share_{model}"].mean()
            label = f"{model}  {share:.0%}" if np.isfinite(share) else model
            label += f", SD ratio {spread_ratio(ratios[model])}"
            ax.plot(table[f"cc_{model}"], y, "o", ms=4.6, mec="white", mew=0.4, zorder=3 + i,
                    color=colour(i)["facecolor"], label=label)  # fmt: skip
        names = table["target"] + (" · " + table["cohort"] if several else "")
        ax.set_yticks(y, short_names(list(names), 34))
        ax.invert_yaxis()
        apart = table["identifiable"].to_numpy()
        if (~apart).any():
            first = y[np.flatnonzero(~apart)[0]]
            ax.text(1.0, first - 0.85, f"not identifiable: reliability < {IDENTIFIABLE:g}", ha="right", va="center",
                    fontsize=8, style="italic", transform=ax.get_yaxis_transform())  # fmt: skip
        ax.axvline(0, color="black", lw=0.6)
        low = float(np.nanmin([0.0, *(table[f"cc_{m}"].min() for m in models)]))
        ax.set_xlim(min(-0.03, low * 1.1), 1.02)
        ax.set_xlabel("Pearson's r with the labels; bar and black line: ceiling from thinned counts")
        if models:
            fig.legend(loc="outside right upper", frameon=False, title="model, CC / ceiling, SD ratio")
        heading(
            fig,
            f"{title}: what could be reached\n{len(good)} of {len(table)} types identifiable, mean ceiling "
            f"{good['ceiling'].mean():.2f}",
        )
