"""Splits: which observations train and which test, fold by fold. Pure and light: no file is read.

A split is an object with ``ids`` (fold names from the sheet alone, for planning) and ``assign`` (the table).
To add one, write it here or in a module of its own, and name it in `histoloom.kinds.SPLITS` and in the schema of
experiments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.folds.seeds import rng_for
from histoloom.kinds import SPLITS
from histoloom.lattice import positions_um

ALL = "all"  # the fold in which everyone trains: the model for new slides
# Splits that leak on purpose, to measure the leakage effect.
DELIBERATE = frozenset(name for name, kind in SPLITS.items() if kind.paired)
COLUMNS = ["fold", "cohort", "sample", "patient", "obs_id", "block", "role"]
Spec = Mapping[str, Any]
Rows = Sequence[Mapping[str, str]]


class Split(Protocol):
    """What a split offers."""

    def ids(self, spec: Spec, rows: Rows) -> list[str]:
        """Return the fold names, in order, without ``all``."""
        ...

    def assign(self, spec: Spec, obs: pd.DataFrame, seed: int) -> pd.DataFrame:
        """Return the table (`COLUMNS`) of all folds but ``all``, with roles train, test and dropped."""
        ...


def sections_of(obs: pd.DataFrame) -> list[dict[str, str]]:
    """Return the sections of a table of observations, in order of appearance."""
    return obs[["cohort", "sample", "patient"]].drop_duplicates().to_dict("records")  # type: ignore[return-value]


def whole_samples(fold: str, roles: Iterable[tuple[Mapping[str, str], str]]) -> pd.DataFrame:
    """Return the rows of one fold that takes sections whole: (section, role) pairs."""
    records = [(fold, row["cohort"], row["sample"], row["patient"], None, None, role) for row, role in roles]
    return pd.DataFrame(records, columns=COLUMNS)


def fold_all(obs: pd.DataFrame) -> pd.DataFrame:
    """Return the fold in which everyone trains."""
    return whole_samples(ALL, ((row, "train") for row in sections_of(obs)))


def no_cohort_sides(spec: Spec) -> None:
    """Refuse training and test cohorts where a split takes both from the same ones."""
    for key in ("train_cohorts", "test_cohorts"):
        if spec.get(key):
            raise InputError(key, f"is for split transfer, not {spec['split']}.", "use `cohorts`.", code="split-sides")


def fold_names(units: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Return the part of fold and file names that stands for each patient or section; no two may share one."""
    unit_of: dict[str, tuple[str, ...]] = {}
    for unit in units:
        name = "-".join(unit)
        if unit_of.setdefault(name, unit) != unit:
            problem = f"{'/'.join(unit_of[name])} and {'/'.join(unit)} would both be fold '{name}'."
            raise InputError("folds", problem, "rename one of these cohorts or samples.", code="folds-names")
    return {unit: name for name, unit in unit_of.items()}


class _LeaveOneOut:
    """Test one unit (a patient or a section) per fold, train on all others."""

    def __init__(self, columns: tuple[str, ...], prefix: str) -> None:
        self._columns, self._prefix = columns, prefix

    def _folds(self, rows: Rows) -> list[str]:
        """Return the fold that tests each section."""
        units = [tuple(row[column] for column in self._columns) for row in rows]
        names = fold_names(units)
        return [f"{self._prefix}-{names[unit]}" for unit in units]

    def ids(self, spec: Spec, rows: Rows) -> list[str]:
        no_cohort_sides(spec)
        return list(dict.fromkeys(self._folds(rows)))

    def assign(self, spec: Spec, obs: pd.DataFrame, seed: int) -> pd.DataFrame:
        del seed  # nothing is drawn
        rows = sections_of(obs)
        tested = self._folds(rows)
        tables = [
            whole_samples(fold, [(r, "test" if own == fold else "train") for r, own in zip(rows, tested, strict=True)])
            for fold in self.ids(spec, rows)
        ]
        return pd.concat(tables, ignore_index=True)


class _Transfer:
    """Train on some cohorts, test on others."""

    def ids(self, spec: Spec, rows: Rows) -> list[str]:
        del spec, rows
        return ["transfer"]

    def assign(self, spec: Spec, obs: pd.DataFrame, seed: int) -> pd.DataFrame:
        del seed
        train, test = set(spec["train_cohorts"]), set(spec["test_cohorts"])
        if train & test:
            remedy = "give each cohort one side; use leave_one_patient_out within a cohort."
            problem = f"{', '.join(sorted(train & test))} is on both sides."
            raise InputError("train_cohorts and test_cohorts", problem, remedy, code="transfer-cohort-twice")
        rows = [row for row in sections_of(obs) if row["cohort"] in train | test]
        return whole_samples("transfer", ((row, "test" if row["cohort"] in test else "train") for row in rows))


