"""How epochs and alpha are chosen: rules, validation score, inner folds by patient."""

from __future__ import annotations

import numpy as np

from histoloom.folds import ALL
from histoloom.folds.guard import MIN_PATIENTS_FOR_SELECTION
from histoloom.models.base import Fold, TrainingData
from histoloom.stats import pearson_columns

_MAX_INNER = 5


def section_cc(prediction: np.ndarray, labels: np.ndarray, sections: np.ndarray) -> float:
    """Return the headline CC of validation rows: per type and section, mean over both.

    -inf where nothing can be correlated, so that it is never the best.

    Parameters
    ----------
    prediction, labels
        (n, T).
    sections
        (n,) section of each row.
    """
    means = []
    for code in np.unique(sections):
        rows = sections == code
        cc = pearson_columns(prediction[rows], labels[rows])[0]
        if np.isfinite(cc).any():
            means.append(float(np.nanmean(cc)))
    return float(np.mean(means)) if means else -np.inf


def validation_rows(data: TrainingData, fold: Fold) -> np.ndarray:
    """Return the rows a fold is validated on, empty where it is not."""
    return fold.test if data.selection == "test_as_published" else fold.val


def rule_of(data: TrainingData, fold: Fold) -> tuple[str, str]:
    """Return how a fold's epochs or alpha are chosen, and why, in words.

    Returns
    -------
    tuple
        ``fixed``, ``val``, ``inner_cv`` or ``median`` (of the other folds' choices), and the words
        for the record.
    """
    patients = len(set(data.patients[fold.train]) | set(data.patients[fold.val]))
    count = "one training patient" if patients == 1 else f"{patients} training patients"
    if data.selection == "fixed":
        return "fixed", "fixed"
    if data.selection == "inner_cv":
        if patients >= MIN_PATIENTS_FOR_SELECTION:
            return "inner_cv", "inner_cv over training patients"
        return "fixed", f"fixed: no validation with {count}"
    if fold.name == ALL:
        return "median", "median of the folds' choices"
    if data.selection == "test_as_published":
        return "val", "test_as_published: on the test observations"
    if len(fold.val):
        return "val", f"val_patient {data.patients[fold.val[0]]}"
    return "fixed", f"fixed: no validation with {count}"


def inner_folds(data: TrainingData, fold: Fold) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train, validation) row numbers, splitting a fold's training patients into at most five groups."""
    from sklearn.model_selection import GroupKFold

    groups = data.patients[fold.train]
    splitter = GroupKFold(n_splits=min(_MAX_INNER, len(set(groups))))
    return [(fold.train[a], fold.train[b]) for a, b in splitter.split(fold.train, groups=groups)]
