"""Folds that measure what a leak is worth. They stand next to an experiment's folds and never feed a headline.

Two kinds. ``paired_leakage``: every section whose patient has another section (a sibling) is tested twice, by a model
that trained on other patients only (``without``) and by one that trained on as many observations of other patients and
siblings together (``with``): leave-section-out against leave-patient-out, training size matched. ``transfer`` with
patients on both sides under ``on_overlap: allow``: next to the model as published one without the shared patients
(``shared_dropped``), and some that lose as many observations of other patients (``random_drop``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.folds.roles import roles_of
from histoloom.folds.seeds import rng_for
from histoloom.folds.splits import COLUMNS, Rows, Spec, fold_names, no_cohort_sides, sections_of, whole_samples
from histoloom.obs_keys import section_keys

PUBLISHED, SHARED_DROPPED, RANDOM_DROP = "as_published", "shared_dropped", "random_drop"
WITH, WITHOUT = "with", "without"
MATCHED = "observations in training: equal to the last one within every pair of models"
_TRANSFER = "transfer"


def _name(row: Mapping[str, str]) -> str:
    return f"{row['cohort']}/{row['sample']}"


def _singles(fold: str, obs: pd.DataFrame, role: str) -> pd.DataFrame:
    """Return rows that give single observations a role; they go before the role of their whole section."""
    return obs[["cohort", "sample", "patient", "obs_id"]].assign(fold=fold, block=None, role=role)[COLUMNS]


class _PairedLeakage:
    """Pairs of folds per section with a sibling; see the module."""

    def pairs(self, spec: Spec, rows: Rows) -> Iterator[tuple[Mapping[str, str], str, list[str]]]:
        """Yield each section that has a sibling, its fold without and its folds with one."""
        no_cohort_sides(spec)
        stems = fold_names((row["cohort"], row["sample"]) for row in rows)
        for row in rows:
            if sum(other["patient"] == row["patient"] for other in rows) > 1:
                stem = stems[row["cohort"], row["sample"]]
                yield row, f"{WITHOUT}-{stem}", [f"{WITH}-{stem}-{i}" for i in range(spec["draws"])]

    def ids(self, spec: Spec, rows: Rows) -> list[str]:
        return [fold for _, without, withs in self.pairs(spec, rows) for fold in (without, *withs)]

    def assign(self, spec: Spec, obs: pd.DataFrame, seed: int) -> pd.DataFrame:
        rows = sections_of(obs)
        frames = []
        for row, without, withs in self.pairs(spec, rows):
            others = [r for r in rows if r["patient"] != row["patient"]]
            siblings = [r for r in rows if r["patient"] == row["patient"] and r != row]
            frames.append(whole_samples(without, [(row, "test"), *((r, "train") for r in others)]))
            order = rng_for(seed, "sibling", _name(row)).permutation(len(siblings))
            for draw, fold in enumerate(withs):
                # With one sibling per model, draws take them in turn, in an order of the section's own.
                chosen = siblings if spec["other_sections"] == "all" else [siblings[order[draw % len(siblings)]]]
                frames += self._thinned(fold, row, others, chosen, obs, seed)
        if not frames:
            problem = "no section has another section of the same patient, so no leakage effect can be measured."
            remedy = "name cohorts with several sections per patient, or use leave_one_patient_out."
            raise InputError("split paired_leakage", problem, remedy, code="leakage-no-pair")
        return pd.concat(frames, ignore_index=True)

    def _thinned(
        self, fold: str, row: Mapping[str, str], others: Rows, siblings: Rows, obs: pd.DataFrame, seed: int
    ) -> list[pd.DataFrame]:
        """Return a fold that trains on others and siblings, thinned at random to the size of the others.

        Both sides lose the same share, so that the mixture stays that of leave-section-out; a sibling keeps at least
        one observation.
        """
        section = section_keys(obs).to_numpy()
        sides = [np.flatnonzero(np.isin(section, [_name(r) for r in side])) for side in (others, siblings)]
        n_others, n_siblings = (len(side) for side in sides)
        whole = whole_samples(fold, [(row, "test"), *((r, "train") for r in (*others, *siblings))])
        if not n_others:  # nothing to compare the sibling with, as the fold without one will say
            return [whole]
        kept = max(1, round(n_others * n_siblings / (n_others + n_siblings)))
        rng = rng_for(seed, fold)
        lost = [rng.choice(side, n, replace=False) for side, n in zip(sides, (kept, n_siblings - kept), strict=True)]
        return [whole, _singles(fold, obs.iloc[np.sort(np.concatenate(lost))], "dropped")]


paired_leakage = _PairedLeakage()


def shared_patients(spec: Spec, rows: Rows) -> list[str]:
    """Return the patients of a transfer that are in training and in test cohorts, in order."""
    tested = {row["patient"] for row in rows if row["cohort"] in spec["test_cohorts"]}
    trained = [row["patient"] for row in rows if row["cohort"] in spec["train_cohorts"]]
    return [patient for patient in dict.fromkeys(trained) if patient in tested]


def drop_ids(spec: Spec, rows: Rows) -> list[str]:
    """Return the names of a transfer's folds without shared patients and with random drops, from the sheets alone."""
    if spec["split"] != _TRANSFER or spec["on_overlap"] != "allow" or not spec["draws"]:
        return []
    names = ["shared-dropped", *(f"random-drop-{i}" for i in range(spec["draws"]))]
    return names if shared_patients(spec, rows) else []


