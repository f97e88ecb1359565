"""Predict on slides without expression: the model trained on everyone, over the tiles of a new slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from histoloom.artefacts import identities_of
from histoloom.errors import InputError
from histoloom.folds import ALL
from histoloom.identity import make_identity
from histoloom.kinds import MODELS
from histoloom.models.artefact import load_model
from histoloom.models.base import Rows
from histoloom.models.data import load_features
from histoloom.models.run import (
    TRANSDUCTIVE,
    Embeddings,
    check_spaces,
    predict_all_seeds,
    used_embeddings,
    write_predictions,
)
from histoloom.models.scaling import standardise_groups
from histoloom.obs_keys import observation_keys
from histoloom.samples.section import open_section
from histoloom.targets.artefact import plain
from histoloom.tiles.spec import TileSpec


def _observations(samples: Sequence[Path]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return the observations of sections (cohort, sample, obs_id, array positions, x, y) and each section's facts."""
    frames, facts = [], []
    for path in samples:
        section = open_section(path)
        frame = plain(section.obs[["cohort", "sample", "array_row", "array_col"]])
        frame.insert(2, "obs_id", section.obs.index)
        frame["x"], frame["y"] = section.spatial.T
        frames.append(frame.set_axis(observation_keys(frame)))
        facts.append(section.metadata)
    return pd.concat(frames), facts


def apply_model(
    *,
    model: Path,
    spec: Mapping[str, Any],
    experiment: Mapping[str, Any],
    embeddings: Embeddings,
    samples: Sequence[Path],
    out: Mapping[str, Path],
) -> None:
    """Predict with the model of fold ``all``.

    Parameters
    ----------
    model
        From `histoloom.models.train_model`.
    spec
        The model's entry, with its ``name``.
    experiment
        The entry of the apply experiment.
    embeddings
        Batches of the new slides by encoder.
    samples
        Section artefacts of the new slides; their tiles are the observations.
    out
        ``predictions``: h5ad with index ``cohort/sample/obs_id``, X (n, T), ``obsm["spatial"]``,
        layers ``seed_<s>``; metadata holds mpp
        and the tile's side per section.

    Raises
    ------
    InputError
        If the embeddings come from other tiles or weights than the model's, or nothing is embedded.
    """
    fitted, facts = load_model(Path(model))
    obs, sections = _observations([Path(path) for path in samples])
    features, used = None, used_embeddings(spec, embeddings)
    if "features" in fitted.needs:
        from histoloom.embeddings.artefact import embedded_keys

        obs = obs[obs.index.isin(embedded_keys(used))]
        if not len(obs):
            raise InputError(
                ", ".join(str(path) for path in samples),
                "no kept tile.",
                "look at the tile picture; ease `background`.",
            )
        features, spaces = load_features(obs, used, fitted.spec["inputs"], facts["tiles"])
        check_spaces(Path(model), facts["encoders"], spaces)
        features = standardise_groups(features, obs, facts["standardise"])
    tile_spec = TileSpec.from_dict(facts["tiles"]["spec"])
    mean, by_seed = predict_all_seeds(fitted, facts, ALL, Rows(obs, features))
    metadata = {
        "experiment": str(experiment.get("name", "")),
        "from": experiment["from"],
        "model": str(spec["name"]),
        "variant": "default",
        "units": facts["units"],
        "tiles": facts["tiles"],
        "transductive": facts["standardise"] in TRANSDUCTIVE and features is not None,
        "sections": [
            {
                "cohort": meta["cohort"],
                "sample": meta["sample"],
                "mpp": meta.get("mpp"),
                "size_level0_px": tile_spec.size_level0_px(float(meta["mpp"])),
                "pitch_px": meta.get("pitch_px"),
                "n_tiles": int(((obs["cohort"] == meta["cohort"]) & (obs["sample"] == meta["sample"])).sum()),
            }
            for meta in sections
        ],
        "identity": make_identity(
            "apply",
            {"model": str(spec["name"])},
            identities_of({"model": model, "samples": samples, **used}),
            version=MODELS[spec["kind"]].version,
        ),
    }
    layers = {f"seed_{seed}": values for seed, values in by_seed.items()}
    write_predictions(mean, obs, facts["types"], obs[["x", "y"]].to_numpy(), layers, metadata, out["predictions"])
