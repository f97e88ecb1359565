"""Types, genes or classes over the slide, label next to prediction, and the rank of types in training and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histoloom.metrics.scored import Scored, read_predictions, training_side
from histoloom.report.pages import number, spread_ratio
from histoloom.report.results import words_of
from histoloom.report.section_view import find_section, view_section
from histoloom.report.style import PALETTE, drawing, heading, note, short_names
from histoloom.stats import score_columns

_FLATTER = 0.5
"""Ratio of spreads below which a prediction is also drawn on a scale of its own."""


def section_scores(scored: Scored) -> pd.DataFrame:
    """Return the mean CC over types of each tested section: its place, value and index."""
    rows = []
    for place, index in scored.sections():
        r, _ = score_columns(scored.prediction[index], scored.reference["labels"][index])
        rows.append({**place, "value": float(np.nanmean(r)) if np.isfinite(r).any() else np.nan, "index": index})
    return pd.DataFrame(rows)


def median_section(scored: Scored) -> tuple[str, str, str, np.ndarray]:
    """Return fold, cohort, sample and positions of the section whose CC is the median one: neither best nor worst."""
    scores = section_scores(scored)
    pool = scores[scores["qc_flag"] == ""]
    pool = pool if len(pool) else scores
    pool = pool.assign(value=pool["value"].fillna(-2)).sort_values(["value", "cohort", "sample", "fold"])
    row = pool.iloc[(len(pool) - 1) // 2]
    return row["fold"], row["cohort"], row["sample"], row["index"]


def choose_types(r: np.ndarray, most: int = 4) -> list[int]:
    """Return the best and the worst predicted type and some evenly between: successes and failures alike."""
    defined = np.flatnonzero(np.isfinite(r))
    order = defined[np.argsort(-r[defined], kind="stable")]
    if not len(order):
        return list(range(min(most, len(r))))
    places = np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int)
    return [int(order[i]) for i in dict.fromkeys(places)]


def labelled(scored: Scored, index: np.ndarray) -> np.ndarray:
    """Return the columns with a label in these observations: those of the fold's panel, where each fold has its own."""
    return np.flatnonzero(np.isfinite(scored.reference["labels"][index]).any(axis=0))


def positions(path: Path) -> np.ndarray:
    """Return the centres (n, 2) of predicted observations, level-0 px."""
    import h5py

    with h5py.File(path, "r") as handle:
        return np.asarray(handle["obsm/spatial"], dtype=np.float64)


