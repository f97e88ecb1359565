"""The embedding artefact: one h5 of kept tiles' features with their keys; writing, reading by row, aligning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import KEY, read_metadata
from histoloom.errors import InputError, first_few
from histoloom.identity import canonical_json
from histoloom.obs_keys import observation_keys
from histoloom.tiles.spec import TileSpec

# What a card tells people; features do not depend on it.
_PROSE = frozenset(
    {"about", "licence", "gate", "citation", "proven", "unsure", "um_per_px", "default_weights", "revision_seen"}
)
KEYS = ["cohort", "sample", "obs_id"]
_AGAIN = "delete it and make the embeddings again."


class EmbeddingReader:
    """Rows of one encoder's batches, read from disk when they are asked for; only the keys are held in memory.

    ``coords`` has the centres of the observations in ``obs``, (n, 2) in level-0 px; ``metadata`` an entry per file.
    """

    def __init__(self, batches: Sequence[_Batch]) -> None:
        keys = [np.concatenate(column) for column in zip(*(batch.keys for batch in batches), strict=True)]
        self.obs = pd.DataFrame(dict(zip(KEYS, keys, strict=True)))
        self._index = pd.MultiIndex.from_frame(self.obs)
        self.coords = np.concatenate([batch.coords for batch in batches])
        self.metadata = [batch.metadata for batch in batches]
        self.dim = batches[0].features.shape[1]
        self._batches = list(batches)
        self._ends = np.cumsum([len(batch.features) for batch in batches])
        if self._index.has_duplicates:
            twice = self._index[self._index.duplicated()].unique()
            problem = f"{len(twice)} observations appear twice: {first_few([*map('/'.join, twice)])}."
            files = ", ".join(str(batch.path) for batch in batches)
            raise InputError(files, problem, "name each batch once.", code="embeddings-twice")

    def __len__(self) -> int:
        return len(self._index)

    def align(self, obs: pd.DataFrame) -> npt.NDArray[np.int64]:
        """Return the row of each observation of a table with columns cohort, sample and obs_id, in any order."""
        wanted = pd.MultiIndex.from_arrays([obs[key].astype(str).to_numpy(object) for key in KEYS])
        rows = self._index.get_indexer(wanted)
        if (rows < 0).any():
            lost = wanted[rows < 0]
            lacking = first_few([*map("/".join, lost)])
            problem = f"{len(lost)} of {len(wanted)} observations have no embedding: {lacking}."
            remedy = "their tiles were not kept or not embedded: make the embeddings of this tile spec again."
            raise InputError("embeddings", problem, remedy, code="embeddings-lacking")
        return rows.astype(np.int64)

    def rows(self, index: npt.ArrayLike | None = None) -> npt.NDArray[np.float32]:
        """Return the features of rows (all by default) in the order given, float32 (m, dim)."""
        index = np.arange(len(self)) if index is None else np.asarray(index, dtype=np.int64)
        if len(index) and (index.min() < 0 or index.max() >= len(self)):
            raise IndexError(f"rows {index.min()} to {index.max()} of {len(self)}")
        features = np.empty((len(index), self.dim), dtype=np.float32)
        batch_of = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(batch_of):
            at = np.flatnonzero(batch_of == number)
            batch = self._batches[number]
            features[at] = batch.features[index[at] - (self._ends[number] - len(batch.features))]
            bad = at[~np.isfinite(features[at]).all(axis=1)]
            if len(bad):
                tiles = first_few([*map("/".join, self._index[index[bad]])])
                problem = f"{len(bad)} tiles have NaN or infinity: {tiles}."
                raise InputError(batch.path, problem, _AGAIN, code="embeddings-nan")
        return features


@dataclass(frozen=True)
class _Batch:
    path: Path
    features: npt.NDArray[np.float32]
    keys: tuple[npt.NDArray[np.object_], ...]
    coords: npt.NDArray[np.float64]
    metadata: dict[str, Any]


def card_content(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a card decides the features: all but what it tells people."""
    return {key: value for key, value in card.items() if key not in _PROSE}


