"""Embeddings by row: encoders side by side, read from the files when a model asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.embeddings.artefact import open_embeddings
from histoloom.errors import InputError
from histoloom.identity import canonical_json, sha256_text
from histoloom.inputs.base import Index
from histoloom.inputs.scaling import Scaler, fit_scaler
from histoloom.kinds import ENCODERS

BLOCK = 8192


class Features:
    """Embeddings of observations, encoders in the order of concatenation; they must have seen these tiles.

    `spaces` are, by encoder, card, revision, weights and dimension: two files of one space can stand for each other.
    `modalities` say what each encoder reads, counts or morphology.
    """

    def __init__(
        self,
        obs: pd.DataFrame,
        embeddings: Mapping[str, Sequence[Path]],
        encoders: Sequence[str],
        tiles_spec: Mapping[str, Any],
    ) -> None:
        self.spaces: dict[str, dict[str, Any]] = {}
        self.modalities: list[str] = []
        self._parts = []
        for encoder in encoders:
            if not embeddings.get(encoder):
                problem, remedy = "no embeddings were given.", "embed the experiment's cohorts with it."
                raise InputError(f"encoder '{encoder}'", problem, remedy, code="embeddings-not-given")
            reader = open_embeddings(embeddings[encoder], tiles_spec)
            self._parts.append((reader, reader.align(obs)))
            self.spaces[encoder] = _space(reader.metadata[0])
            self.modalities.append(_modality(reader.metadata[0]))

    @property
    def widths(self) -> list[int]:
        return [reader.dim for reader, _ in self._parts]

    def __call__(self, rows: Index) -> npt.NDArray[np.float32]:
        out = np.empty((len(rows), sum(self.widths)), dtype=np.float32)
        left = 0
        for reader, position in self._parts:
            out[:, left : left + reader.dim] = reader.rows(position[rows])
            left += reader.dim
        return out


def _modality(facts: Mapping[str, Any]) -> str:
    """Return what an encoder reads of an observation: its counts, or its morphology."""
    card = facts["card"]
    kind = ENCODERS.get(card.get("kind", "")) if isinstance(card, Mapping) else None
    return "counts" if kind is not None and kind.reads == "counts" else "morphology"


def _space(facts: Mapping[str, Any]) -> dict[str, Any]:
    card = facts["card"]
    return {
        "card": card.get("name") if isinstance(card, Mapping) else card,
        "card_sha256": sha256_text(canonical_json(card)),
        **{key: facts.get(key) for key in ("revision", "weights_sha256", "dim")},
    }


class GroupScaled:
    """Features with zero mean and unit variance within each group of rows.

    Groups hold test inputs too (never labels): predictions made with them are transductive.
    """

    def __init__(self, reader: Features, groups: npt.NDArray[np.intp]) -> None:
        self._reader, self._groups, self.widths = reader, groups, reader.widths
        self.modalities = reader.modalities
        self._scalers: dict[int, Scaler] = {}

    def __call__(self, rows: Index) -> npt.NDArray[np.float32]:
        features: npt.NDArray[np.float32] = self._reader(rows)
        for group in np.unique(self._groups[rows]):
            if group not in self._scalers:
                self._scalers[group] = fit_scaler(self._reader(np.flatnonzero(self._groups == group)))
            own = self._groups[rows] == group
            features[own] = self._scalers[group](features[own])
        return features
