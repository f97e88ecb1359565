"""What is scored: predictions of held-out observations with what they are compared with, read and checked once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import dense, read_metadata, read_table
from histoloom.errors import InputError
from histoloom.folds import read_folds, roles_of
from histoloom.lattice import lattice_of
from histoloom.metrics.gene_sets import GeneSets, read_gene_sets
from histoloom.obs_keys import observation_keys
from histoloom.stats import Floats

PLACE = ["fold", "cohort", "patient", "sample", "qc_flag"]  # Columns that say which section of which fold a row is of
KEYS = ["fold", "cohort", "sample", "patient", "obs_id"]
POSITION = ["array_row", "array_col", "pitch_um", "x", "y", "um_per_px"]
MERGED = " (merged)"  # Marks what merged types are compared with
_AGAIN = "remove it, so that it is made anew."


@dataclass(frozen=True)
class Scored:
    """Predictions of held-out observations and what they are compared with."""

    obs: pd.DataFrame  # a row per prediction: KEYS, qc_flag and, where known, POSITION and lattice
    types: list[str]  # cell types, genes or classes, the columns of all matrices
    prediction: Floats  # (n, types) mean over training seeds
    seeds: Mapping[int, Floats]  # prediction by training seed; empty where there is only one
    reference: Mapping[str, Floats]  # (n, types) "labels" and, of simulated cohorts, "truth". Classes: one-hot
    metadata: Mapping[str, Any]  # of the predictions
    means: pd.DataFrame = field(default_factory=pd.DataFrame)  # (folds, types) mean of the training observations
    spec: Mapping[str, Any] = field(default_factory=dict)  # the experiment's entry
    target: Mapping[str, Any] = field(default_factory=dict)  # metadata of the target
    target_obs: pd.DataFrame = field(default_factory=pd.DataFrame)  # of the whole target, trained on or not
    gene_sets: GeneSets | None = None  # of expression
    constant: pd.DataFrame = field(default_factory=pd.DataFrame)  # (folds, genes) no variation in training; expression

    def untrained(self, index: np.ndarray) -> npt.NDArray[np.bool_]:
        """Say which types, (types,), are constant in the training of every fold that some observations are of."""
        if self.constant.empty:
            return np.zeros(len(self.types), bool)
        folds = self.obs["fold"].iloc[index].unique()
        return np.asarray(self.constant.loc[folds, self.types].to_numpy(bool).all(axis=0))

    def sections(self) -> Iterator[tuple[dict[str, str], np.ndarray]]:
        """Yield each tested section of each fold with the positions of its observations."""
        for key, index in sorted(self.obs.groupby(PLACE, observed=True, sort=True).indices.items()):
            yield dict(zip(PLACE, cast("tuple[str, ...]", key), strict=True)), np.asarray(index)

    def pooled(self) -> Iterator[tuple[dict[str, str], np.ndarray]]:
        """Yield each patient, then each cohort, without flagged sections, with the positions of its observations."""
        plain = self.obs[self.obs["qc_flag"] == ""]
        for aggregation, by in (("pooled_patient", ["cohort", "patient"]), ("pooled", ["cohort"])):
            for key, labels in sorted(plain.groupby(by, observed=True, sort=True).groups.items()):
                place = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
                yield {**place, "aggregation": aggregation}, labels.to_numpy()


def read_predictions(path: str | Path) -> Scored:
    """Read a prediction artefact: X, layers ``labels``, ``ground_truth`` and ``seed_<s>``; for classes obs ``label``.

    A prediction that is not finite where a label is, is an error: a model that leaves observations out would be scored
    on those that it chose.
    """
    table = read_table(path)
    classes = "labels" not in table.layers and "label" in table.obs
    missing = [column for column in KEYS if column not in table.obs]
    missing += [] if "labels" in table.layers or classes else ["layer labels"]
    if missing or table.obs.empty:
        problem = f"lacks {', '.join(missing)}." if missing else "holds no held-out observation."
        remedy = f"{_AGAIN[:-1]}; a fold must have a test patient."
        raise InputError(path, problem, remedy, code="predictions-incomplete")
    obs = table.obs.reset_index(drop=True)
    obs["qc_flag"] = obs["qc_flag"].fillna("").astype(str) if "qc_flag" in obs else ""
    layers = {name: dense(matrix) for name, matrix in table.layers.items()}
    prediction, types = dense(table.X), table.var_names
    if classes:
        unknown = sorted(set(obs["label"].astype(str)) - set(types))
        if unknown:
            raise InputError(path, f"has no column for class '{unknown[0]}'.", _AGAIN, code="predictions-classes")
        layers["labels"] = (obs["label"].astype(str).to_numpy()[:, None] == np.array(types)).astype(float)
    absent = np.isfinite(layers["labels"]) & ~np.isfinite(prediction)
    if absent.any():
        row, column = np.argwhere(absent)[0]
        where = "/".join(map(str, obs.loc[row, ["cohort", "sample", "obs_id"]]))
        raise InputError(path, f"has no prediction of '{types[column]}' for {where}.", _AGAIN, code="predictions-gaps")
    seeds = {int(name[5:]): value for name, value in layers.items() if name.startswith("seed_")}
    reference = {"labels": layers["labels"]}
    if "ground_truth" in layers and np.isfinite(layers["ground_truth"]).any():
        reference["truth"] = layers["ground_truth"]
    return Scored(obs, types, prediction, seeds if len(seeds) > 1 else {}, reference, table.metadata)


@dataclass(frozen=True)
class TrainingSide:
    """Of each fold's training observations, (folds, types): means, and which do not vary; `obs` of the whole target."""

    means: pd.DataFrame
    constant: pd.DataFrame
    obs: pd.DataFrame


