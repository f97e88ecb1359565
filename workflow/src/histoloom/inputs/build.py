"""Open what a model needs of an experiment's observations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.embeddings.artefact import embedded_keys
from histoloom.inputs.base import COLUMNS, Inputs, Reader
from histoloom.inputs.features import Features, GroupScaled
from histoloom.inputs.pixels import Pixels, pixel_keys
from histoloom.kind_entries import Need
from histoloom.obs_keys import observation_keys

EMBEDDINGS = "embeddings_"
_GROUPS = {"per_cohort": ["cohort"], "per_section": ["cohort", "sample"]}
TRANSDUCTIVE = frozenset(_GROUPS)


def open_inputs(
    obs: pd.DataFrame,
    needs: Collection[Need],
    spec: Mapping[str, Any],
    files: Mapping[str, Sequence[Path]],
    tiles: Mapping[str, Any],
    standardise: str = "train",
    identities: Sequence[str] | None = None,
) -> tuple[Inputs, dict[str, dict[str, Any]]]:
    """Return the inputs of observations and the spaces of their encoders.

    `spec` is the model's entry, `files` are ``embeddings_<encoder>``, ``pixels`` and ``samples``, `tiles` the
    experiment's ``name`` and ``spec``. `standardise` scales within cohorts or sections, see `GroupScaled`. Packed
    pixels must have been cut from tables of tiles with these `identities`; None: not checked.
    """
    table = obs[[column for column in COLUMNS if column in obs]].reset_index(drop=True)
    readers: dict[str, Reader] = {}
    spaces: dict[str, dict[str, Any]] = {}
    if Need.FEATURES in needs:
        embeddings = {role.removeprefix(EMBEDDINGS): p for role, p in files.items() if role.startswith(EMBEDDINGS)}
        features = Features(table, embeddings, spec["inputs"], tiles["spec"])
        readers["features"], spaces = features, features.spaces
        if standardise in _GROUPS:
            groups = table.groupby(_GROUPS[standardise], sort=False, observed=True).ngroup()
            readers["features"] = GroupScaled(features, np.asarray(groups, np.intp))
    if Need.PIXELS in needs:
        readers["pixels"] = Pixels(table, files.get("pixels", []), tiles["spec"], identities)
    if Need.EXPRESSION in needs:
        from histoloom.inputs.expression import Expression

        readers["expression"] = Expression(table, files["samples"])
    rule = spec["graph"] if Need.GRAPH in needs else None
    return Inputs(table, readers, np.arange(len(table), dtype=np.intp), rule), spaces


def available(
    obs: pd.DataFrame, needs: Collection[Need], spec: Mapping[str, Any], files: Mapping[str, Sequence[Path]]
) -> npt.NDArray[np.bool_]:
    """Return which observations have the features and pixels that a model needs."""
    keys, held = observation_keys(obs), np.ones(len(obs), bool)
    if Need.FEATURES in needs:
        embeddings = {name: files.get(f"{EMBEDDINGS}{name}", []) for name in spec["inputs"]}
        held &= keys.isin(embedded_keys(embeddings))
    if Need.PIXELS in needs:
        held &= keys.isin(observation_keys(pd.concat([pixel_keys(path) for path in files.get("pixels", [])])))
    return held
