"""Folds and the leakage guard: who trains, who validates, who is tested, written once."""

from histoloom.folds.artefact import build_folds, fold_ids, make_folds, read_folds
from histoloom.folds.comparisons import check_compared, control_folds, is_compared
from histoloom.folds.roles import roles_of
from histoloom.folds.splits import ALL, DELIBERATE

__all__ = [
    "ALL",
    "DELIBERATE",
    "build_folds",
    "check_compared",
    "control_folds",
    "fold_ids",
    "is_compared",
    "make_folds",
    "read_folds",
    "roles_of",
]
