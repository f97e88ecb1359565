"""CC next to what is attainable: one figure and one table per experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.metrics.ceiling import IDENTIFIABLE, attainable
from histoloom.metrics.rows import read_metrics
from histoloom.report.bars import marked
from histoloom.report.pages import Page, number, write_csv
from histoloom.report.style import colour, figure, note, save, short_names

_READING = (
    "Each count is split in two at random and both halves are labelled like the whole. Reliability = 2r / (1 + r), r "
    "being the correlation of the two; ceiling = its square root: what a predictor of the true abundance would reach "
    f"against these labels. Types with a reliability below {IDENTIFIABLE:g} are not identifiable and stay outside of "
    "means. The ceiling knows the noise of counting only; a label that is wrong in the same way in both halves keeps "
    "it high."
)


def _table(
    spec: Mapping[str, Any], metrics: Sequence[Path], ceilings: Sequence[Path]
) -> tuple[pd.DataFrame, list[str]]:
    rows = read_metrics(metrics)
    there = set(rows["model"])
    models = [m for m in (spec.get("models") or sorted(there)) if m in there]
    # A model that is constant within sections has no CC to hold against a ceiling.
    cc = rows[(rows["metric"] == "cc") & (rows["aggregation"] == "section") & (rows["target"] != "")]
    defined = cc.groupby("model")["value"].apply(lambda v: v.notna().any())
    models = [m for m in models if defined.get(m, False)]
    return attainable(rows, read_metrics(ceilings), models), models


def draw_attainable(*, spec: Mapping[str, Any], metrics: Sequence[Path], ceilings: Sequence[Path], out: Path) -> None:
    """Draw CC per type on the bar of its ceiling, types that are not identifiable apart.

    Parameters
    ----------
    spec
        The experiment's entry; ``models`` gives the order.
    metrics
        Metrics of its models.
    ceilings
        Rows of a check of kind ceiling on the experiment's labels.
    out
        png.
    """
    table, models = _table(spec, metrics, ceilings)
    title = marked(str(spec.get("title") or spec.get("name") or ""), read_metrics(ceilings))
    table = pd.concat([part for _, part in table.groupby("identifiable", sort=False)]) if len(table) else table
    table = table.sort_values(["cohort", "identifiable", "reliability"], ascending=[True, False, False], kind="stable")
    several = table["cohort"].nunique() > 1
    with figure(8.8, 1.9 + 0.27 * max(len(table), 4)) as fig:
        ax = fig.subplots()
        if table.empty:
            note(ax, "no section of the experiment has a ceiling")
            save(fig, out)
            return
        y = np.arange(len(table)) + 0.9 * np.cumsum(np.r_[0, np.diff(~table["identifiable"].to_numpy(int) == -1) != 0])
        ax.barh(y, table["ceiling"], 0.74, color=np.where(table["identifiable"], "#D5DDE3", "#F0E9DF"), zorder=1)
        for x, at in zip(table["ceiling"], y, strict=True):
            ax.plot([x, x], [at - 0.37, at + 0.37], color="black", lw=1.1, zorder=2)
        good = table[table["identifiable"]]
        for i, model in enumerate(models):
            share = good[f"share_{model}"].mean()
            told = f"{model}  {share:.0%}" if np.isfinite(share) else model
            ax.plot(table[f"cc_{model}"], y, "o", ms=4.6, mec="white", mew=0.4, zorder=3 + i,
                    color=colour(i)["facecolor"], label=told)  # fmt: skip
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
            fig.legend(loc="outside right upper", frameon=False, title="model, CC / ceiling")
        fig.suptitle(
            f"{title}: what could be reached\n{len(good)} of {len(table)} types identifiable, mean ceiling "
            f"{good['ceiling'].mean():.2f}", x=0.01, ha="left", fontsize=9.5,
        )  # fmt: skip
        save(fig, out)


def write_attainable(
    *, spec: Mapping[str, Any], metrics: Sequence[Path], ceilings: Sequence[Path], out: Mapping[str, Path]
) -> None:
    """Write CC, ceiling and their ratio per type.

    Parameters
    ----------
    spec, metrics, ceilings
        See `draw_attainable`.
    out
        Path by role ``csv``, ``md``, ``html``; roles may be left out.
    """
    table, models = _table(spec, metrics, ceilings)
    if "csv" in out:
        write_csv(table, out["csv"])
    title = marked(str(spec.get("title") or spec.get("name") or "Experiment"), read_metrics(ceilings))
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
        for model in models:
            shown[f"CC {model}"] = [number(v) for v in part[f"cc_{model}"]]
            if kind == "Identifiable":
                shown[f"CC / ceiling {model}"] = [number(v, 2) for v in part[f"share_{model}"]]
        if kind == "Identifiable":
            mean = {"cohort": "", "type": "mean over types"} | {
                column: number(pd.to_numeric(shown[column], errors="coerce").mean()) for column in shown.columns[2:]
            }
            shown = pd.concat([shown, pd.DataFrame([mean])], ignore_index=True)
        page.table(shown)
    page.text(_READING)
    if "md" in out:
        out["md"].write_text(page.markdown(), encoding="utf-8")
    if "html" in out:
        out["html"].write_text(page.html(), encoding="utf-8")
