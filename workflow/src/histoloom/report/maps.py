"""Cell types over the slide, label next to prediction, and the rank of types in training and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.metrics.score import read_predictions, train_means
from histoloom.metrics.scored import Scored
from histoloom.report.style import PALETTE, crop, figure, frame_of, note, save, scale_bar, short_names, show_map
from histoloom.report.thumbnails import find_section, read_thumbnail
from histoloom.stats import pearson_columns

_SHARE_OF_PITCH = 0.9


def section_scores(scored: Scored) -> pd.DataFrame:
    """Return the mean CC over types of each tested section: fold, cohort, sample, patient, qc_flag, value, index."""
    by = ["fold", "cohort", "sample", "patient", "qc_flag"]
    rows = []
    for key, index in sorted(scored.obs.groupby(by, observed=True, sort=True).indices.items()):
        r, _ = pearson_columns(scored.prediction[index], scored.reference["labels"][index])
        value = float(np.nanmean(r)) if np.isfinite(r).any() else float("nan")
        rows.append(
            {**dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True)), "value": value, "index": index}
        )
    return pd.DataFrame(rows)


def median_section(scored: Scored) -> tuple[str, str, str, np.ndarray]:
    """Return fold, cohort, sample and positions of the section whose CC is the median one: neither best nor worst."""
    scores = section_scores(scored)
    pool = scores[scores["qc_flag"] == ""]
    pool = pool if len(pool) else scores
    pool = pool.assign(value=pool["value"].fillna(-2)).sort_values(["value", "cohort", "sample", "fold"])
    row = pool.iloc[(len(pool) - 1) // 2]
    return row["fold"], row["cohort"], row["sample"], row["index"]


def choose_types(types: Sequence[str], r: np.ndarray, most: int = 4) -> list[int]:
    """Return the best and the worst predicted type and some evenly between: successes and failures alike."""
    defined = np.flatnonzero(np.isfinite(r))
    order = defined[np.argsort(-r[defined], kind="stable")]
    if not len(order):
        return list(range(min(most, len(types))))
    return [
        int(order[i]) for i in dict.fromkeys(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))
    ]


def _side(obs: pd.DataFrame, xy: np.ndarray) -> float:
    """Return the side of a square that nearly touches its neighbours, level-0 px."""
    from scipy.spatial import cKDTree

    if len(xy) < 2:
        return 200.0
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]
    return float(np.median(nearest)) * _SHARE_OF_PITCH


def _positions(path: Path, index: np.ndarray) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as handle:
        return np.asarray(handle["obsm/spatial"], dtype=np.float64)[index]


def draw_maps(
    *,
    experiment: str,
    model: str,
    predictions: Path,
    samples: Sequence[Path],
    out: Path,
    section: tuple[str, str] | None = None,
    types: Sequence[str] | None = None,
) -> None:
    """Draw label and prediction over a held-out section (figure A1a of the decomposition paper).

    Parameters
    ----------
    experiment, model
        Names, for the title.
    predictions
        The model's prediction artefact.
    samples
        Section artefacts; the one drawn must be among them.
    out
        png.
    section
        (cohort, sample); None: the section with the median CC.
    types
        Cell types; None: the best and the worst predicted and two between.

    Raises
    ------
    InputError
        If the section or a type was not predicted.
    """
    scored = read_predictions(predictions)
    fold, cohort, sample, index = median_section(scored)
    if section is not None:
        scores = section_scores(scored)
        chosen = scores[(scores["cohort"] == section[0]) & (scores["sample"] == section[1])]
        if chosen.empty:
            raise InputError(
                predictions, f"holds no prediction of {section[0]}/{section[1]}.", "name a tested section."
            )
        fold, cohort, sample, index = chosen[["fold", "cohort", "sample", "index"]].iloc[0]
    label, predicted = scored.reference["labels"][index], scored.prediction[index]
    r, _ = pearson_columns(predicted, label)
    missing = [name for name in types or [] if name not in scored.types]
    if missing:
        raise InputError(predictions, f"has no type '{missing[0]}'.", f"use: {', '.join(scored.types)}.")
    columns = [scored.types.index(name) for name in types] if types else choose_types(scored.types, r)
    thumbnail = read_thumbnail(find_section(samples, cohort, sample))
    xy = _positions(predictions, index)
    side = _side(scored.obs.iloc[index], xy)
    frame = frame_of(xy, side, thumbnail.image, thumbnail.scale)
    aspect = (frame[3] - frame[2]) / (frame[1] - frame[0])
    width = 2.9
    units = str(scored.metadata.get("units", ""))
    with figure(width * len(columns) + 0.4, 2 * ((width - 0.6) * aspect + 0.35) + 0.75) as fig:
        axes = fig.subplots(2, len(columns), squeeze=False)
        ranks = {w: _ranks(v) for w, v in (("label", label), ("prediction", predicted))}
        for at, column in enumerate(columns):
            # One scale for both: a prediction that is too low or too flat must look so.
            both = np.concatenate([label[:, column], predicted[:, column]])
            high = float(np.nanquantile(both, 0.99))
            # Labels give the lower end: a few negative predictions of a linear model must not spoil the scale.
            low = min(0.0, float(np.nanmin(label[:, column])))
            limits = (low, high if high > low else low + 1.0)
            for line, (what, values) in enumerate((("label", label), ("prediction", predicted))):
                ax = axes[line, at]
                shown = values[:, column]
                drawn = show_map(ax, thumbnail.image, thumbnail.scale, xy, shown, side, limits)
                crop(ax, frame)
                bar = fig.colorbar(drawn, ax=ax, shrink=0.75, pad=0.01, extend="both" if shown.min() < low else "max")
                bar.outline.set_visible(False)
                rank = f"rank {ranks[what][column]} of {len(scored.types)}"
                score = f", r = {r[column]:.2f}" if line and np.isfinite(r[column]) else ", r undefined" if line else ""
                ax.set_title(
                    (f"{scored.types[column]}\n" if not line else "") + f"{what} ({rank}{score})", fontsize=8.5
                )
                if thumbnail.um_per_px and not line and not at:
                    scale_bar(ax, 1000, thumbnail.um_per_px)
        fig.suptitle(
            f"{experiment}, {model}: section {sample} of {cohort}, held out in fold {fold}, {len(index)} spots; "
            f"abundance in {units or 'units of the labels'}, label and prediction on one scale",
            x=0.01, ha="left", fontsize=9.5,
        )  # fmt: skip
        save(fig, out)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks of columns by mean, 1 = most abundant."""
    from scipy.stats import rankdata

    return rankdata(-np.nanmean(values, axis=0), method="ordinal").astype(int)


