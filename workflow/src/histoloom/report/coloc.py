"""Colocalization clustermaps: bivariate Moran's R of labels and of predictions, in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histoloom.metrics.moran import FORMS
from histoloom.metrics.rows import read_metrics
from histoloom.report.style import DIVERGING, PALETTE, drawing, heading, note, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORM_NAMES = {
    "diag1_row": "diagonal 1, by row", "diag1_flat": "diagonal 1, all cells", "nodiag_row": "without diagonal, by row",
    "nodiag_flat": "without diagonal, all cells",
}  # fmt: skip
"""What the forms of `histoloom.metrics.moran.FORMS` are."""


def as_matrix(rows: pd.DataFrame, types: list[str]) -> np.ndarray:
    """Return the symmetric map of rows with target <= target2."""
    position = {name: i for i, name in enumerate(types)}
    matrix = np.full((len(types), len(types)), np.nan)
    i, j = rows["target"].map(position).to_numpy(), rows["target2"].map(position).to_numpy()
    matrix[i, j] = matrix[j, i] = rows["value"].to_numpy()
    return matrix


def cluster_order(matrix: np.ndarray) -> np.ndarray:
    """Return the order of average linkage on the rows of a map with its diagonal set to 1."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(matrix) < 3:
        return np.arange(len(matrix))
    square = matrix.copy()
    np.fill_diagonal(square, 1.0)
    return leaves_list(linkage(square, method="average", optimal_ordering=True))


def draw_coloc(*, experiment: str, model: str, metrics: Path, out: Path, cohort: str | None = None) -> None:
    """Draw the colocalization maps of labels and of predictions (figure A1b of the decomposition paper).

    All sections of the cohort with the most observations are taken together (W block-diagonal); types undefined in
    either map are named, not drawn. Maps of other amplitude have a scale of their own.
    """
    rows = read_metrics([metrics])
    if (rows["metric"] == "confusion").any():
        _draw_confusion(rows, f"{experiment}, {model}", out)
        return
    rows = rows[(rows["aggregation"] == "pooled") & (rows["against"] == "labels")]
    maps = rows[rows["metric"].isin(["morans_r", "morans_r_reference"])]
    with drawing(out, 12.5, 6.2) as fig:
        if maps.empty:
            note(fig.subplots(), "no Moran's R: it is of abundances, in sections with array coordinates and no QC flag")
            return
        cohort = cohort or str(maps.nlargest(1, "n")["cohort"].iloc[0])
        maps = maps[maps["cohort"] == cohort]
        types = sorted(set(maps["target"]) | set(maps["target2"]))
        both = [as_matrix(maps[maps["metric"] == name], types) for name in ("morans_r_reference", "morans_r")]
        keep = np.isfinite(np.diagonal(both[0])) & np.isfinite(np.diagonal(both[1]))
        dropped = [name for name, defined in zip(types, keep, strict=True) if not defined]
        names = [name for name, defined in zip(types, keep, strict=True) if defined]
        if len(names) < 2:
            note(fig.subplots(), "fewer than two types are defined in both maps")
            return
        order = np.flatnonzero(keep)[cluster_order(both[0][np.ix_(keep, keep)])]
        shown = [matrix[np.ix_(order, order)] for matrix in both]
        limits = [largest(matrix) for matrix in shown]
        if max(limits) < 2 * min(limits):
            limits = [max(limits)] * 2
        labels = short_names([types[i] for i in order])
        axes = fig.subplots(1, 2, sharey=True)
        for ax, matrix, limit, title in zip(axes, shown, limits, ("labels", f"prediction of {model}"), strict=True):
            draw_matrix(fig, ax, matrix, labels, title, limit)
        same = "" if limits[0] != limits[1] else ", one scale"
        heading(
            fig,
            f"{experiment}, {cohort}: Moran's R of {len(names)} types over {int(maps['n'].max())} observations, "
            f"order clustered on the labels, diagonal not drawn{same or ', a scale each: amplitudes differ'}"
            + (f"\nundefined: {', '.join(dropped)}" if dropped else ""),
        )
        fig.supxlabel(_similarity(rows[rows["cohort"] == cohort]), fontsize=8.5)


def largest(matrix: np.ndarray) -> float:
    """Return the largest absolute value off the diagonal: the end of a map's scale."""
    off = np.abs(matrix[~np.eye(len(matrix), dtype=bool)])
    return max(float(np.nanmax(off)), 1e-6) if np.isfinite(off).any() else 1.0