def is_compared(spec: Spec, rows: Rows) -> bool:
    """Whether an experiment measures what a leak is worth."""
    return spec["split"] == "paired_leakage" or bool(drop_ids(spec, rows))


def add_drops(spec: Spec, table: pd.DataFrame, obs: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Add to a transfer the folds that tell a leak from a loss of training data.

    Every added fold keeps the validation and test sides. A random drop takes unshared training patients in a random
    order, whole, until as many observations are gone as the shared patients had; the last one loses only what is
    missing, at random. Where the unshared patients have no more observations than the shared ones, there is no such
    draw; where all training patients are shared, nothing is added.
    """
    names = drop_ids(spec, sections_of(obs))
    if not names:
        return table
    main = table[table["fold"] == _TRANSFER]
    train = main[main["role"] == "train"]
    shared = set(train["patient"]) & set(main.loc[main["role"] == "test", "patient"])
    patient = obs["patient"].to_numpy(object)
    training = roles_of(main, obs)[_TRANSFER] == "train"
    wanted = int((training & np.isin(patient, list(shared))).sum())
    others = sorted(set(train["patient"]) - shared)
    unshared = int((training & np.isin(patient, others)).sum())
    frames = [table]
    if unshared:
        frames.append(_dropping(main, names[0], sorted(shared)))
    if unshared > wanted:
        for fold in names[1:]:
            rng = rng_for(seed, fold)
            gone, left = [], wanted
            for other in rng.permutation(others):
                here = np.flatnonzero(training & (patient == other))
                if len(here) > left:
                    part = obs.iloc[np.sort(rng.choice(here, left, replace=False))]
                    frames.append(_singles(fold, part, "dropped"))
                    break
                gone.append(str(other))
                left -= len(here)
            frames.append(_dropping(main, fold, gone))
    return pd.concat(frames, ignore_index=True)


def _dropping(main: pd.DataFrame, fold: str, patients: Sequence[str]) -> pd.DataFrame:
    """Return a fold like the main one, with patients dropped from training."""
    rows = main.assign(fold=fold)
    return rows.assign(role=rows["role"].mask(rows["patient"].isin(patients) & (rows["role"] == "train"), "dropped"))


def describe(spec: Spec, table: pd.DataFrame, obs: pd.DataFrame) -> dict[str, Any]:
    """Return by fold what it is, which section or draw, and sizes of training; empty where nothing is compared."""
    rows = sections_of(obs)
    if not is_compared(spec, rows):
        return {}
    what: dict[str, dict[str, Any]] = {}
    if spec["split"] == "paired_leakage":
        for row, without, withs in paired_leakage.pairs(spec, rows):
            place = {"tests": _name(row), "patient": row["patient"]}
            what[without] = {"what": WITHOUT, "draw": -1, **place}
            what |= {fold: {"what": WITH, "draw": draw, **place} for draw, fold in enumerate(withs)}
        more = {"unpaired": [_name(r) for r in rows if _name(r) not in {w["tests"] for w in what.values()}],
                "other_sections": spec["other_sections"]}  # fmt: skip
    else:
        first, *draws = drop_ids(spec, rows)
        what = {_TRANSFER: {"what": PUBLISHED, "draw": -1}, first: {"what": SHARED_DROPPED, "draw": -1}}
        what |= {fold: {"what": RANDOM_DROP, "draw": i} for i, fold in enumerate(draws)}
        what = {fold: facts for fold, facts in what.items() if fold in set(table["fold"])}
        more = {"shared_patients": shared_patients(spec, rows)}
    roles = roles_of(table, obs)
    folds = {fold: {**facts, **_sizes(obs, roles[fold])} for fold, facts in what.items()}
    return {"kind": spec["split"], "matched": MATCHED, "draws": spec["draws"], **more, "folds": folds}


def _sizes(obs: pd.DataFrame, role: np.ndarray) -> dict[str, int]:
    """Return how much a fold trains on, and how much of it is of tested patients."""
    train, test = obs[role == "train"], obs[role == "test"]
    leaked = train[train["patient"].isin(set(test["patient"]))]
    return {
        "n_train": len(train),
        "n_train_sections": len(train[["cohort", "sample"]].drop_duplicates()),
        "n_train_patients": int(train["patient"].nunique()),
        "n_leaked": len(leaked),
        "n_leaked_sections": len(leaked[["cohort", "sample"]].drop_duplicates()),
        "n_test": len(test),
    }


def control_folds(compared: Mapping[str, Any]) -> frozenset[str]:
    """Return the folds of a comparison that must not feed a headline."""
    return frozenset(f for f, facts in compared.get("folds", {}).items() if facts["what"] != PUBLISHED)


def check_compared(compared: Mapping[str, Any], table: pd.DataFrame, obs: pd.DataFrame) -> None:
    """Check a comparison against its fold table: clean where it says so, leaking where it means to, sizes equal."""
    if not compared:
        return
    roles = roles_of(table, obs)
    patient = obs["patient"].to_numpy(object)
    section = section_keys(obs).to_numpy()

    def by_what(what: str) -> list[str]:
        return [fold for fold, facts in compared["folds"].items() if facts["what"] == what]

    def refuse(fold: str, problem: str) -> None:
        raise InputError(f"fold '{fold}'", problem, "remove the folds and run again.", code="folds-compared")

    def leaked(fold: str) -> set[str]:
        trained = np.isin(roles[fold], ("train", "val"))
        return set(patient[trained]) & set(patient[roles[fold] == "test"])

    def match(fold: str, other: str) -> None:
        if not np.array_equal(roles[fold] == "test", roles[other] == "test"):
            refuse(fold, f"does not test the observations that fold '{other}' tests.")
        sizes = [int((roles[f] == "train").sum()) for f in (fold, other)]
        if sizes[0] != sizes[1]:
            refuse(fold, f"trains on {sizes[0]} observations, fold '{other}' on {sizes[1]}: sizes must be equal.")

    for clean in (*by_what(WITHOUT), *by_what(SHARED_DROPPED)):
        if leaked(clean):
            refuse(clean, f"trains on patients that it tests: {', '.join(sorted(leaked(clean)))}; it must not.")
    for fold in by_what(WITH):
        facts = compared["folds"][fold]
        (pair,) = [f for f in by_what(WITHOUT) if compared["folds"][f]["tests"] == facts["tests"]]
        match(fold, pair)
        if leaked(fold) != {facts["patient"]}:
            refuse(fold, f"must train on patient {facts['patient']} and on no other that it tests.")
        if (section[roles[fold] == "train"] == facts["tests"]).any():
            refuse(fold, f"trains on the section that it tests, {facts['tests']}.")
    for fold in by_what(RANDOM_DROP):
        match(fold, by_what(SHARED_DROPPED)[0])
        if leaked(fold) != set(compared["shared_patients"]):
            refuse(fold, "must drop unshared patients only.")
