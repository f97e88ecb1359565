"""Intervals of scores of classes by bootstrap over spatial blocks: cells of one place resemble one another.

A draw takes as many blocks of each section as it has, with replacement; scores are formed from the blocks' confusion
matrices and averaged over sections and patients as the score itself is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.folds.seeds import rng_for
from histoloom.obs_keys import section_keys
from histoloom.stats import Floats, mean_defined

MIN_BLOCKS = 10
"""With fewer blocks in a cohort no interval is given."""
DRAWS = 1000
Codes = npt.NDArray[np.intp]


def blocks_of(obs: pd.DataFrame, block_um: float) -> npt.NDArray[np.object_] | None:
    """Return the square block ``i_j`` of each observation (n,); None where positions in um are not known."""
    if not {"x", "y", "um_per_px"} <= set(obs) or obs[["x", "y", "um_per_px"]].isna().to_numpy().any():
        return None
    um = obs[["x", "y"]].to_numpy(np.float64) * obs[["um_per_px"]].to_numpy(np.float64)
    number = np.floor(um / block_um).astype(int)
    return np.array([f"{i}_{j}" for i, j in number], dtype=object)


@dataclass(frozen=True)
class BlockDraws:
    """Resampled blocks of sections: the same draws serve every model and both sides of a pair.

    `block` (n,) is the number of each observation's block in its section, `weights` by section (draws, blocks).
    """

    section: npt.NDArray[np.object_]
    block: Codes
    weights: Mapping[str, npt.NDArray[np.float64]]

    @property
    def n_blocks(self) -> int:
        return sum(weights.shape[1] for weights in self.weights.values())


def draw_blocks(obs: pd.DataFrame, block_um: float, seed: int, draws: int = DRAWS) -> BlockDraws | None:
    """Return `draws` resamplings of the blocks of each section; None where positions are not known.

    The first row of each section's weights is 1: the observations as they are.
    """
    names = blocks_of(obs, block_um)
    if names is None:
        return None
    section, block, weights = section_keys(obs).to_numpy(object), np.zeros(len(obs), np.intp), {}
    for name in sorted(set(section)):
        own = section == name
        block[own], seen = pd.factorize(names[own], sort=True)
        drawn = rng_for(seed, "blocks", name).multinomial(len(seen), np.full(len(seen), 1 / len(seen)), draws)
        weights[name] = np.vstack([np.ones(len(seen)), drawn.astype(np.float64)])
    return BlockDraws(section, block, weights)


def scores_by_draw(drawn: BlockDraws, rows: Codes, label: Codes, guess: Codes, n_classes: int) -> Floats:
    """Return scores of some observations of one section, (draws + 1, classes + 3).

    Columns: F1 of each class (NaN where the draw has none of it), macro F1, balanced accuracy, accuracy.
    """
    weights = drawn.weights[str(drawn.section[rows[0]])]
    cell = (drawn.block[rows] * n_classes + label[rows]) * n_classes + guess[rows]
    counts = np.bincount(cell, minlength=weights.shape[1] * n_classes**2).reshape(weights.shape[1], -1)
    confusion = (weights @ counts).reshape(-1, n_classes, n_classes)
    right, true = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2)
    nan = np.full_like(right, np.nan)
    f1 = np.divide(2 * right, true + confusion.sum(axis=1), out=nan.copy(), where=true > 0)
    recall = np.divide(right, true, out=nan, where=true > 0)
    total = confusion.sum(axis=(1, 2))
    accuracy = np.divide(right.sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)
    return np.column_stack([f1, mean_defined(f1, 1), mean_defined(recall, 1), accuracy])


def cohort_scores(
    drawn: BlockDraws, obs: pd.DataFrame, label: Codes, guess: Codes, n_classes: int
) -> dict[str, Floats]:
    """Return scores of each cohort, (draws + 1, classes + 3), in the order of means of the headline.

    Folds that test a section, sections of a patient, patients; flagged sections are left out.
    """
    plain = obs[obs["qc_flag"] == ""].reset_index()
    by_cohort: dict[str, Floats] = {}
    for cohort, own in plain.groupby("cohort", observed=True, sort=True):
        patients = []
        for _, patient in own.groupby("patient", observed=True, sort=True):
            sections = []
            for _, section in patient.groupby("sample", observed=True, sort=True):
                folds = [
                    scores_by_draw(drawn, part["index"].to_numpy(np.intp), label, guess, n_classes)
                    for _, part in section.groupby("fold", observed=True, sort=True)
                ]
                sections.append(mean_defined(np.stack(folds)))
            patients.append(mean_defined(np.stack(sections)))
        by_cohort[str(cohort)] = mean_defined(np.stack(patients))
    return by_cohort


def columns_of(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return (metric, class) of the columns of scores."""
    return [*(("f1", name) for name in classes), *((m, "") for m in ("macro_f1", "balanced_accuracy", "accuracy"))]


def interval_rows(
    obs: pd.DataFrame, label: Codes, guess: Codes, classes: Sequence[str], block_um: float, seed: int
) -> pd.DataFrame:
    """Return rows ``<metric>_low`` and ``<metric>_high``, 95 % intervals, of each cohort; ``n`` counts blocks.

    `obs` (index 0..n-1) has cohort, patient, sample, fold, qc_flag, x, y and um_per_px. Cohorts with fewer than
    `MIN_BLOCKS` blocks have none.
    """
    rows: list[dict[str, object]] = []
    plain = obs[obs["qc_flag"] == ""]
    for cohort, part in plain.groupby("cohort", observed=True, sort=True):
        index, own = part.index.to_numpy(np.intp), part.reset_index(drop=True)
        drawn = draw_blocks(own, block_um, seed)
        if drawn is None or drawn.n_blocks < MIN_BLOCKS:
            continue
        scores = cohort_scores(drawn, own, label[index], guess[index], len(classes)).get(str(cohort))
        if scores is None:
            continue
        low, high = _quantiles(scores[1:])
        for (metric, target), *ends in zip(columns_of(classes), low, high, strict=True):
            place = {"cohort": str(cohort), "target": target, "aggregation": "cohort", "n": drawn.n_blocks}
            rows += [
                {**place, "metric": f"{metric}_{end}", "value": value, "n_nan": int(np.isnan(value))}
                for end, value in zip(("low", "high"), ends, strict=True)
            ]
    return pd.DataFrame(rows)


def _quantiles(values: Floats) -> tuple[Floats, Floats]:
    """Return the 2.5 % and 97.5 % quantiles of each column over the draws that define it."""
    ends = np.full((2, values.shape[1]), np.nan)
    for column in np.flatnonzero(np.isfinite(values).any(axis=0)):
        ends[:, column] = np.nanpercentile(values[:, column], [2.5, 97.5])
    return ends[0], ends[1]
