"""The leakage guard on patient ids, and the choice of validation patients.

A patient's id is global: the same person has one id in every cohort, so one comparison finds overlap within
and across cohorts.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from histoloom.errors import InputError
from histoloom.folds.seeds import rng_for
from histoloom.folds.splits import ALL
from histoloom.obs_keys import section_keys

MIN_PATIENTS_FOR_SELECTION = 3  # PROTOCOLS, "Selection and scaling"


def _patients(table: pd.DataFrame, role: str) -> list[str]:
    return list(dict.fromkeys(table.loc[table["role"] == role, "patient"]))


def _samples(table: pd.DataFrame, role: str, patient: str) -> list[str]:
    rows = table[(table["role"] == role) & (table["patient"] == patient)]
    return list(dict.fromkeys(section_keys(rows)))


def find_overlap(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return every patient who is on both sides of a fold, with the sections on each side.

    Parameters
    ----------
    table
        Fold table with columns fold, cohort, sample, patient, role.
    """
    # An observation-level table has a row per spot; the message names sections only.
    sections = table[["fold", "cohort", "sample", "patient", "role"]].drop_duplicates()
    overlaps = []
    for fold, rows in sections.groupby("fold", sort=False):
        tested = set(_patients(rows, "test"))
        for patient in _patients(rows, "train"):
            if patient in tested:
                sides = {role: _samples(rows, role, patient) for role in ("train", "test")}
                overlaps.append({"fold": str(fold), "patient": patient, **sides})
    return overlaps


def guard_overlap(table: pd.DataFrame, on_overlap: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Act on patients who are on both sides of a fold.

    Parameters
    ----------
    table
        Fold table.
    on_overlap
        ``fail``, ``drop`` (their training rows get the role dropped) or ``allow``.

    Returns
    -------
    tuple
        The table and the overlap found, each with the action taken.

    Raises
    ------
    InputError
        Under ``fail``, naming patients and sections.
    """
    overlap = find_overlap(table)
    if overlap and on_overlap == "fail":
        shown = "; ".join(
            f"{item['patient']} ({item['fold']}: trained on {', '.join(item['train'])}, "
            f"tested on {', '.join(item['test'])})"
            for item in overlap[:8]
        )
        rest = f"; and {len(overlap) - 8} more" if len(overlap) > 8 else ""
        raise InputError(
            "folds",
            f"patients are on both sides of a fold: {shown}{rest}.",
            "split by patient (leave_one_patient_out), or set `on_overlap: drop` to leave them out of training, "
            "or `on_overlap: allow` to go on with the overlap stamped on every number (leave_one_sample_out, random "
            "and spatial_block need it).",
        )
    if on_overlap == "drop":
        table = table.copy()
        shared = pd.MultiIndex.from_tuples([(item["fold"], item["patient"]) for item in overlap] or [("", "")])
        hit = pd.MultiIndex.from_frame(table[["fold", "patient"]]).isin(shared) & (table["role"] == "train")
        table.loc[hit, "role"] = "dropped"
    action = {"drop": "dropped from training", "allow": "allowed"}.get(on_overlap, on_overlap)
    return table, [{**item, "action": action} for item in overlap]


def check_sides(table: pd.DataFrame, on_overlap: str) -> None:
    """Check that every fold has a training and a test patient (``all`` needs training only).

    Raises
    ------
    InputError
        Naming the fold.
    """
    for fold, rows in table.groupby("fold", sort=False):
        for role, word in (("train", "training"), ("test", "test")):
            if not _patients(rows, role) and not (fold == ALL and role == "test"):
                dropped = _patients(rows, "dropped")
                why = f" (dropped: {', '.join(dropped)})" if dropped and on_overlap == "drop" else ""
                raise InputError(
                    f"fold '{fold}'",
                    f"no {word} patient is left{why}.",
                    "add sections of another patient, fix the sheet's `patient` column, or choose another split "
                    "or on_overlap.",
                )


def choose_validation(table: pd.DataFrame, selection: str, seed: int) -> tuple[pd.DataFrame, dict[str, str]]:
    """Give one training patient per fold the role val, where selection asks for it.

    The patient is drawn among the training patients who are not tested too, if there are such, by a
    stream of the fold's own.

    Returns
    -------
    tuple
        The table, and what was done per fold in words (empty for other selections).
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
