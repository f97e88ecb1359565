"""The leakage guard on patient ids, and the choice of validation patients.

A patient's id is global: the same person has one id in every cohort, so one comparison finds overlap within
and across cohorts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.folds.seeds import rng_for
from histoloom.folds.splits import ALL
from histoloom.obs_keys import section_keys

MIN_PATIENTS_FOR_SELECTION = 3  # PROTOCOLS, "Selection and scaling"


def _patients(table: pd.DataFrame, role: str) -> list[str]:
    return list(dict.fromkeys(table.loc[table["role"] == role, "patient"]))


def find_overlap(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return every patient who is on both sides of a fold, with the sections on each side."""
    # An observation-level table has a row per spot; the message names sections only.
    sections = table[["fold", "cohort", "sample", "patient", "role"]].drop_duplicates()
    overlaps = []
    for fold, rows in sections.groupby("fold", sort=False):
        tested = set(_patients(rows, "test"))
        for patient in _patients(rows, "train"):
            if patient in tested:
                own = rows[rows["patient"] == patient]
                sides = {r: list(dict.fromkeys(section_keys(own[own["role"] == r]))) for r in ("train", "test")}
                overlaps.append({"fold": str(fold), "patient": patient, **sides})
    return overlaps


def guard_overlap(table: pd.DataFrame, on_overlap: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Act on patients who are on both sides of a fold; return the table and each overlap with the action taken.

    `on_overlap` is ``fail``, ``drop`` (their training rows get the role dropped) or ``allow``.
    """
    overlap = find_overlap(table)
    if overlap and on_overlap == "fail":
        shown = "; ".join(
            f"{o['patient']} ({o['fold']}: trained on {', '.join(o['train'])}, tested on {', '.join(o['test'])})"
            for o in overlap[:8]
        )
        rest = f"; and {len(overlap) - 8} more" if len(overlap) > 8 else ""
        remedy = (
            "split by patient (leave_one_patient_out), or set `on_overlap: drop` to leave them out of training, or "
            "`on_overlap: allow` to stamp the overlap on every number (splits through patients need it)."
        )
        problem = f"patients are on both sides of a fold: {shown}{rest}."
        raise InputError("folds", problem, remedy, code="folds-overlap")
    if on_overlap == "drop":
        table = table.copy()
        shared = pd.MultiIndex.from_tuples([(item["fold"], item["patient"]) for item in overlap] or [("", "")])
        hit = pd.MultiIndex.from_frame(table[["fold", "patient"]]).isin(shared) & (table["role"] == "train")
        table.loc[hit, "role"] = "dropped"
    action = {"drop": "dropped from training", "allow": "allowed"}.get(on_overlap, on_overlap)
    return table, [{**item, "action": action} for item in overlap]


def check_sides(table: pd.DataFrame, on_overlap: str) -> None:
    """Check that every fold has a training and a test patient (``all`` needs training only)."""
    for fold, rows in table.groupby("fold", sort=False):
        for role, word in (("train", "training"), ("test", "test")):
            if not _patients(rows, role) and not (fold == ALL and role == "test"):
                dropped = _patients(rows, "dropped")
                why = f" (dropped: {', '.join(dropped)})" if dropped and on_overlap == "drop" else ""
                problem = f"no {word} patient is left{why}."
                remedy = "add sections of another patient, fix the sheet's `patient`, or change split or on_overlap."
                raise InputError(f"fold '{fold}'", problem, remedy, code="folds-side-empty")


VAL_SHARE = 0.2
"""Share of the observations of each training section that `val_spots` holds out, as CMRCNet and BLEEP do."""


def hold_out_spots(table: pd.DataFrame, obs: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, dict[str, str]]:
    """Give a fifth of the observations of every training section the role val, each fold by a draw of its own.

    They are neighbours of training observations, of the same patients: a choice of epochs that fits the training side
    more than new patients. Nothing of the test side is seen.
    """
    if table["obs_id"].notna().any():
        remedy = "use `selection: val_patient`, inner_cv or fixed."
        problem = "val_spots is for splits that take sections whole."
        raise InputError("selection", problem, remedy, code="val-spots-split")
    ids = {key: part["obs_id"] for key, part in obs.groupby(["cohort", "sample"], sort=False, observed=True)}
    added = []
    for row in table[(table["role"] == "train") & (table["fold"] != ALL)].to_dict("records"):
        own = ids[row["cohort"], row["sample"]].to_numpy(object)
        rng = rng_for(seed, "val_spots", str(row["fold"]), str(row["cohort"]), str(row["sample"]))
        chosen = np.sort(rng.permutation(len(own))[: int(VAL_SHARE * len(own))])
        added.append(pd.DataFrame({**row, "obs_id": own[chosen], "role": "val"}))
    notes = {str(fold): f"{VAL_SHARE:.0%} of each training section" for fold in table["fold"].unique() if fold != ALL}
    return pd.concat([table, *added], ignore_index=True), notes


def choose_validation(table: pd.DataFrame, selection: str, seed: int) -> tuple[pd.DataFrame, dict[str, str]]:
    """Give one training patient per fold the role val, where selection asks for it; also return in words what was done.

    The patient is drawn by a stream of the fold's own among those who are not tested too, if there are such.
    """
    if selection != "val_patient":
        return table, {}
    table, notes = table.copy(), {}
    for fold, rows in table.groupby("fold", sort=False):
        train = sorted(_patients(rows, "train"))
        if fold == ALL:
            notes[str(fold)] = "none: everyone trains; epochs and alpha are the median of the other folds' choices"
            continue
        if len(train) < MIN_PATIENTS_FOR_SELECTION:
            notes[str(fold)] = f"none: {len(train)} training patient{'s' * (len(train) != 1)}, fixed epochs and alpha"
            continue
        pool = [patient for patient in train if patient not in set(_patients(rows, "test"))] or train
        chosen = pool[int(rng_for(seed, "validation", str(fold)).integers(len(pool)))]
        hit = (table["fold"] == fold) & (table["patient"] == chosen) & (table["role"] == "train")
        table.loc[hit, "role"] = "val"
        notes[str(fold)] = chosen
    return table, notes
