"""Colocalization clustermaps: bivariate Moran's R of labels and of predictions, in the same order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from histoloom.metrics.moran import FORMS
from histoloom.metrics.rows import read_metrics
from histoloom.report.style import DIVERGING, figure, note, save, short_names


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

    Parameters
    ----------
    experiment, model
        Names, for the title.
    metrics
        Metrics of the model.
    out
        png. All sections of a cohort together (W block-diagonal); types undefined in either map are named, not drawn.
    cohort
        None: the cohort with the most observations.
    """
    rows = read_metrics([metrics])
    rows = rows[(rows["aggregation"] == "pooled") & (rows["against"] == "labels")]
    maps = rows[rows["metric"].isin(["morans_r", "morans_r_reference"])]
    with figure(11.5, 5.6) as fig:
        if maps.empty:
            note(fig.subplots(), "no Moran's R: the sections have no array coordinates, or all are flagged")
            save(fig, out)
            return
        cohort = cohort or str(maps.nlargest(1, "n")["cohort"].iloc[0])
        maps = maps[maps["cohort"] == cohort]
        types = sorted(set(maps["target"]) | set(maps["target2"]))
        theirs = as_matrix(maps[maps["metric"] == "morans_r_reference"], types)
        mine = as_matrix(maps[maps["metric"] == "morans_r"], types)
        keep = np.isfinite(np.diagonal(theirs)) & np.isfinite(np.diagonal(mine))
        dropped = [name for name, there in zip(types, keep, strict=True) if not there]
        names = [name for name, there in zip(types, keep, strict=True) if there]
        if len(names) < 2:
            note(fig.subplots(), "fewer than two types are defined in both maps")
            save(fig, out)
            return
        theirs, mine = theirs[np.ix_(keep, keep)], mine[np.ix_(keep, keep)]
        order = cluster_order(theirs)
        off = ~np.eye(len(names), dtype=bool)
        limit = max(float(np.abs(np.concatenate([theirs[off], mine[off]])).max()), 1e-6)
        size = float(np.clip(180 / len(names), 4, 8))
        axes = fig.subplots(1, 2, sharey=True)
        for ax, matrix, title in zip(axes, (theirs, mine), ("labels", f"prediction of {model}"), strict=True):
            shown = np.where(off, matrix, np.nan)[np.ix_(order, order)]
            image = ax.imshow(shown, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
            ax.set_facecolor("#D9D9D9")
            ax.set_title(title)
            labels = short_names([names[i] for i in order])
            ax.set_xticks(range(len(names)), labels, rotation=90, fontsize=size)
            ax.set_yticks(range(len(names)), labels, fontsize=size)
            ax.tick_params(length=0)
        bar = fig.colorbar(image, ax=list(axes), shrink=0.7, pad=0.01)
        bar.set_label("bivariate Moran's R (diagonal not drawn)")
        n = int(maps["n"].max())
        fig.suptitle(
            f"{experiment}, {cohort}: {n} spots, {len(names)} types, order clustered on the labels"
            + (f"; undefined: {', '.join(dropped)}" if dropped else "")
            + f"\n{_similarity(rows[rows['cohort'] == cohort])}",
            x=0.01, ha="left", fontsize=9.5,
        )  # fmt: skip
        save(fig, out)


def _similarity(rows: pd.DataFrame) -> str:
    """Return the four forms of similarity as one line."""
    names = {"diag1_row": "diagonal 1, by row", "diag1_flat": "diagonal 1, flat",
             "nodiag_row": "no diagonal, by row", "nodiag_flat": "no diagonal, flat"}  # fmt: skip
    found = rows[rows["metric"].isin(["coloc_cosine", "coloc_correlation"])].set_index(["metric", "gene_set"])["value"]
    parts = []
    for form in FORMS:
        cosine, r = (found.get((metric, form), np.nan) for metric in ("coloc_cosine", "coloc_correlation"))
        if np.isfinite(cosine):
            parts.append(f"{names[form]} {cosine:.2f} / {r:.2f}")
    return "cosine / correlation: " + "; ".join(parts) if parts else "similarity undefined"