def training_side(target: Path, folds: Path, types: Sequence[str] | None = None) -> TrainingSide:
    """Read what a target's values are like on the training side of each fold.

    `types` that the target lacks are left out; None: all. The X of a class target says who is of which class: its means
    are shares. The index of obs is ``cohort/sample/obs_id``.
    """
    table = read_table(target, layers=[])
    obs, values, position = table.obs, table.X, {name: i for i, name in enumerate(table.var_names)}
    chosen = table.var_names if types is None else [name for name in types if name in position]
    if chosen != table.var_names:
        values = values[:, [position[name] for name in chosen]]
    roles = roles_of(read_folds(folds)[0], obs)
    means, constant = {}, {}
    for fold in sorted(roles):
        rows = np.flatnonzero(roles[fold] == "train")
        if len(rows):
            own = values[rows]
            mean = np.nanmean(own, axis=0) if isinstance(own, np.ndarray) else own.mean(axis=0)
            means[fold] = np.asarray(mean).ravel()
            low, high = (dense(extreme(axis=0)).ravel() for extreme in (own.min, own.max))
            constant[fold] = low == high
    mean, flat = (pd.DataFrame.from_dict(by_fold, orient="index", columns=chosen) for by_fold in (means, constant))
    return TrainingSide(mean, flat, obs.set_axis(observation_keys(obs)))


def with_positions(scored: Scored, target_obs: pd.DataFrame) -> Scored:
    """Take positions, lattice and QC flags of the observations from the target, which has the whole sections."""
    keys = observation_keys(scored.obs)
    unknown = ~keys.isin(target_obs.index)
    if unknown.any():
        problem = f"{int(unknown.sum())} predicted observations are not in the target, e.g. '{keys[unknown][0]}'."
        remedy = "remove the experiment's models and predictions, so that they are made anew."
        raise InputError("predictions", problem, remedy, code="predictions-unknown-observations")
    known = target_obs.reindex(keys)
    obs = scored.obs.assign(**{name: known[name].to_numpy() for name in POSITION if name in known})
    if "qc_flag" in known:
        obs["qc_flag"] = known["qc_flag"].fillna("").astype(str).to_numpy()
    if {"array_row", "array_col"} <= set(target_obs):
        kinds = {
            key: lattice_of(part["array_row"], part["array_col"])
            for key, part in target_obs.groupby(["cohort", "sample"], observed=True)
        }
        obs["lattice"] = [kinds[key] for key in zip(obs["cohort"], obs["sample"], strict=True)]
    return replace(scored, obs=obs)


def read_scored(spec: Mapping[str, Any], predictions: Path, target: Path, folds: Path) -> Scored:
    """Read predictions with the target and the folds that they are of."""
    scored = read_predictions(predictions)
    side = training_side(target, folds, scored.types)
    scored = with_positions(scored, side.obs)
    absent = sorted(set(scored.obs["fold"]) - set(side.means.index))
    if absent or list(side.means.columns) != scored.types:
        reason = f"folds without training observations: {', '.join(absent)}." if absent else "other cell types."
        problem = f"does not fit {folds} and {target}: {reason}"
        raise InputError(predictions, problem, "remove it and run again.", code="predictions-other-run")
    facts = read_metadata(target)
    expression = facts.get("kind") == "expression"
    sets = read_gene_sets(spec.get("gene_sets") or {}, target, folds) if expression else None
    constant = side.constant if expression else pd.DataFrame()
    return replace(
        scored, means=side.means, spec=spec, target=facts, target_obs=side.obs, gene_sets=sets, constant=constant
    )


def merge_types(scored: Scored) -> Scored:
    """Return the same predictions at a coarser level: types are summed, in predictions and labels alike.

    The experiment's ``merge`` names the sums: new name -> names of the types; types that are not named stay. A
    logarithm of the target is undone before the sum and taken again, also of means, which then are not quite those of
    merged labels. References carry `MERGED` behind their names.
    """
    merge: Mapping[str, Sequence[str]] = scored.spec["merge"]
    transform = (scored.spec.get("target") or {}).get("transform", "none")
    where = "experiments.<name>.merge"
    olds = [name for members in merge.values() for name in members]
    for name in olds:
        if name not in scored.types or olds.count(name) > 1:
            problem = f"'{name}' is " + ("named twice." if name in scored.types else "no type of the labels.")
            raise InputError(where, problem, f"use each once: {', '.join(scored.types)}.", code="merge-types")
    groups = {**{name: [name] for name in scored.types if name not in olds}, **{k: list(v) for k, v in merge.items()}}
    if len(groups) != len(scored.types) - len(olds) + len(merge):
        problem = "a new name is that of a type that stays."
        raise InputError(where, problem, "give the sum a name of its own.", code="merge-name")
    types = sorted(groups)
    columns = [[scored.types.index(name) for name in groups[new]] for new in types]

    def summed(values: Floats) -> Floats:
        plain = np.expm1(values) if transform == "log1p" else values
        sums: Floats = np.column_stack([plain[:, members].sum(axis=1) for members in columns])
        return np.log1p(np.maximum(sums, 0.0)) if transform == "log1p" else sums

    return replace(
        scored,
        types=types,
        prediction=summed(scored.prediction),
        seeds={seed: summed(values) for seed, values in scored.seeds.items()},
        reference={name + MERGED: summed(values) for name, values in scored.reference.items()},
        means=pd.DataFrame(summed(scored.means.to_numpy(dtype=float)), index=scored.means.index, columns=types),
    )