def write_embeddings(
    path: Path,
    *,
    features: npt.NDArray[np.float32] | Sequence[npt.NDArray[np.float32]],
    coords: npt.NDArray[np.float64],
    sample: Sequence[str],
    obs_id: Sequence[str],
    metadata: Mapping[str, Any],
) -> None:
    """Write the artefact, with centres x, y in level-0 px; same content, same bytes. Parts may be memory maps."""
    import h5py

    parts = [features] if isinstance(features, np.ndarray) else list(features)
    text = h5py.string_dtype("utf-8")
    with h5py.File(path, "w", libver=("v110", "v110")) as handle:
        shape = (sum(map(len, parts)), parts[0].shape[1])
        dataset = handle.create_dataset("features", shape, np.float32)
        start = 0
        for part in parts:
            dataset[start : start + len(part)] = part
            start += len(part)
        handle.create_dataset("coords", data=np.ascontiguousarray(coords, np.float64))
        handle.create_dataset("sample", data=np.array(sample, dtype=object), dtype=text)
        handle.create_dataset("obs_id", data=np.array(obs_id, dtype=object), dtype=text)
        handle.attrs[KEY] = canonical_json(metadata)


def open_embeddings(
    paths: Sequence[str | Path], tiles_spec: Mapping[str, Any] | None = None, card: Mapping[str, Any] | None = None
) -> EmbeddingReader:
    """Open one encoder's batches in order; they must agree with each other, and with a spec or card that is given."""
    if not paths:
        remedy = "name at least one encoder under the model's inputs."
        raise InputError("embeddings", "no file was given.", remedy, code="embeddings-none")
    batches: list[_Batch] = []
    for path in map(Path, paths):
        batches.append(_open_batch(path))
        _check_same(path, batches[-1].metadata, batches[0].metadata, tiles_spec, card)
    return EmbeddingReader(batches)


def embedded_keys(embeddings: Mapping[str, Sequence[str | Path]]) -> set[str]:
    """Return ``cohort/sample/obs_id`` of the observations that every encoder has embedded; batches by encoder."""
    readers = [open_embeddings(paths) for paths in embeddings.values()]
    return set.intersection(*(set(observation_keys(reader.obs)) for reader in readers))


def _open_batch(path: Path) -> _Batch:
    import h5py

    if not path.is_file():
        raise InputError(path, "the embedding is missing.", "make the embeddings first.", code="embeddings-missing")
    try:
        metadata = read_metadata(path)
        with h5py.File(path, "r") as handle:
            # The dataset lies in one piece in the file, so that rows can be read without the whole.
            shape, offset = handle["features"].shape, handle["features"].id.get_offset()
            coords = handle["coords"][:]
            sample, obs_id = (handle[key].asstr()[:].astype(object) for key in ("sample", "obs_id"))
        # Nothing can be mapped of a batch whose tiles all lack features (`max_missing` of precomputed ones).
        features = np.memmap(path, "<f4", "r", offset, shape) if shape[0] else np.empty(shape, "<f4")
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(path, f"is no embedding ({error}).", _AGAIN, code="embeddings-damaged") from error
    n = len(features)
    if not metadata or features.ndim != 2 or coords.shape != (n, 2) or len(sample) != n or len(obs_id) != n:
        problem = "lacks its metadata, or its arrays differ in length."
        raise InputError(path, problem, _AGAIN, code="embeddings-damaged")
    cohort = np.full(n, metadata["cohort"], dtype=object)
    return _Batch(path, features, (cohort, sample, obs_id), coords, metadata)


def _check_same(
    path: Path,
    facts: Mapping[str, Any],
    first: Mapping[str, Any],
    tiles_spec: Mapping[str, Any] | None,
    card: Mapping[str, Any] | None,
) -> None:
    """Compare what decides a file's features with the first file's, and with what was asked for."""
    asked_for = {"tiles_spec": tiles_spec, "card": card}
    wanted = _decisive({**first, **{key: value for key, value in asked_for.items() if value is not None}})
    for name, own in _decisive(facts).items():
        asked = wanted[name]
        if canonical_json(own) != canonical_json(asked):
            keys = [key for key in dict.fromkeys([*own, *asked]) if own.get(key) != asked.get(key)]
            different = "; ".join(f"{key} {own.get(key)!r} instead of {asked.get(key)!r}" for key in keys)
            problem = f"has other {name} than asked for, or than the file before it: {different}."
            remedy = "make the embeddings again with the present config."
            raise InputError(path, problem, remedy, code=f"embeddings-{name}")


def _decisive(facts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    tokens = facts.get("tokens") or {}
    return {
        "tiles": TileSpec.from_dict(facts["tiles_spec"]).as_dict(),
        "card": card_content(facts["card"]),
        "tokens": {key: tokens.get(key) for key in ("mode", "k", "stride_um")},
        "weights": {key: facts.get(key) for key in ("weights_sha256", "dim", "feature_names")},
    }
