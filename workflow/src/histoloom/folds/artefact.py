"""The fold artefact: written once, read by training and prediction, which never make a split of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from histoloom.artefacts import identities_of, read_elements, read_metadata, write_parquet
from histoloom.errors import InputError
from histoloom.folds.comparisons import add_drops, check_compared, describe, drop_ids
from histoloom.folds.guard import check_sides, choose_validation, find_overlap, guard_overlap, hold_out_spots
from histoloom.folds.published import coverage, read_splits
from histoloom.folds.splits import ALL, COLUMNS, DELIBERATE, Rows, Spec, Split, fold_all
from histoloom.identity import make_identity
from histoloom.kinds import load

# Splits that cut through sections.
_OBSERVATION_SPLITS = frozenset({"random", "random_stratified", "spatial_block", "paired_leakage"})


def fold_ids(spec: Spec, rows: Rows) -> list[str]:
    """Return the fold names of an experiment with these sections, ``all`` last, as its fold file will hold them.

    A split that leaks on purpose has no fold ``all``, so that no new slide is predicted with it. A transfer's
    added folds are left out where too few observations are unshared for them.
    """
    split: Split = load("splits", spec["split"])
    names = [*split.ids(spec, rows), *drop_ids(spec, rows)]
    return names if spec["split"] in DELIBERATE else [*names, ALL]


def build_folds(spec: Mapping[str, Any], obs: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the fold table of an experiment and its facts.

    `obs` has cohort, sample, patient, obs_id, array_row, array_col, pitch_um and, for classes, label; the seed is that
    of random splits and of the validation patient.
    """
    if not len(obs):
        raise InputError(
            "folds", "the target has no observation.", "see the counts in the target's log.", "folds-no-observation"
        )
    split: Split = load("splits", spec["split"])
    selection = spec["selection"]
    table = split.assign(spec, obs, seed)
    if spec["split"] in DELIBERATE:
        # Half of these folds leak on purpose; which, and that the others do not, is checked below.
        overlap = [{**item, "action": "deliberate"} for item in find_overlap(table)]
        check_sides(table, spec["on_overlap"])
        validation: dict[str, str] = {}
    else:
        table, overlap = guard_overlap(table, spec["on_overlap"])
        table = pd.concat([table, fold_all(obs)], ignore_index=True)
        check_sides(table, spec["on_overlap"])
        if selection == "val_spots":
            table, validation = hold_out_spots(table, obs, seed)
        else:
            table, validation = choose_validation(table, selection, seed)
        everyone = table["fold"] == ALL
        table = pd.concat([add_drops(spec, table[~everyone], obs, seed), table[everyone]], ignore_index=True)
    compared = describe(spec, table, obs)
    check_compared(compared, table, obs)
    facts = {
        "split": spec["split"],
        "on_overlap": spec["on_overlap"],
        "level": "observation" if spec["split"] in _OBSERVATION_SPLITS else "sample",
        "selection": selection,
        "overlap": overlap,
        "overlap_patients": sorted({item["patient"] for item in overlap}),
        "validation": validation,
        "compared": compared,
        "n_patients": {
            str(fold): {role: int(part["patient"].nunique()) for role, part in rows.groupby("role")}
            for fold, rows in table.groupby("fold", sort=False)
        },
    }
    return table[COLUMNS], facts


def make_folds(*, spec: Mapping[str, Any], target: Path, seed: int, out: Path, splits: Sequence[Path] = ()) -> None:
    """Write ``folds/{experiment}.parquet``.

    Columns are fold, cohort, sample, patient, obs_id (null: the whole sample), block, role (train, val, test, dropped).
    `splits` are published tables of the folds, for split ``published``: train_0.csv, test_0.csv, train_1.csv and so on.
    """
    obs = read_elements(target, ["obs"])["obs"]
    for column in ("cohort", "sample", "patient", "obs_id"):
        obs[column] = obs[column].astype(str)
    params = {key: value for key, value in spec.items() if key not in {"name", "seed"}}
    folds = read_splits(splits) if splits else []
    table, facts = build_folds({**spec, "published_folds": folds}, obs, seed)
    if folds:
        facts["published"] = coverage(folds, sorted(set(obs["sample"])))
    used = identities_of({"target": target, **({"splits": splits} if splits else {})})
    facts["identity"] = make_identity("folds", params, used, seed)
    for column in COLUMNS:
        table[column] = table[column].astype("string")
    write_parquet(table, out, facts)


def read_folds(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the fold table (obs_id and block None where null) and its metadata."""
    table = pd.read_parquet(path).astype(object)
    return table.where(table.notna(), None), read_metadata(path)
