"""Probes of encoders: one row per encoder and choice of alpha, and each of its patients and folds as a point."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.metrics.rows import read_metrics
from histoloom.report.pages import Page, number
from histoloom.report.style import PALETTE, figure, jitter, note, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = [
    "encoder", "card", "weights", "alpha", "cohort", "pcc", "pcc_bench", "bench_low", "bench_high", "n_patients",
    "n_folds", "n_genes", "n_nan", "alpha_low", "alpha_high", "at_edge", "components", "protocol",
]  # fmt: skip
_READING = (
    "r, by patient: Pearson's r per gene over the spots of a section, mean over genes, sections of a patient, then "
    "patients. r, HEST-bench's way: per gene over all spots of a test fold together, mean over genes, then folds; it "
    "rewards knowing a section's level, and is the only column compared with the leaderboard. Undefined: pairs of "
    "gene and test section in which truth or prediction is constant; they enter no mean. At the edge: folds whose "
    "alpha is the smallest or largest of those tried."
)


def probe_rows(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return one row per encoder, choice of alpha and cohort, `COLUMNS`."""
    rows = []
    for (encoder, alpha), mine in metrics.groupby(["model", "variant"], sort=False):
        whole = mine[(mine["aggregation"] == "cohort") & (mine["target"] == "")]
        bench = whole[whole["metric"] == "pcc_bench"]
        folds = mine[(mine["aggregation"] == "fold") & (mine["target"] == "")]["value"]
        for _, own in whole[whole["metric"] == "pcc"].iterrows():
            protocol = json.loads(own["protocol"])
            sections = mine[(mine["aggregation"] == "section") & (mine["cohort"] == own["cohort"])]
            named = sections[sections["target"] != ""]
            (space,) = protocol["encoders"].values()
            tried = protocol["alphas_tried"]
            alphas = [choice["alpha"] for choice in protocol["per_fold"].values()]
            rows.append(
                {
                    "encoder": encoder, "card": space["card"], "weights": _weights(space), "alpha": alpha,
                    "cohort": own["cohort"], "pcc": own["value"], "pcc_bench": _single(bench["value"]),
                    "bench_low": folds.min(), "bench_high": folds.max(), "n_patients": own["n"],
                    "n_folds": int(_single(bench["n"])), "n_genes": named["target"].nunique(),
                    "n_nan": int(named["n_nan"].sum()), "alpha_low": min(alphas), "alpha_high": max(alphas),
                    "at_edge": sum(alpha in (min(tried), max(tried)) for alpha in alphas) if tried else 0,
                    "components": _span([choice["components"] for choice in protocol["per_fold"].values()]),
                    "protocol": told(protocol),
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _single(values: pd.Series) -> float:
    """Return the value over all folds; folds of several cohorts have one for all of them."""
    return float(values.iloc[0]) if len(values) else float("nan")


def _weights(space: Mapping[str, Any]) -> str:
    return str(space.get("revision") or "none")


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def told(protocol: Mapping[str, Any]) -> str:
    """Return a probe's protocol as a few words."""
    panel, recipe = protocol["panel"], protocol["expression"]
    genes = {"published": "published genes (chosen on all sections)"}.get(
        panel["genes"], f"{panel['k']} {panel['genes']} chosen on {panel['selected_on']}"
    )
    scaled = "" if recipe["size_factor"] == "none" else f"counts scaled to {recipe['target_sum']:g}, "
    parts = [
        str(protocol["split"]).replace("_", " ") + (f" ({protocol['sections']})" if protocol.get("sections") else ""),
        genes,
        f"{scaled}{'log1p' if recipe['log'] == 'log1p' else 'no logarithm'}",
        f"tiles {protocol['tiles']}",
        f"PCA {protocol['components'] or 'none'}",
    ]
    return "; ".join(parts)


def probe_page(title: str, rows: pd.DataFrame) -> Page:
    """Lay the rows out for people."""
    page = Page(title)
    page.table(
        pd.DataFrame(
            [
                {
                    "encoder": f"{row['encoder']} ({row['card']}, weights {row['weights']})",
                    "alpha": row["alpha"],
                    "cohort": row["cohort"],
                    "r, by patient": number(row["pcc"]),
                    "r, HEST-bench's way": number(row["pcc_bench"]),
                    "lowest to highest fold": f"{number(row['bench_low'])} to {number(row['bench_high'])}",
                    "patients": str(row["n_patients"]),
                    "folds": str(row["n_folds"]),
                    "genes": str(row["n_genes"]),
                    "undefined": str(row["n_nan"]),
                    "alphas taken": _taken(row["alpha_low"], row["alpha_high"], row["at_edge"]),
                    "components": row["components"],
                }
                for row in rows.to_dict("records")
            ]
        )
    )
    page.text(_READING)
    page.heading("Protocol")
    for text in dict.fromkeys(rows["protocol"]):
        page.text(text + ".")
    return page


def _taken(low: float, high: float, at_edge: int) -> str:
    span = f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"
    return span + (f" (at the edge in {at_edge})" if at_edge else "")


def _panel(ax: Axes, rows: pd.DataFrame, names: Sequence[str], ways: Sequence[str], heading: str) -> None:
    """Draw each unit as a point and the mean as a bar, encoders by height, alphas by colour."""
    ax.axvline(0, color="black", linewidth=0.6)
    for i, name in enumerate(names):
        for j, way in enumerate(ways):
            found = np.sort(rows[(rows["model"] == name) & (rows["variant"] == way)]["value"].dropna().to_numpy())
            at = i + (j - (len(ways) - 1) / 2) * 0.3
            if len(found):
                ax.plot(found, at + jitter(len(found), 0.12), "o", ms=4, mfc="white", mec=PALETTE[j], mew=1, ls="none")
                ax.plot([found.mean()] * 2, [at - 0.13, at + 0.13], color=PALETTE[j], lw=3, solid_capstyle="butt")
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("Pearson's r, mean over genes")
    ax.set_title(heading)
    ax.grid(axis="x", color="#dddddd", linewidth=0.5)
    ax.set_axisbelow(True)


def draw_probes(metrics: pd.DataFrame, title: str, out: Path) -> None:
    """Draw patients and folds of every encoder.

    Parameters
    ----------
    metrics
        Rows of one experiment's probes.
    title
        Heading.
    out
        png.
    """
    from matplotlib.lines import Line2D

    whole = metrics[metrics["target"] == ""]
    names, ways = list(dict.fromkeys(metrics["model"])), list(dict.fromkeys(metrics["variant"]))
    with figure(9.0, 1.9 + 0.3 * len(names) * len(ways)) as fig:
        left, right = fig.subplots(1, 2, sharey=True)
        if whole["value"].notna().any():
            patients = whole[(whole["aggregation"] == "patient") & (whole["metric"] == "pcc")]
            _panel(left, patients, names, ways, "within sections; a point per patient")
            folds = whole[(whole["aggregation"] == "fold") & (whole["metric"] == "pcc_bench")]
            _panel(right, folds, names, ways, "HEST-bench's way; a point per fold")
            handles = [Line2D([], [], color=PALETTE[j], lw=3, label=f"{way} alpha") for j, way in enumerate(ways)]
            handles.append(Line2D([], [], marker="o", mfc="white", mec="#555555", ls="none", label="patient or fold"))
            fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        else:
            note(left, "no defined correlation")
            note(right, "")
        fig.suptitle(title, fontsize=11)
        save(fig, out)


def write_probe_table(*, spec: Mapping[str, Any], metrics: Sequence[Path], out: Mapping[str, Path]) -> None:
    """Write table and figure of an experiment's probes.

    Parameters
    ----------
    spec
        The experiment's entry with its name.
    metrics
        Metrics by encoder, in the config's order.
    out
        Paths by role: csv, md, html, figure.
    """
    rows = read_metrics(metrics)
    title = str(spec.get("title") or spec["name"])
    table = probe_rows(rows)
    probe_page(title, table).write(table, out)
    draw_probes(rows, title, out["figure"])
