"""What a model was trained on, as far as predictions on new slides need it: patients, um/px, and how its tiles look.

A new tile is compared with training tiles in the space of the model's features. The limit comes from distances between
tiles of different patients, because a new slide is of a new patient too: distances within a section would call every
new slide unlike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histoloom.artefacts import identities_of, read_metadata
from histoloom.errors import InputError
from histoloom.folds import ALL
from histoloom.folds.seeds import rng_for
from histoloom.identity import canonical_json, make_identity
from histoloom.inputs.scaling import fit_scaler
from histoloom.models.base import Arrays
from histoloom.models.setup import Files, Setup
from histoloom.obs_keys import section_keys
from histoloom.stats import Floats

_FACTS = "facts.json"
_MOST_TILES = 5000
_COMPONENTS = 32
_NEIGHBOURS = 10
_BLOCK = 1024
LIMIT = 0.99
"""A tile is unlike training when it is farther from it than this share of training tiles is from other patients."""

Features = npt.NDArray[np.float32]


def summarise_training(
    *, spec: Mapping[str, Any], experiment: Mapping[str, Any], files: Files, sections: Sequence[Path], out: Path
) -> None:
    """Write what the models of fold ``all`` were trained on, as an npz; `sections` are the canonical ones.

    Facts: patients (``cohort/patient``), sections, observations, the range of um/px. Arrays, for models that take
    features: those of `fit_distances`.
    """
    setup = Setup(spec, experiment, files)
    fold = next((fold for fold in setup.folds if fold.name == ALL), None)
    if fold is None:
        problem, remedy = f"has no fold '{ALL}'.", "name an experiment whose models are trained on everyone."
        raise InputError(files["folds"][0], problem, remedy, code="fold-unknown")
    rows = np.sort(np.concatenate([fold.train, fold.val]))
    obs = setup.target.obs.iloc[rows]
    mpp = [float(facts["mpp"]) for facts in map(read_metadata, sections) if facts.get("mpp") is not None]
    arrays: Arrays = {}
    if setup.spaces:
        part, seed = setup.part(rows, fold), experiment["seed"]
        groups = part.patient if len(np.unique(part.patient)) > 1 else part.section
        arrays = fit_distances(setup.inputs.take(rows).features(), groups, seed)
    read = {**files, "sections": sections}
    facts = {
        "patients": sorted({f"{c}/{p}" for c, p in zip(obs["cohort"], obs["patient"], strict=True)}),
        "sections": len(set(section_keys(obs))),
        "observations": len(rows),
        "um_per_px": [min(mpp), max(mpp)] if mpp else None,
        "identity": make_identity("training_range", {"model": spec["name"]}, identities_of(read)),
    }
    with out.open("wb") as handle:
        np.savez(handle, **{_FACTS: np.frombuffer(canonical_json(facts).encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]


def fit_distances(features: Features, groups: npt.NDArray[np.intp], seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return a map of training features, (n, D), to a small space, points in it and the quantiles of their distances.

    At most 5,000 tiles are kept, in at most 32 principal components of standardised features and one more coordinate,
    the distance from their plane. A tile's distance is the mean to its 10 nearest points. `quantiles` (101,) are those
    of points to points of other `groups`; with a single group, of other points.
    """
    from sklearn.decomposition import PCA

    kept = np.arange(len(features))
    if len(kept) > _MOST_TILES:
        kept = np.sort(rng_for(seed, "training range").choice(kept, _MOST_TILES, replace=False))
    scaler = fit_scaler(features)
    scaled = scaler(features[kept])
    size = max(1, min(_COMPONENTS, scaled.shape[1], len(kept) - 1))
    pca = PCA(size, svd_solver="full", random_state=0).fit(scaled)
    arrays = {"mean": scaler.mean, "scale": scaler.scale, "centre": pca.mean_, "components": pca.components_}
    points = _project(features[kept], arrays)
    own = groups[kept] if len(np.unique(groups[kept])) > 1 else np.arange(len(kept))
    distances = [
        _nearest(np.where(own[start : start + _BLOCK, None] == own[None], np.inf, block))
        for start, block in _distances(points, points)
    ]
    quantiles = np.quantile(np.concatenate(distances), np.linspace(0, 1, 101))
    return {**arrays, "points": points, "quantiles": quantiles}


def _project(features: Features, arrays: Mapping[str, npt.NDArray[Any]]) -> Features:
    """Return (n, K + 1) coordinates: principal components, and the distance from their plane."""
    scaled = (features - arrays["mean"]) / arrays["scale"] - arrays["centre"]
    inside = scaled @ arrays["components"].T
    beyond = np.square(scaled).sum(axis=1) - np.square(inside).sum(axis=1)
    return np.column_stack([inside, np.sqrt(np.maximum(beyond, 0))]).astype(np.float32)


def _distances(a: Features, b: Features) -> Iterable[tuple[int, Floats]]:
    from scipy.spatial.distance import cdist

    for start in range(0, len(a), _BLOCK):
        yield start, cdist(a[start : start + _BLOCK], b)


def _nearest(distances: Floats) -> Floats:
    """Return the mean of the smallest finite distances of each row."""
    count = min(_NEIGHBOURS, int(np.isfinite(distances).sum(axis=1).min()))
    return np.asarray(np.partition(distances, count - 1, axis=1)[:, :count].mean(axis=1))


@dataclass(frozen=True)
class TrainingRange:
    """What `summarise_training` wrote."""

    facts: Mapping[str, Any]
    arrays: Arrays

    @property
    def measures_tiles(self) -> bool:
        """Whether tiles can be compared: the model takes features."""
        return bool(self.arrays)

    def share_nearer(self, features: Features) -> Floats:
        """Return (n,) the share of training tiles that are nearer to other patients than a tile is to training."""
        points = _project(features, self.arrays)
        distances = np.concatenate([_nearest(block) for _, block in _distances(points, self.arrays["points"])])
        quantiles = self.arrays["quantiles"]
        return np.asarray(np.searchsorted(quantiles, distances, side="right") / len(quantiles))


def read_training_range(path: Path) -> TrainingRange:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        return TrainingRange(json.loads(arrays.pop(_FACTS).tobytes()), arrays)
    except (OSError, ValueError, KeyError, EOFError) as error:
        problem = f"does not say what a model was trained on ({error})."
        raise InputError(path, problem, "remove it and run again.", code="training-range") from error
