"""How epochs and penalties are chosen: the rule of each fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median_low
from typing import Any

from histoloom.folds import ALL
from histoloom.folds.guard import MIN_PATIENTS_FOR_SELECTION
from histoloom.models.base import FoldData, Rule


def rule_of(selection: str, fold: str, train_patients: int, val_patients: Sequence[str]) -> tuple[Rule, str]:
    """Return how a fold's epochs or penalty are chosen, and why, in words.

    `train_patients` counts those on its training side, validation included.
    """
    count = "one training patient" if train_patients == 1 else f"{train_patients} training patients"
    if selection == "fixed":
        return "fixed", "fixed"
    if selection == "inner_cv":
        if train_patients >= MIN_PATIENTS_FOR_SELECTION:
            return "inner_cv", "inner_cv over training patients"
        return "fixed", f"fixed: no validation with {count}"
    if fold == ALL:
        return "median", "median of the folds' choices"
    if selection == "test_as_published":
        return "val", "test_as_published: on the test observations"
    if selection == "val_spots":
        return "val", "val_spots: on a fifth of the training sections' observations"
    if val_patients:
        return "val", f"val_patient {val_patients[0]}"
    return "fixed", f"fixed: no validation with {count}"


def median_of(data: FoldData, key: str) -> Any:
    """Return the median of what other folds chose by validation; None if none did."""
    values = [value for c in data.earlier for value in (c[key] if isinstance(c[key], list) else [c[key]])]
    return median_low(values) if values else None


def choose(data: FoldData, key: str, default: Any, by_score: Callable[[], Any]) -> dict[str, Any]:
    """Return ``how`` and a setting's value by the fold's rule.

    `by_score` finds the best value on validation rows or inner folds; called only if the rule asks for it.
    """
    if data.rule == "median":
        value = median_of(data, key)
        if value is None:
            return {"how": "fixed: no fold had a validation", key: default}
        return {"how": data.how, key: value}
    return {"how": data.how, key: default if data.rule == "fixed" else by_score()}


def validated(choices: Mapping[str, Any]) -> bool:
    """Whether choices were made by validation."""
    return not str(choices["how"]).startswith(("fixed", "median", "nothing"))
