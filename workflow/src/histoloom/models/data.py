"""Bring target, folds and embeddings together: the one place where embeddings are concatenated."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.folds import roles_of
from histoloom.folds.seeds import rng_for
from histoloom.identity import canonical_json, sha256_text
from histoloom.models.base import Fold, Rows, TrainingData
from histoloom.models.scaling import standardise_groups
from histoloom.obs_keys import section_keys
from histoloom.targets import Target

# What makes two embeddings of one encoder the same space.
_SPACE = ("revision", "weights_sha256", "dim")


def load_features(
    obs: pd.DataFrame, embeddings: Mapping[str, Sequence[Path]], inputs: Sequence[str], tiles: Mapping[str, Any]
) -> tuple[np.ndarray, dict[str, dict[str, Any]]]:
    """Concatenate the embeddings of observations, encoder by encoder.

    Parameters
    ----------
    obs
        Observations: cohort, sample, obs_id.
    embeddings
        Batches by encoder.
    inputs
        Encoders, in the order of concatenation.
    tiles
        The experiment's tiles: ``name`` and ``spec``.

    Returns
    -------
    tuple
        (n, D) float32, and by encoder its card, revision, weights' sha256 and dimension.

    Raises
    ------
    InputError
        If an encoder is not given, saw other tiles, differs between batches, lacks an observation or
        holds NaN.
    """
    from histoloom.embeddings.artefact import open_embeddings

    parts, spaces = [], {}
    for encoder in inputs:
        if not embeddings.get(encoder):
            raise InputError(
                f"encoder '{encoder}'", "no embeddings were given.", "embed the experiment's cohorts with it."
            )
        reader = open_embeddings(embeddings[encoder], tiles_spec=tiles["spec"])
        parts.append(reader.rows(reader.align(obs)))
        spaces[encoder] = _space(reader.metadata[0])
    return np.concatenate(parts, axis=1), spaces


def _space(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes two embeddings of one encoder comparable: card, revision, weights, dimension."""
    card = metadata["card"]
    name = card.get("name") if isinstance(card, Mapping) else card
    return {
        "card": name,
        "card_sha256": sha256_text(canonical_json(card)),
        **{key: metadata.get(key) for key in _SPACE},
    }


def _label_rows(obs: pd.DataFrame, roles: np.ndarray, fold: str, shuffle: str, seed: int) -> np.ndarray:
    """Return the row whose label each row is given in training; see `Fold`."""
    rows = np.arange(len(obs))
    if shuffle == "none":
        return rows
    # Validation belongs to the training side: true labels there would choose the epoch.
    side = np.flatnonzero(np.isin(roles, ("train", "val")))
    if shuffle == "everywhere":
        rows[side] = rng_for(seed, "shuffle", fold).permutation(side)
        return rows
    section = section_keys(obs).to_numpy()
    for name, at in pd.Series(side).groupby(section[side], sort=False).indices.items():
        rows[side[at]] = rng_for(seed, "shuffle", fold, str(name)).permutation(side[at])
    return rows


def build_training(
    target: Target,
    table: pd.DataFrame,
    features: np.ndarray | None,
    experiment: Mapping[str, Any],
    compared: Collection[str] = (),
) -> TrainingData:
    """Return what a model is fitted on.

    Parameters
    ----------
    target
        The experiment's target.
    table
        Its fold table.
    features
        (n, D) float32 from `load_features`, or None.
    experiment
        Its entry: ``train_seeds``, ``standardise``, ``selection``, ``shuffle_labels``, ``seed``.
    compared
        Folds that only serve a comparison.
    """
    folds = []
    for name, roles in roles_of(table, target.obs).items():
        train, val, test = (np.flatnonzero(roles == role) for role in ("train", "val", "test"))
        label_rows = _label_rows(target.obs, roles, name, experiment["shuffle_labels"], experiment["seed"])
        folds.append(Fold(name, train, val, test, label_rows, name in compared))
    if features is not None:
        features = standardise_groups(features, target.obs, experiment["standardise"])
    return TrainingData(
        rows=Rows(target.obs, features),
        values=target.values,
        types=target.types,
        folds=folds,
        seeds=experiment["train_seeds"],
        selection=experiment["selection"],
        standardise=experiment["standardise"],
        seed=experiment["seed"],
    )
