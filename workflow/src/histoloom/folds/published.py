"""Folds that somebody published: pairs of tables ``train_<i>.csv``, ``test_<i>.csv`` that name sections.

The format is HEST-bench's (columns sample_id, patches_path, expr_path); only ``sample_id`` is read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from histoloom.errors import InputError
from histoloom.folds.splits import Rows, Spec, Split, sections_of, whole_samples

logger = logging.getLogger(__name__)

SIDES = ("train", "test")


def read_splits(paths: Sequence[Path]) -> list[dict[str, list[str]]]:
    """Return per fold the samples by side, from train_0.csv, test_0.csv, train_1.csv and so on."""
    folds: list[dict[str, list[str]]] = []
    for i in range(0, len(paths), len(SIDES)):
        fold = {side: _samples(Path(path)) for side, path in zip(SIDES, paths[i : i + 2], strict=True)}
        both = sorted(set(fold["train"]) & set(fold["test"]))
        if both:
            problem = f"{', '.join(both)} is in training too ({paths[i]})."
            raise InputError(paths[i + 1], problem, "fetch both again.", "folds-published-both-sides")
        folds.append(fold)
    return folds


def _samples(path: Path) -> list[str]:
    try:
        table = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        problem = f"is no readable table of a split ({error})."
        raise InputError(path, problem, "fetch it again.", "folds-published-unreadable") from error
    if "sample_id" not in table or table["sample_id"].isna().any() or not len(table):
        problem = "has no column sample_id, or empty cells in it."
        raise InputError(path, problem, "fetch it again.", "folds-published-columns")
    return [str(name) for name in table["sample_id"]]


class _Published:
    """Folds as published, restricted to the sections that take part."""

    def ids(self, spec: Spec, rows: Rows) -> list[str]:
        del rows
        return [f"published-{i}" for i in range(len(spec["published_folds"]))]

    def assign(self, spec: Spec, obs: pd.DataFrame, seed: int) -> pd.DataFrame:
        del seed  # nothing is drawn
        rows = sections_of(obs)
        known = {row["sample"]: row for row in rows}
        if len(known) < len(rows):
            problem = "two cohorts have a section of the same name."
            raise InputError("published split", problem, "give one cohort.", "folds-published-section-twice")
        tables = []
        for name, fold in zip(self.ids(spec, rows), spec["published_folds"], strict=True):
            absent = [s for side in SIDES for s in fold[side] if s not in known]
            if absent:
                logger.warning("%s: not in this run: %s", name, ", ".join(absent))
            roles = [(known[s], side) for side in SIDES for s in fold[side] if s in known]
            if absent and {side for _, side in roles} != set(SIDES):
                logger.warning("%s: left out, one side has no section in this run", name)
                continue
            tables.append(whole_samples(name, roles))
        if not tables:
            problem = "no fold has sections on both sides."
            raise InputError("published split", problem, "use more of the sections.", "folds-published-none")
        return pd.concat(tables, ignore_index=True)


def coverage(folds: Sequence[Mapping[str, Sequence[str]]], present: Sequence[str]) -> str:
    """Return ``as published`` if all published sections take part and each is tested once, else what is missing."""
    named = {s for fold in folds for side in SIDES for s in fold[side]}
    tested = [s for fold in folds for s in fold["test"]]
    left_out = sorted(named - set(present))
    untested = sorted(named - set(tested))
    again = sorted({s for s in tested if tested.count(s) > 1})
    remarks = [
        f"{what} {', '.join(names)}"
        for what, names in (("without", left_out), ("never tested", untested), ("tested more than once", again))
        if names
    ]
    return "; ".join(remarks) or "as published"


published: Split = _Published()
