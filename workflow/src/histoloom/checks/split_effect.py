"""What a split of cells flatters: the same model under two splits, on the cells that both test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.checks.base import Plan, Result, where
from histoloom.errors import InputError
from histoloom.metrics.class_intervals import MIN_BLOCKS, cohort_scores, columns_of, draw_blocks
from histoloom.metrics.scored import Scored, read_predictions
from histoloom.obs_keys import observation_keys
from histoloom.report.style import PALETTE, drawing, heading

_HERE, _THERE, _DIFFERENCE = "first", "second", "difference"


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return predictions of the models under one split, and under the other."""
    models = entry["models"] or [
        model
        for model in plan.experiments.entry(entry["experiment"])["models"]
        if model in plan.experiments.entry(entry["other_experiment"])["models"]
    ]
    return {
        role: [plan.models.first_predictions(entry[key], model) for model in models]
        for role, key in (("labels", "experiment"), ("against", "other_experiment"))
    }


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    for first, second in zip(labels, against, strict=True):
        one, other = read_predictions(first), read_predictions(second)
        yield str(one.metadata.get("model", first.parent.name)), [paired_scores(spec, one, other)], one.metadata


def paired_scores(spec: Mapping[str, Any], first: Scored, second: Scored) -> pd.DataFrame:
    """Return scores on the cells that both experiments test, and first minus second with a 95 % interval.

    Variants are ``first``, ``second`` and ``difference``; the interval is a bootstrap over spatial blocks, the same
    draws on both sides. A cell that several folds test counts once, by its first. ``n``: cells.
    """
    if first.types != second.types:
        problem = f"the classes differ: {', '.join(first.types)}, and {', '.join(second.types)}."
        raise InputError(where(spec), problem, "compare experiments with one target.", code="split-effect-classes")
    keys = [observation_keys(side.obs) for side in (first, second)]
    once = [~key.duplicated() for key in keys]
    common = pd.Index(keys[0][once[0]]).intersection(pd.Index(keys[1][once[1]]), sort=False)
    if not len(common):
        problem = "the two experiments test no cell in common."
        raise InputError(where(spec), problem, "name experiments on the same sections.", code="split-effect-cells")
    at = [np.flatnonzero(o)[pd.Index(k[o]).get_indexer(common)] for k, o in zip(keys, once, strict=True)]
    label = [side.reference["labels"][rows].argmax(axis=1) for side, rows in zip((first, second), at, strict=True)]
    if not np.array_equal(*label):
        problem = f"{int((label[0] != label[1]).sum())} of {len(common)} common cells have another class."
        raise InputError(where(spec), problem, "compare experiments with one target.", code="split-effect-labels")
    # Folds differ between the two: on common cells a section is scored as a whole.
    obs = first.obs.iloc[at[0]].reset_index(drop=True).assign(fold="")
    guess = [side.prediction[rows].argmax(axis=1) for side, rows in zip((first, second), at, strict=True)]
    return pd.DataFrame(_rows(spec, obs, label[0], guess, first.types))


def _rows(
    spec: Mapping[str, Any], obs: pd.DataFrame, label: np.ndarray, guess: Sequence[np.ndarray], classes: list[str]
) -> Iterator[dict[str, Any]]:
    for cohort, index in obs.groupby("cohort", observed=True, sort=True).indices.items():
        own = obs.iloc[index].reset_index(drop=True)
        drawn = draw_blocks(own, float(spec["block_um"]), int(spec["seed"]))
        if drawn is None:
            problem = f"cohort '{cohort}' has no positions in um."
            raise InputError(where(spec), problem, "give the sections' mpp.", code="split-effect-positions")
        sides = [cohort_scores(drawn, own, label[index], one[index], len(classes)).get(str(cohort)) for one in guess]
        if sides[0] is None or sides[1] is None:
            continue
        change = sides[0] - sides[1]
        for column, (metric, target) in enumerate(columns_of(classes)):
            place = {"cohort": str(cohort), "aggregation": "cohort", "target": target, "n": len(own)}
            values = {(_HERE, metric): sides[0][0, column], (_THERE, metric): sides[1][0, column]}
            values[_DIFFERENCE, metric] = change[0, column]
            drawn_changes = change[1:, column][np.isfinite(change[1:, column])]
            if drawn.n_blocks >= MIN_BLOCKS and len(drawn_changes):
                low, high = np.percentile(drawn_changes, [2.5, 97.5])
                values |= {(_DIFFERENCE, f"{metric}_low"): low, (_DIFFERENCE, f"{metric}_high"): high}
            for (variant, name), value in values.items():
                yield {**place, "variant": variant, "metric": name, "value": value, "n_nan": int(np.isnan(value))}


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw macro F1 of each model under both splits, and the difference with its interval."""
    whole = rows[rows["target"] == ""].set_index(["cohort", "model", "variant", "metric"])["value"].sort_index()
    lines = list(dict.fromkeys(zip(rows["cohort"], rows["model"], strict=True)))
    with drawing(out, 9.0, 1.9 + 0.42 * max(len(lines), 3)) as fig:
        left, right = fig.subplots(1, 2, sharey=True)
        for y, (cohort, model) in enumerate(lines):
            first, second = whole[cohort, model, _HERE, "macro_f1"], whole[cohort, model, _THERE, "macro_f1"]
            left.plot([first, second], [y, y], color="#B8C2CA", lw=2, zorder=1)
            # A ring around the point, so that both show where they agree.
            ring = {"ms": 10, "mfc": "none", "mew": 1.6, "color": PALETTE[0]}
            left.plot(first, y, "o", **ring, label=spec["experiment"] if y == 0 else None)
            left.plot(second, y, "o", color=PALETTE[1], label=spec["other_experiment"] if y == 0 else None)
            change = whole[cohort, model, _DIFFERENCE]
            right.plot(change["macro_f1"], y, "o", color=PALETTE[0])
            if "macro_f1_low" in change:
                right.plot([change["macro_f1_low"], change["macro_f1_high"]], [y, y], color=PALETTE[0], lw=1.5)
        several = len({cohort for cohort, _ in lines}) > 1
        left.set_yticks(range(len(lines)), [f"{m}, {c}" if several else m for c, m in lines])
        left.set_ylim(len(lines) - 0.5, -0.5)
        left.set_xlabel("macro F1 on common cells")
        left.legend(frameon=False, fontsize=8, loc="best")
        right.axvline(0, color="#777777", lw=0.8)
        right.set_xlabel(f"{spec['experiment']} minus {spec['other_experiment']}")
        count = int(rows["n"].max())
        heading(fig, f"{title}\n{count} cells that both test; 95 % intervals over blocks of {spec['block_um']:g} um")