def draw_matrix(
    fig: Figure, ax: Axes, matrix: np.ndarray, names: list[str], title: str, limit: float | None = None
) -> None:
    """Draw a map without its diagonal, with its scale; what is undefined is grey."""
    limit, size = limit or largest(matrix), float(np.clip(180 / len(names), 5, 8))
    shown = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    image = ax.imshow(shown, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_facecolor("#D9D9D9")
    ax.set_title(title)
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    ax.set_yticks(range(len(names)), names, fontsize=size)
    ax.tick_params(length=0)
    fig.colorbar(image, ax=ax, shrink=0.7, pad=0.01)


def _draw_confusion(rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the shares of each true class that are predicted as each class, and the reliability curve, by cohort."""
    counts = rows[(rows["metric"] == "confusion") & (rows["aggregation"] == "cohort")]
    cohorts = sorted(counts["cohort"].unique())
    classes = sorted(set(counts["target"]))
    side = 1.6 + 0.34 * max(len(classes), 6)
    with drawing(out, (side + 1.2) * max(len(cohorts), 1), side + 4.0) as fig:
        if not cohorts:
            note(fig.subplots(), "no section without a QC flag")
            return
        ratio = {"height_ratios": [side + 1.0, 2.6]}
        axes, below = fig.subplots(2, len(cohorts), squeeze=False, sharey="row", gridspec_kw=ratio)
        for ax, curve, cohort in zip(axes, below, cohorts, strict=True):
            _draw_reliability(curve, rows[(rows["cohort"] == cohort) & (rows["aggregation"] == "cohort")])
            wide = counts[counts["cohort"] == cohort].groupby(["target", "target2"])["value"].sum().unstack()
            wide = wide.reindex(index=classes, columns=classes).fillna(0)
            size = wide.sum(axis=1)
            share = wide.div(size.where(size > 0), axis=0).to_numpy()
            image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
            for (i, j), value in np.ndenumerate(share):
                if np.isfinite(value) and value >= 0.005:
                    tone = "white" if value > 0.6 else "black"
                    ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=tone)
            ax.set_xticks(range(len(classes)), short_names(classes), rotation=90)
            ax.set_yticks(range(len(classes)), [f"{c} ({size[c]:.0f})" for c in classes])
            ax.tick_params(length=0)
            ax.set_xlabel("predicted class")
            ax.set_title(cohort)
        axes[0].set_ylabel("true class (observations)")
        fig.colorbar(image, ax=list(axes), shrink=0.7, pad=0.01).set_label("share of the true class")
        heading(fig, f"{title}: which class is taken for which")


def _draw_reliability(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw accuracy against top probability, a point per bin, its area by the share of observations in it."""
    bins = rows[rows["metric"].isin(["reliability", "reliability_confidence"])]
    wide = bins.pivot_table(index="target2", columns="metric", values="value")
    count = bins[bins["metric"] == "reliability"].set_index("target2")["n"].reindex(wide.index)
    ax.plot([0, 1], [0, 1], color="#999999", lw=0.8, zorder=1)
    ax.plot(wide["reliability_confidence"], wide["reliability"], color=PALETTE[0], lw=1, zorder=2)
    ax.scatter(
        wide["reliability_confidence"],
        wide["reliability"],
        8 + 200 * count / count.sum(),
        PALETTE[0],
        zorder=3,
        clip_on=False,
    )
    ece = rows[(rows["metric"] == "ece") & (rows["target"] == "")]["value"]
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="top probability", ylabel="share that is right")
    ax.set_title(f"reliability, expected calibration error {ece.mean():.3f}", fontsize=9)


def _similarity(rows: pd.DataFrame) -> str:
    """Return the forms of similarity of the two maps, a line each for cosine and correlation."""
    value = rows[rows["metric"].str.startswith("coloc_")].set_index(["metric", "gene_set"])["value"]
    lines = []
    for metric, name in (("coloc_cosine", "cosine"), ("coloc_correlation", "correlation")):
        parts = [
            f"{FORM_NAMES[f]} {value[metric, f]:.2f}" for f in FORMS if np.isfinite(value.get((metric, f), np.nan))
        ]
        lines.append(f"{name} of the two maps: " + ("; ".join(parts) or "undefined"))
    return "\n".join(lines)
