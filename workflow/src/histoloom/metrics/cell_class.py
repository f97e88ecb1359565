"""Scores of cell classes: precision, recall and F1 per class, macro F1, balanced accuracy, calibration, confusion.

=======================  ============================================================================================
metric                   what
=======================  ============================================================================================
``precision``, ``recall``, ``f1``  per class; undefined where the section has no observation of the class, whatever the
                         model; a class that is there and never predicted has precision 0
``macro_f1``             mean of F1 over the classes of a section
``balanced_accuracy``    mean of recall over the classes of a section
``accuracy``
``log_loss``             mean of -log of the true class's probability
``ece``                  expected calibration error: top probability against accuracy in ten bins, weighted by size
``reliability``          share of right predictions among observations whose top probability is in the bin ``target2``
``reliability_confidence``  mean top probability of the bin; the two are the reliability curve (cohort rows: pooled)
``f1_low``, ``f1_high``  ends of 95 % intervals of cohort rows, also of macro F1, balanced accuracy and accuracy
                         (`histoloom.metrics.class_intervals`); ``n`` counts spatial blocks
``confusion``            observations of class ``target`` that are predicted as ``target2`` (cohort rows: sums)
=======================  ============================================================================================

Next to macro F1, balanced accuracy, accuracy and log loss stand those of the majority class of the fold's training
observations (``..._majority``; log loss: of the classes' shares in training). Order of means: sections, then patients;
pooled over a patient's and over a cohort's observations next to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.metrics.aggregate import roll_up, to_cohort
from histoloom.metrics.class_intervals import interval_rows
from histoloom.metrics.rows import assemble, value_row
from histoloom.stats import Floats

if TYPE_CHECKING:
    from histoloom.metrics.scored import Scored

_BINS = 10
_TINY = 1e-15
_COUNTED = ("confusion", "reliability", "reliability_confidence")
"""What a cohort has over all its observations, and not as a mean of sections."""


def expected_calibration_error(probability: Floats, label: np.ndarray) -> float:
    """Return the mean gap between top probability and accuracy over ten bins of equal width, weighted by size."""
    top, hit = probability.max(axis=1), probability.argmax(axis=1) == label
    bins = np.minimum((top * _BINS).astype(int), _BINS - 1)
    gap = np.bincount(bins, weights=hit, minlength=_BINS) - np.bincount(bins, weights=top, minlength=_BINS)
    return float(np.abs(gap).sum() / len(label))


def reliability(probability: Floats, label: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield accuracy and mean top probability of each of ten bins that holds observations."""
    top, hit = probability.max(axis=1), probability.argmax(axis=1) == label
    bins = np.minimum((top * _BINS).astype(int), _BINS - 1)
    for number in np.unique(bins):
        own = bins == number
        name = {"target": "", "target2": f"{number / _BINS:.1f}-{(number + 1) / _BINS:.1f}"}
        yield value_row(name, "reliability", float(hit[own].mean()), int(own.sum()))
        yield value_row(name, "reliability_confidence", float(top[own].mean()), int(own.sum()))


def class_values(probability: Floats, label: np.ndarray, share: Floats, classes: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the metrics of one set of observations.

    `probability` is (n, classes), `label` (n,) the position of the true class, `share` (n, classes) the reference
    prediction: shares of the classes in training.
    """
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    every, present = np.arange(len(classes)), np.unique(label)
    for suffix, values in (("", probability), ("_majority", share)):
        guess = values.argmax(axis=1)
        scores = precision_recall_fscore_support(label, guess, labels=present, zero_division=0)[:3]
        total = np.clip(values.sum(axis=1, keepdims=True), _TINY, None)
        numbers = {"macro_f1": scores[2].mean(), "balanced_accuracy": scores[1].mean()}
        numbers["accuracy"], numbers["log_loss"] = (
            (guess == label).mean(),
            log_loss(label, values / total, labels=every),
        )
        if not suffix:
            numbers["ece"] = expected_calibration_error(values, label)
            for metric, by_class in zip(("precision", "recall", "f1"), scores, strict=True):
                known = dict(zip(present, by_class, strict=True))
                for i, name in enumerate(classes):
                    yield value_row({}, metric, known.get(i, np.nan), int((label == i).sum()), target=name)
            yield from reliability(values, label)
            counts = confusion_matrix(label, guess, labels=every)
            for (i, j), count in np.ndenumerate(counts):
                pair = {"target": classes[i], "target2": classes[j]}
                yield value_row(pair, "confusion", float(count), int(counts[i].sum()))
        for metric, value in numbers.items():
            yield value_row({}, metric + suffix, float(value), len(label))


def _rows(scored: Scored, probability: Floats) -> tuple[pd.DataFrame, pd.DataFrame]:
    label = scored.reference["labels"].argmax(axis=1)
    share = scored.means.loc[scored.obs["fold"]].to_numpy(dtype=float)

    def rows_of(groups: Iterator[tuple[dict[str, str], np.ndarray]]) -> pd.DataFrame:
        return pd.DataFrame(
            {**values, **place}
            for place, index in groups
            for values in class_values(probability[index], label[index], share[index], scored.types)
        )

    return rows_of(scored.sections()), rows_of(scored.pooled())


def score(scored: Scored) -> pd.DataFrame:
    sections, pooled = _rows(scored, scored.prediction)
    counts = sections["metric"].isin(_COUNTED)
    values = roll_up(sections[~counts].fillna({"target": "", "target2": ""}), types=False)
    parts = [values, sections[counts].assign(aggregation="section")]
    if len(pooled):
        # A cohort's confusion is the sum over its observations, not a mean of counts.
        counted = pooled["metric"].isin(_COUNTED)
        whole = pooled[counted & (pooled["aggregation"] == "pooled")]
        by_patient = pooled[(pooled["aggregation"] == "pooled_patient") & ~counted]
        cohort = to_cohort(by_patient.fillna({"target": "", "target2": ""}).assign(qc_flag=""))
        parts += [pooled, whole.assign(aggregation="cohort"), cohort.assign(aggregation="pooled_patient", patient="")]
    guess, seed = scored.prediction.argmax(axis=1), int(scored.spec.get("seed", 0))
    block_um = float(scored.spec.get("interval_block_um", 500))
    label = scored.reference["labels"].argmax(axis=1)
    parts.append(interval_rows(scored.obs.reset_index(drop=True), label, guess, scored.types, block_um, seed))
    for seed, probability in sorted(scored.seeds.items()):
        own = _rows(scored, probability)[0]
        own = own[own["metric"].isin(["macro_f1", "balanced_accuracy"])].assign(target="", target2="")
        own = roll_up(own, types=False)
        parts.append(own[own["aggregation"] == "cohort"].assign(train_seed=seed))
    return assemble(parts, against="labels")
