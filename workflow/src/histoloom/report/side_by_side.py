"""All models of an experiment on one section and in one order of types (figure A1 of the decomposition paper)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histoloom.metrics.rows import read_metrics
from histoloom.metrics.scored import Scored, read_predictions
from histoloom.report.coloc import as_matrix, cluster_order, draw_matrix
from histoloom.report.maps import median_section, positions, rank_types
from histoloom.report.pages import number, spread_ratio
from histoloom.report.results import pick
from histoloom.report.section_view import find_section, view_section
from histoloom.report.style import drawing, heading, note, short_names
from histoloom.stats import score_columns

_FORM = "diag1_row"


def shown_types(ranks: pd.DataFrame) -> dict[str, str]:
    """Return up to four types with why each is shown, by ranks of labels alone: no prediction has a say.

    The most abundant of the training labels, the one whose rank differs most between training and test, and the two
    least abundant ones, as the paper's figure has them.
    """
    order = ranks.sort_values("training")
    moved = (order["training"] - order["test"]).abs().sort_values(ascending=False, kind="stable").index
    first, last = str(order.index[0]), [str(name) for name in order.index[-2:]]
    chosen = {first: "most abundant"}
    middle = next((str(name) for name in moved if str(name) not in {first, *last}), None)
    if middle is not None:
        chosen[middle] = "largest shift of rank"
    return chosen | {name: "least abundant" for name in last if name not in chosen}


def draw_models(
    *, experiment: str, models: Mapping[str, Path], samples: Sequence[Path], target: Path, folds: Path, out: Path
) -> None:
    """Draw labels and every model's prediction of four types over one held-out section, a row each.

    The section is that of the first model's median CC; a column has one scale, that of its labels.
    """
    scored = {model: read_predictions(path) for model, path in models.items()}
    first = next(iter(scored))
    fold, cohort, sample, _ = median_section(scored[first])
    at = {model: _rows(one, fold, cohort, sample) for model, one in scored.items()}
    labels = scored[first].reference["labels"][at[first]]
    ranks = rank_types(scored[first], fold, target, folds)
    chosen = shown_types(ranks)
    view = view_section(find_section(samples, cohort, sample), positions(models[first])[at[first]])
    size = 2.9 * len(chosen) + 0.4, (1 + len(models)) * (2.3 * view.aspect + 0.45) + 0.9
    with drawing(out, *size) as fig:
        axes = fig.subplots(1 + len(models), len(chosen), squeeze=False)
        for at_column, (name, why) in enumerate(chosen.items()):
            column = scored[first].types.index(name)
            high = float(np.nanquantile(labels[:, column], 0.99))
            limits = min(0.0, float(labels[:, column].min())), high if high > 0 else 1.0
            first_rank, test_rank = ranks.loc[name, ["training", "test"]].astype(int)
            titles = [f"{name}\n{why}\nrank {first_rank} in training, {test_rank} in test of {len(ranks)}"]
            values = [labels[:, column]]
            for model, one in scored.items():
                predicted = one.prediction[at[model], one.types.index(name)]
                own = int(rank_types(one, fold, target, folds)["prediction"][name])
                titles.append(f"{model}: rank {own}\n{_score(predicted, labels[:, column])}")
                values.append(predicted)
            for line, (title, shown) in enumerate(zip(titles, values, strict=True)):
                ax = axes[line, at_column]
                drawn = view.show(ax, shown, limits)
                beyond = "both" if shown.min() < limits[0] else "max"
                fig.colorbar(drawn, ax=ax, shrink=0.75, pad=0.01, extend=beyond).outline.set_visible(False)
                ax.set_title(title, fontsize=8)
        view.scale_bar(axes[0, 0])
        units = str(scored[first].metadata.get("units", "")) or "units of the labels"
        heading(
            fig,
            f"{experiment}: section {sample} of {cohort}, held out in fold {fold}, {len(labels)} observations\n"
            f"first row: labels, {units}; a column has one scale, that of its labels",
        )


def _rows(scored: Scored, fold: str, cohort: str, sample: str) -> np.ndarray:
    obs = scored.obs
    return np.flatnonzero((obs["fold"] == fold) & (obs["cohort"] == cohort) & (obs["sample"] == sample))


def _score(predicted: np.ndarray, label: np.ndarray) -> str:
    r, _ = score_columns(predicted[:, None], label[:, None])
    if not np.isfinite(r[0]):
        return "r undefined"
    return f"r = {number(r[0], 2)}, SD ratio {spread_ratio(float(predicted.std() / label.std()))}"


def draw_coloc_models(*, experiment: str, models: Mapping[str, Path], out: Path) -> None:
    """Draw Moran's R of labels and of every model's prediction, all types in the order clustered on the labels.

    Of the cohort with the most observations, all sections together; a type that is undefined in a map is grey in it.
    """
    rows = read_metrics(list(models.values()))
    rows = pick(rows, aggregation="pooled", against="labels")
    maps = rows[rows["metric"].isin(["morans_r", "morans_r_reference"])]
    across = min(3, 1 + len(models))
    down = math.ceil((1 + len(models)) / across)
    with drawing(out, 5.6 * across, 0.6 + 5.0 * down) as fig:
        if maps.empty:
            note(fig.subplots(), "no Moran's R: it is of abundances, in sections with array coordinates and no QC flag")
            return
        cohort = str(maps.nlargest(1, "n")["cohort"].iloc[0])
        rows, maps = rows[rows["cohort"] == cohort], maps[maps["cohort"] == cohort]
        types = sorted(set(maps["target"]) | set(maps["target2"]))
        of_labels = as_matrix(pick(maps, metric="morans_r_reference", model=maps["model"].iloc[0]), types)
        keep = np.isfinite(np.diagonal(of_labels))
        if keep.sum() < 2:
            note(fig.subplots(), "fewer than two types are defined in the labels")
            return
        order = np.flatnonzero(keep)[cluster_order(of_labels[np.ix_(keep, keep)])]
        names = short_names([types[i] for i in order])
        panels = {"labels": of_labels}
        for model in models:
            own = pick(rows, model=model)
            own = pick(own, variant=own["variant"].iloc[0])
            panels[f"{model}\n{_similarity(own)}"] = as_matrix(pick(own, metric="morans_r"), types)
        axes = fig.subplots(down, across, squeeze=False).ravel()
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        for ax, (title, matrix) in zip(axes, panels.items(), strict=False):
            draw_matrix(fig, ax, matrix[np.ix_(order, order)], names, title)
        dropped = [name for name, defined in zip(types, keep, strict=True) if not defined]
        heading(
            fig,
            f"{experiment}, {cohort}: Moran's R of {len(names)} types over {int(maps['n'].max())} observations, "
            "one order, clustered on the labels; diagonal not drawn, each map has a scale of its own"
            + (f"\nundefined: {', '.join(dropped)}" if dropped else ""),
        )


def _similarity(rows: pd.DataFrame) -> str:
    value = pick(rows, gene_set=_FORM).groupby("metric")["value"].first()
    cosine, correlation = (number(value.get(f"coloc_{name}", math.nan), 2) for name in ("cosine", "correlation"))
    return f"by row, diagonal 1: cosine {cosine}, correlation {correlation}"