class _Observations:
    """Folds that cut through sections: every section has observations on both sides."""

    prefix = ""

    def ids(self, spec: Spec, rows: Rows) -> list[str]:
        del rows
        no_cohort_sides(spec)
        return [f"{self.prefix}-{i}" for i in range(spec["n_folds"])]

    def _parts(
        self, spec: Spec, section: pd.DataFrame, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[str | None]]:
        """Return, per observation of a section, the number of the fold that tests it, and its block."""
        raise NotImplementedError

    def _too_near(self, spec: Spec, section: pd.DataFrame, tested: np.ndarray) -> np.ndarray:
        """Return which observations are left out of training for being near tested ones."""
        del spec, section
        return np.zeros(len(tested), dtype=bool)

    def assign(self, spec: Spec, obs: pd.DataFrame, seed: int) -> pd.DataFrame:
        frames, folds = [], self.ids(spec, [])
        for (cohort, sample), section in obs.groupby(["cohort", "sample"], sort=False):
            # A stream per section: the folds of one section do not depend on which others are there.
            part, block = self._parts(spec, section, rng_for(seed, spec["split"], str(cohort), str(sample)))
            for number, fold in enumerate(folds):
                tested = part == number
                role = np.where(tested, "test", "train").astype(object)
                role[~tested & self._too_near(spec, section, tested)] = "dropped"
                keys = section[["cohort", "sample", "patient", "obs_id"]]
                frames.append(keys.assign(fold=fold, block=np.array(block, dtype=object), role=role))
        table = pd.concat(frames, ignore_index=True)[COLUMNS]
        return table.sort_values("fold", key=lambda f: f.map(folds.index), kind="stable", ignore_index=True)


class _Random(_Observations):
    prefix = "random"

    def _parts(
        self, spec: Spec, section: pd.DataFrame, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[str | None]]:
        return rng.permutation(np.arange(len(section)) % spec["n_folds"]), [None] * len(section)


def _place(section: pd.DataFrame) -> str:
    return f"{section['cohort'].iloc[0]}/{section['sample'].iloc[0]}"


class _Stratified:
    """One fold: a share of all observations is drawn for the test, as many of each class (scikit-learn)."""

    def ids(self, spec: Spec, rows: Rows) -> list[str]:
        del rows
        no_cohort_sides(spec)
        return ["stratified"]

    def assign(self, spec: Spec, obs: pd.DataFrame, seed: int) -> pd.DataFrame:
        from sklearn.model_selection import train_test_split

        size = obs["label"].value_counts()
        if size.min() < 2:
            problem = f"class '{size.index[-1]}' has one observation: it cannot be on both sides."
            remedy = "leave the class out (`target.classes`), or use split random."
            raise InputError("split random_stratified", problem, remedy, code="stratified-class-small")
        order = np.arange(len(obs))
        tested = train_test_split(order, test_size=spec["test_share"], random_state=seed, stratify=obs["label"])[1]
        role = np.where(np.isin(order, tested), "test", "train").astype(object)
        keys = obs[["cohort", "sample", "patient", "obs_id"]]
        return keys.assign(fold="stratified", block=None, role=role)[COLUMNS].reset_index(drop=True)


class _SpatialBlock(_Observations):
    """Square blocks on the array, dealt to the folds in random order within each section."""

    prefix = "block"

    def _parts(
        self, spec: Spec, section: pd.DataFrame, rng: np.random.Generator
    ) -> tuple[np.ndarray, list[str | None]]:
        cell = np.floor(self._um(section) / spec["block_um"]).astype(int)
        names, code = np.unique(cell, axis=0, return_inverse=True)
        if len(names) < spec["n_folds"]:
            problem = f"has {len(names)} blocks of {spec['block_um']} um for {spec['n_folds']} folds."
            raise InputError(_place(section), problem, "lower `block_um` or `n_folds`.", code="blocks-too-few")
        fold_of = rng.permutation(np.arange(len(names)) % spec["n_folds"])
        code = code.reshape(-1)
        return fold_of[code], [f"{names[c][0]}_{names[c][1]}" for c in code]

    def _too_near(self, spec: Spec, section: pd.DataFrame, tested: np.ndarray) -> np.ndarray:
        if not spec["buffer_um"] or not tested.any():
            return np.zeros(len(tested), dtype=bool)
        from scipy.spatial import cKDTree

        position = self._um(section)
        distance, _ = cKDTree(position[tested]).query(position)
        # A spot exactly at the distance stays, whatever the rounding.
        return np.asarray(distance < spec["buffer_um"] * (1 - 1e-9))

    @staticmethod
    def _um(section: pd.DataFrame) -> np.ndarray:
        """Return (n, 2) positions in um: on the section's own lattice; of cells, which have none, where they lie."""
        array = section[["array_row", "array_col"]]
        if "um_per_px" in section and array.duplicated().any() and section["um_per_px"].notna().all():
            return section[["y", "x"]].to_numpy(float) * section[["um_per_px"]].to_numpy(float)
        if section["pitch_um"].isna().any():
            problem, remedy = "has no pitch, so blocks in um cannot be laid.", "give `pitch_um` in the cohort's sheet."
            raise InputError(_place(section), problem, remedy, code="blocks-pitch")
        return positions_um(section["array_row"], section["array_col"], float(section["pitch_um"].iloc[0]))


leave_one_patient_out: Split = _LeaveOneOut(("patient",), "patient")
leave_one_sample_out: Split = _LeaveOneOut(("cohort", "sample"), "sample")
transfer: Split = _Transfer()
random_observations: Split = _Random()
random_stratified: Split = _Stratified()
spatial_block: Split = _SpatialBlock()
