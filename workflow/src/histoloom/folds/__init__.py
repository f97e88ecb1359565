"""Folds and the leakage guard: who trains, who validates, who is tested, written once."""

from histoloom.folds.artefact import build_folds, make_folds, read_folds, roles_of
from histoloom.folds.splits import ALL, fold_ids

__all__ = ["ALL", "build_folds", "fold_ids", "make_folds", "read_folds", "roles_of"]