def draw_maps(*, experiment: str, model: str, predictions: Path, samples: Sequence[Path], out: Path) -> None:
    """Draw label and prediction over the held-out section of the median CC (figure A1a of the decomposition paper).

    Columns are the best and the worst predicted type and two between. A prediction with less than half of the label's
    spread is drawn twice: on the label's scale, and on its own. The section must be among `samples`.
    """
    scored = read_predictions(predictions)
    fold, cohort, sample, index = median_section(scored)
    panel = labelled(scored, index)
    names = [scored.types[i] for i in panel]
    shown = {"label": scored.reference["labels"], "prediction": scored.prediction}
    shown = {name: matrix[np.ix_(index, panel)] for name, matrix in shown.items()}
    ranks = {name: _ranks(values) for name, values in shown.items()}
    label, predicted = shown.values()
    r, _ = score_columns(predicted, label)
    columns = choose_types(r)
    view = view_section(find_section(samples, cohort, sample), positions(predictions)[index])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = predicted.std(axis=0) / label.std(axis=0)
    lines = ["label", "prediction"] + ["prediction, own scale"] * bool((ratio[columns] < _FLATTER).any())
    units = str(scored.metadata.get("units", "")) or "units of the labels"
    size = 2.9 * len(columns) + 0.4, len(lines) * (2.3 * view.aspect + 0.45) + 0.75
    with drawing(out, *size) as fig:
        axes = fig.subplots(len(lines), len(columns), squeeze=False)
        for at, column in enumerate(columns):
            # Labels give the lower end: a few negative predictions of a linear model must not spoil the scale.
            low = min(0.0, float(np.nanmin(label[:, column])))
            high = float(np.nanquantile(np.concatenate([label[:, column], predicted[:, column]]), 0.99))
            cc = f"r = {number(r[column], 2)}, SD ratio {spread_ratio(ratio[column])}"
            for line, name in enumerate(lines):
                values = shown["label" if line == 0 else "prediction"][:, column]
                if line < 2:
                    limits = low, high if high > low else low + 1.0
                    rank = f"{name}: rank {ranks[name][column]} of {len(names)}"
                    below = cc if np.isfinite(r[column]) else "r undefined"
                    title = f"{names[column]}\n{rank}" if line == 0 else f"{rank}\n{below}"
                else:
                    first, last = (float(v) for v in np.nanquantile(values, (0.01, 0.99)))
                    limits = first, last if last > first else first + 1.0
                    title = f"{name}\n{number(first, 2)} to {number(last, 2)}"
                drawn = view.show(axes[line, at], values, limits)
                beyond = "both" if line == 2 or values.min() < low else "max"
                fig.colorbar(drawn, ax=axes[line, at], shrink=0.75, pad=0.01, extend=beyond).outline.set_visible(False)
                axes[line, at].set_title(title, fontsize=8.5)
        view.scale_bar(axes[0, 0])
        heading(
            fig,
            f"{experiment}, {model}: section {sample} of {cohort}, held out in fold {fold}, {len(index)} observations\n"
            f"values in {units}; label and prediction of a column have one scale",
        )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks of columns by mean, 1 = highest."""
    from scipy.stats import rankdata

    return rankdata(-np.nanmean(values, axis=0), method="ordinal").astype(int)


def rank_types(scored: Scored, fold: str, target: Path, folds: Path) -> pd.DataFrame:
    """Return the ranks of a fold's types by mean of labels in ``training``, in ``test``, and of ``prediction``."""
    at = np.flatnonzero(scored.obs["fold"] == fold)
    panel = labelled(scored, at)
    names = [scored.types[i] for i in panel]
    means = training_side(target, folds, names).means
    test, predicted = (m[np.ix_(at, panel)] for m in (scored.reference["labels"], scored.prediction))
    values = {"training": means.loc[[fold], names].to_numpy(dtype=float), "test": test, "prediction": predicted}
    return pd.DataFrame({name: _ranks(matrix) for name, matrix in values.items()}, index=names)


def draw_ranks(
    *, experiment: str, model: str, predictions: Path, target: Path, folds: Path, out: Path, most: int = 30
) -> None:
    """Draw ranks of the `most` highest types of training, fold of `draw_maps` (decomposition paper, section 3.1)."""
    scored = read_predictions(predictions)
    fold, _, _, _ = median_section(scored)
    table = rank_types(scored, fold, target, folds).sort_values("training").head(most)
    obs = scored.obs[scored.obs["fold"] == fold]
    words = words_of(scored.metadata)
    with drawing(out, 7.4, 1.4 + 0.22 * max(len(table), 6)) as fig:
        ax = fig.subplots()
        if table.empty:
            note(ax, f"no {words.item}")
            return
        shift = (table["training"] - table["test"]).abs().to_numpy()
        moved = sorted(i for i in np.argsort(-shift, kind="stable")[:4] if shift[i] > 0)
        for place, ranks in enumerate(table.to_numpy()):
            tone = PALETTE[moved.index(place)] if place in moved else "#B5B5B5"
            wide, top = (1.8, 3) if place in moved else (0.9, 2)
            ax.plot(range(3), ranks, "-o", ms=3.5, lw=wide, color=tone, zorder=top)
        for name, first, last in zip(short_names(list(table.index), 26), table["training"], table["prediction"],
                                     strict=True):  # fmt: skip
            ax.text(-0.05, first, f"{name}  {first}", ha="right", va="center", fontsize=7.5)
            ax.text(2.05, last, f"{last}  {name}", ha="left", va="center", fontsize=7.5)
        ax.set_xticks(range(3), ["labels,\ntraining", f"labels,\ntest (n = {len(obs)} {words.observation}s)",
                                 "prediction,\ntest"])  # fmt: skip
        ax.set_xlim(-1.15, 3.15)
        ax.set_ylim(table.to_numpy().max() + 0.8, 0.2)
        ax.set_yticks([])
        ax.spines[["left", "bottom"]].set_visible(False)
        patients = obs["patient"].nunique()
        heading(
            fig,
            f"{experiment}, {model}: rank of {len(table)} {words.items} by mean\n"
            f"fold {fold}, {patients} test patient{'s' * (patients != 1)}; coloured: the largest shifts",
        )