def draw_ranks(
    *, experiment: str, model: str, predictions: Path, target: Path, folds: Path, out: Path, most: int = 30
) -> None:
    """Draw the rank of types by abundance in training, in test and as predicted (decomposition paper, section 3.1).

    Parameters
    ----------
    experiment, model
        Names, for the title.
    predictions, target, folds
        Artefacts of the experiment. The fold shown is that of the median section.
    out
        png.
    most
        Types shown at most, the most abundant in training.
    """
    scored = read_predictions(predictions)
    fold, _, _, _ = median_section(scored)
    means, _ = train_means(target, folds)
    at = (scored.obs["fold"] == fold).to_numpy()
    train = means.loc[fold].to_numpy(dtype=float)
    columns = [train, scored.reference["labels"][at].mean(axis=0), scored.prediction[at].mean(axis=0)]
    ranks = [_ranks(column[None, :]) for column in columns]
    shown = [int(i) for i in np.argsort(ranks[0]) if ranks[0][i] <= most]
    with figure(7.4, 1.4 + 0.22 * max(len(shown), 6)) as fig:
        ax = fig.subplots()
        if not shown:
            note(ax, "no type")
            save(fig, out)
            return
        shift = np.asarray([abs(int(ranks[0][i]) - int(ranks[1][i])) for i in shown])
        marked = set(np.argsort(-shift, kind="stable")[: min(4, len(shown))]) if shift.max() > 0 else set()
        for number, i in enumerate(shown):
            strong = number in marked and shift[number] > 0
            ax.plot(
                range(3), [rank[i] for rank in ranks], "-o", ms=3.5, lw=1.8 if strong else 0.9,
                color=PALETTE[sorted(marked).index(number) % 6] if strong else "#B5B5B5", zorder=3 if strong else 2,
            )  # fmt: skip
        left, right = (sorted(shown, key=lambda i: ranks[k][i]) for k in (0, 2))
        for order, k, x, side in ((left, 0, -0.05, "right"), (right, 2, 2.05, "left")):
            for i, name in zip(order, short_names([scored.types[i] for i in order], 26), strict=True):
                text = f"{name}  {ranks[k][i]}" if side == "right" else f"{ranks[k][i]}  {name}"
                ax.text(x, ranks[k][i], text, ha=side, va="center", fontsize=7.5)
        patients = scored.obs.loc[at, "patient"].nunique()
        ax.set_xticks(
            range(3), ["labels,\ntraining", f"labels,\ntest (n = {int(at.sum())} spots)", "prediction,\ntest"]
        )
        ax.set_xlim(-1.15, 3.15)
        ax.set_ylim(max(ranks[k][i] for k in range(3) for i in shown) + 0.8, 0.2)
        ax.set_yticks([])
        ax.spines[["left", "bottom"]].set_visible(False)
        fig.suptitle(
            f"{experiment}, {model}: rank of {len(shown)} types by mean abundance\n"
            f"fold {fold}, {patients} test patient{'s' if patients != 1 else ''}; coloured: the largest shifts",
            x=0.01, ha="left", fontsize=9.5,
        )  # fmt: skip
        save(fig, out)
