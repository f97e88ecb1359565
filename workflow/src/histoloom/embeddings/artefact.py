"""The embedding artefact: one h5 of kept tiles' features with their keys; writing, reading, aligning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import KEY, read_metadata
from histoloom.errors import InputError
from histoloom.identity import canonical_json
from histoloom.obs_keys import obs_keys
from histoloom.tiles.spec import same_spec

_SHOWN = 10
_BLOCK = 4096
_SAME = ("weights_sha256", "dim", "feature_names")
# What a card tells people; features do not depend on it.
_PROSE = frozenset(
    {"about", "licence", "gate", "citation", "proven", "unsure", "um_per_px", "default_weights", "revision_seen"}
)
Strings = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Embeddings:
    """Features of tiles with their keys.

    Attributes
    ----------
    features
        float32, (n, dim).
    cohort, sample, obs_id
        Keys, str, (n,).
    coords
        float64, (n, 2), centre x, y in level-0 px.
    metadata
        One per file, in their order.
    """

    features: npt.NDArray[np.float32]
    cohort: Strings
    sample: Strings
    obs_id: Strings
    coords: npt.NDArray[np.float64]
    metadata: list[dict[str, Any]]

    def align(
        self, sample_ids: Sequence[str], obs_ids: Sequence[str], cohorts: Sequence[str] | None = None
    ) -> npt.NDArray[np.int64]:
        """Return the row of each observation.

        Parameters
        ----------
        sample_ids, obs_ids
            Keys wanted, in the order wanted.
        cohorts
            Their cohorts; may be left out where (sample, obs_id) is unique without it.

        Returns
        -------
        ndarray
            int64, (len(obs_ids),): `features[rows]` belongs to the observations.

        Raises
        ------
        InputError
            If an observation has no embedding, or a key is not unique.
        """
        own, wanted = [self.sample, self.obs_id], [_text(sample_ids), _text(obs_ids)]
        if cohorts is not None:
            own, wanted = [self.cohort, *own], [_text(cohorts), *wanted]
        index = pd.MultiIndex.from_arrays(own)
        if index.has_duplicates:
            twice = index[index.duplicated()].unique()
            raise InputError(
                "embeddings",
                f"{len(twice)} observations appear twice: {_keys(twice)}.",
                "name each section once" + (", or give the cohorts too." if cohorts is None else "."),
            )
        target = pd.MultiIndex.from_arrays(wanted)
        rows = index.get_indexer(target)
        if (rows < 0).any():
            lost = target[rows < 0]
            raise InputError(
                "embeddings",
                f"{len(lost)} of {len(target)} observations have no embedding: {_keys(lost)}.",
                "their tiles were not kept or their section was not embedded: make this tile spec's embeddings again.",
            )
        return rows.astype(np.int64)


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
    """Write the artefact; same content, same bytes.

    Parameters
    ----------
    path
        The h5 file.
    features
        (n, dim), or its parts in order; parts may be memory maps, and are copied block by block.
    coords
        (n, 2), centre x, y in level-0 px.
    sample, obs_id
        Keys, n of each.
    metadata
        The file's metadata.
    """
    import h5py

    parts = [features] if isinstance(features, np.ndarray) else list(features)
    text = h5py.string_dtype("utf-8")
    with h5py.File(path, "w", libver=("v110", "v110")) as handle:
        shape = (sum(map(len, parts)), parts[0].shape[1])
        dataset = handle.create_dataset("features", shape, np.float32)
        start = 0
        for part in parts:
            for i in range(0, len(part), _BLOCK):
                block = part[i : i + _BLOCK]
                dataset[start : start + len(block)] = block
                start += len(block)
        handle.create_dataset("coords", data=np.ascontiguousarray(coords, np.float64))
        handle.create_dataset("sample", data=np.array(sample, dtype=object), dtype=text)
        handle.create_dataset("obs_id", data=np.array(obs_id, dtype=object), dtype=text)
        handle.attrs[KEY] = canonical_json(metadata)


def read_embeddings(
    paths: Sequence[str | Path],
    *,
    tiles_spec: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
) -> Embeddings:
    """Read the batches of one encoder and put them together in the order given.

    Parameters
    ----------
    paths
        The h5 files; they must agree on card, weights and tile spec.
    tiles_spec
        The tile spec asked for; checked when given.
    card
        The full card asked for; checked when given.

    Raises
    ------
    InputError
        If a file is missing or damaged, was made by another encoder or from other tiles, has NaN, or a
        key appears twice.
    """
    if not paths:
        raise InputError("embeddings", "no file was given.", "name at least one encoder under the model's inputs.")
    parts: list[tuple[Any, ...]] = []
    metadata: list[dict[str, Any]] = []
    for path in map(Path, paths):
        part, facts = _read_one(path)
        _check_same(path, facts, metadata[0] if metadata else None, tiles_spec, card)
        parts.append(part)
        metadata.append(facts)
    features, cohort, sample, obs_id, coords = (np.concatenate(column) for column in zip(*parts, strict=True))
    found = Embeddings(features, cohort, sample, obs_id, coords, metadata)
    keys = pd.MultiIndex.from_arrays([found.cohort, found.sample, found.obs_id])
    if keys.has_duplicates:
        twice = keys[keys.duplicated()].unique()
        raise InputError(
            ", ".join(map(str, paths)),
            f"{len(twice)} observations appear twice: {_keys(twice)}.",
            "name each batch once.",
        )
    return found


def embedded_keys(embeddings: Mapping[str, Sequence[str | Path]]) -> set[str]:
    """Return ``cohort/sample/obs_id`` of the observations that every encoder has embedded; batches by encoder."""
    by_encoder = []
    for paths in embeddings.values():
        found = read_embeddings(paths)
        by_encoder.append(set(obs_keys(found.cohort, found.sample, found.obs_id)))
    return set.intersection(*by_encoder)


def _read_one(path: Path) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import h5py

    remedy = "delete it and make the embeddings again."
    if not path.is_file():
        raise InputError(path, "the embedding is missing.", "make the embeddings first.")
    try:
        facts = read_metadata(path)
        with h5py.File(path, "r") as handle:
            features, coords = handle["features"][:], handle["coords"][:]
            sample, obs_id = handle["sample"].asstr()[:], handle["obs_id"].asstr()[:]
    except (OSError, KeyError) as error:
        raise InputError(path, f"is no embedding ({error}).", remedy) from error
    n = len(features)
    if not facts or features.ndim != 2 or coords.shape != (n, 2) or len(sample) != n or len(obs_id) != n:
        raise InputError(path, "lacks its metadata, or its arrays differ in length.", remedy)
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        i = int(np.argmax(bad))
        raise InputError(path, f"{int(bad.sum())} tiles have NaN, the first is {sample[i]}/{obs_id[i]}.", remedy)
    cohort = np.full(n, facts["cohort"], dtype=object)
    return (features, cohort, sample.astype(object), obs_id.astype(object), coords), facts


def _check_same(
    path: Path,
    facts: Mapping[str, Any],
    first: Mapping[str, Any] | None,
    tiles_spec: Mapping[str, Any] | None,
    card: Mapping[str, Any] | None,
) -> None:
    remedy = "make the embeddings again with the present config."
    expected = tiles_spec if tiles_spec is not None else (first or {}).get("tiles_spec")
    if expected is not None and not same_spec(facts["tiles_spec"], expected):
        raise InputError(
            path, f"was made from other tiles than asked for: {_differences(facts['tiles_spec'], expected)}.", remedy
        )
    wanted = card if card is not None else (first or {}).get("card")
    if wanted is not None and canonical_json(card_content(facts["card"])) != canonical_json(card_content(wanted)):
        told = _differences(card_content(facts["card"]), card_content(wanted))
        raise InputError(path, f"was made with another card: {told}.", remedy)
    if first is not None and _settings(facts) != _settings(first):
        raise InputError(path, "averages other tokens than the file before it.", remedy)
    for key in _SAME if first is not None else ():
        if facts.get(key) != (first or {}).get(key):
            raise InputError(path, f"differs in {key} from the file before it: not the same encoder.", remedy)


def _settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: (facts.get("tokens") or {}).get(key) for key in ("mode", "k", "stride_um")}


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    keys = [k for k in dict.fromkeys([*one, *other]) if one.get(k) != other.get(k)]
    return "; ".join(f"{k} {one.get(k)!r} instead of {other.get(k)!r}" for k in keys)


def _text(values: Sequence[str]) -> Strings:
    return np.asarray([str(v) for v in values], dtype=object)


def _keys(index: pd.MultiIndex) -> str:
    more = f" and {len(index) - _SHOWN} more" if len(index) > _SHOWN else ""
    return ", ".join("/".join(map(str, key)) for key in index[:_SHOWN]) + more
