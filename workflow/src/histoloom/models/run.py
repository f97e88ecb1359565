"""The steps of a model's life in an experiment: train all folds, predict the test observations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import KEY, identities_of, identity_of
from histoloom.checkpoints import Checkpoints, resume_identity
from histoloom.devices import device_kind, lease_device
from histoloom.efficiency import Meter
from histoloom.errors import InputError
from histoloom.folds import ALL, control_folds, read_folds
from histoloom.identity import canonical_json, make_identity
from histoloom.kinds import MODELS, load
from histoloom.models.artefact import load_model, save_model
from histoloom.models.base import Fold, Model, Rows
from histoloom.models.data import build_training, load_features
from histoloom.obs_keys import obs_keys
from histoloom.targets import Target, read_target

logger = logging.getLogger(__name__)

# Keys of an experiment that change what is trained; which other models it has does not.
_EXPERIMENT_KEYS = ("train_seeds", "standardise", "selection", "shuffle_labels", "seed")
LEAKS = "leaks"  # the variant that holds the predictions of a comparison, and of the fold it is held against
TRANSDUCTIVE = frozenset({"per_cohort", "per_section"})
Embeddings = Mapping[str, Sequence[Path]]


def used_embeddings(spec: Mapping[str, Any], embeddings: Embeddings) -> dict[str, list[Path]]:
    """Return the batches of the encoders a model takes, in its order."""
    return {name: [Path(p) for p in embeddings.get(name, [])] for name in spec.get("inputs", [])}


def _features(
    model: Model, target: Target, embeddings: Embeddings
) -> tuple[np.ndarray | None, dict[str, dict[str, Any]]]:
    if "features" not in model.needs:
        return None, {}
    return load_features(target.obs, embeddings, model.spec["inputs"], target.metadata["tiles"])


def train_model(
    *,
    spec: Mapping[str, Any],
    experiment: Mapping[str, Any],
    target: Path,
    folds: Path,
    embeddings: Embeddings,
    out: Path,
    efficiency: Path,
    threads: int,
    scratch: Path | None = None,
    device: str = "auto",
) -> None:
    """Fit a model on every fold, ``all`` included, and every training seed.

    Parameters
    ----------
    spec
        The model's entry, with its ``name``.
    experiment
        The experiment's entry.
    target, folds
        Its target and folds.
    embeddings
        Batches by encoder.
    out
        ``.pt`` to write; a sidecar lies next to it.
    efficiency
        JSON with seconds and peak memory; feeds efficiency tables only.
    threads
        CPU threads; already set by the job, recorded here.
    scratch
        Folder of checkpoints of a long fit; None keeps none.
    device
        ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    InputError
        If embeddings do not fit the target.
    """
    read = read_target(target)
    table, fold_facts = read_folds(folds)
    model: Model = load("models", spec["kind"])(spec)
    features, spaces = _features(model, read, embeddings)
    data = build_training(read, table, features, experiment, control_folds(fold_facts["compared"]))
    identity = make_identity(
        "models",
        {"model": dict(spec), "experiment": {key: experiment[key] for key in _EXPERIMENT_KEYS}},
        identities_of({"target": target, "folds": folds, **used_embeddings(spec, embeddings)}),
        experiment["seed"],
        version=MODELS[spec["kind"]].version,
    )
    with lease_device(device) as leased:
        if scratch is not None:
            sources = ("models", "folds")
            state = resume_identity(identity["sha256"], sources, device=device_kind(leased), threads=threads)
            model.checkpoints = Checkpoints(scratch, state)
        meter = Meter("models", leased, threads)
        choices = model.fit(data, leased)
        meter.write(efficiency, len(data.folds) * (len(data.seeds) if model.stochastic else 1))
    for fold, choice in choices.items():
        logger.info("%s: %s", fold, canonical_json(choice))
    facts = {
        "types": read.types,
        "encoders": spaces,
        "tiles": dict(read.metadata["tiles"]),
        "train_seeds": list(data.seeds) if model.stochastic else [],
        "choices": choices,
        "units": read.metadata["units"],
        **{key: experiment[key] for key in ("standardise", "selection", "shuffle_labels")},
    }
    protocol = make_protocol(model, read, experiment, fold_facts, facts)
    save_model(
        model,
        facts,
        {"kind": spec["kind"], "spec": dict(spec), **facts, "protocol": protocol, "identity": identity},
        out,
    )


def make_protocol(
    model: Model, target: Target, experiment: Mapping[str, Any], fold_facts: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the choices that every number made with these predictions is stamped with."""
    meta = target.metadata
    chosen: dict[str, Any] = {}
    for key in ("epochs", "alpha"):
        found = [v for c in facts["choices"].values() if key in c for v in np.atleast_1d(c[key]).tolist()]
        if found:
            chosen[key] = found[0] if min(found) == max(found) else [min(found), max(found)]
    return {
        "split": fold_facts["split"],
        "on_overlap": fold_facts["on_overlap"],
        "overlap_patients": fold_facts["overlap_patients"],
        "compared": {k: v for k, v in fold_facts["compared"].items() if k != "folds"},
        "selection": experiment["selection"],
        "chosen": chosen,
        "tuned_on_test": experiment["selection"] == "test_as_published" and bool(chosen),
        "standardise": experiment["standardise"] if "features" in model.needs else "none",
        "transductive": experiment["standardise"] in TRANSDUCTIVE and "features" in model.needs,
        "shuffle_labels": experiment["shuffle_labels"],
        "uses_test_labels": model.uses_test_labels,
        "target": dict(meta["recipe"]),
        "units": meta["units"],
        "labels": meta["labels"],
        "truth": meta["truth"],
        "tiles": meta["tiles"]["name"],
        "encoders": {
            name: {key: space[key] for key in ("card", "revision", "weights_sha256")}
            for name, space in facts["encoders"].items()
        },
        "kind": model.spec["kind"],
        "train_seeds": facts["train_seeds"],
    }


def check_spaces(where: Path, trained: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse embeddings of another encoder, or other weights, than the model was trained on."""
    for name, space in trained.items():
        if given.get(name) != space:
            raise InputError(
                where,
                f"was trained on encoder '{name}' as {space}; the embeddings given are {given.get(name)}.",
                "embed with the same card, revision and weights, or train again.",
            )


def predict_all_seeds(
    model: Model, facts: Mapping[str, Any], fold: str, rows: Rows
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Return the mean prediction and, for stochastic models, each training seed's."""
    if not model.stochastic:
        return model.predict(fold, -1, rows), {}
    by_seed = {seed: model.predict(fold, seed, rows) for seed in facts["train_seeds"]}
    return np.mean(list(by_seed.values()), axis=0), by_seed


def tested_folds(folds: Sequence[Fold], variant: str, where: Path) -> list[Fold]:
    """Return the folds that a variant predicts.

    Folds of a comparison are in `LEAKS` alone, so that nothing that reads another variant can average them.

    Raises
    ------
    InputError
        If there is none.
    """
    chosen = [fold for fold in folds if fold.name != ALL and (variant == LEAKS or not fold.compared)]
    if not chosen:
        raise InputError(
            where,
            f"has no fold for predictions '{variant}'.",
            f"predictions of a comparison (split paired_leakage, transfer with shared patients) are '{LEAKS}'; others "
            "are 'default'.",
        )
    return chosen


def predict_model(
    *,
    model: Path,
    spec: Mapping[str, Any],
    experiment: Mapping[str, Any],
    target: Path,
    folds: Path,
    embeddings: Embeddings,
    variant: str,
    out: Path,
) -> None:
    """Predict every fold's test observations.

    Parameters
    ----------
    model
        From `train_model`.
    spec, experiment, target, folds, embeddings
        As given to `train_model`.
    variant
        Name of an inference-only choice; `LEAKS` predicts a comparison's folds, every other name leaves them out.
    out
        h5ad to write: X the mean over training seeds, layers ``labels``, ``seed_<s>``
        and, where simulated, ``ground_truth``.

    Raises
    ------
    InputError
        If the embeddings are not those of training, or the folds have none for the variant.
    """
    fitted, facts = load_model(Path(model))
    read = read_target(target)
    table, fold_facts = read_folds(folds)
    if facts["types"] != read.types:
        raise InputError(model, "was trained for other cell types than the target's.", "remove it and train again.")
    features, spaces = _features(fitted, read, embeddings)
    check_spaces(Path(model), facts["encoders"], spaces)
    data = build_training(read, table, features, experiment, control_folds(fold_facts["compared"]))
    labels = read.values if fitted.uses_test_labels else None
    rows = Rows(read.obs, data.rows.features, labels)
    parts = []
    for fold in tested_folds(data.folds, variant, folds):
        parts.append((fold, *predict_all_seeds(fitted, facts, fold.name, rows.take(fold.test))))
    protocol = make_protocol(fitted, read, experiment, fold_facts, facts)
    metadata = {
        "experiment": str(experiment.get("name") or Path(target).parent.name),
        "model": str(spec["name"]),
        "variant": variant,
        "protocol": protocol,
        "choices": facts["choices"],
        "units": read.metadata["units"],
        "truth_units": read.metadata["truth_units"],
        "constant_types": read.metadata["constant_types"],
        "identity": make_identity(
            "predictions",
            {"variant": variant, "model": str(spec["name"])},
            {"model": identity_of(model), "target": identity_of(target), "folds": identity_of(folds)},
            version=MODELS[spec["kind"]].version,
        ),
    }
    index = np.concatenate([fold.test for fold, _, _ in parts])
    obs = read.obs.iloc[index].copy()
    obs.insert(0, "fold", np.repeat([fold.name for fold, _, _ in parts], [len(fold.test) for fold, _, _ in parts]))
    obs.index = obs_keys(obs["fold"], obs.index)
    layers = {"labels": read.values[index]}
    for seed in facts["train_seeds"]:
        layers[f"seed_{seed}"] = np.concatenate([by_seed[seed] for _, _, by_seed in parts])
    if read.truth is not None:
        layers["ground_truth"] = read.truth[index]
    write_predictions(
        np.concatenate([mean for _, mean, _ in parts]), obs, read.types, read.spatial[index], layers, metadata, out
    )


def write_predictions(
    values: np.ndarray,
    obs: pd.DataFrame,
    types: Sequence[str],
    spatial: np.ndarray,
    layers: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    out: Path,
) -> None:
    """Write a predictions h5ad; every artefact of predictions goes through here.

    Raises
    ------
    FloatingPointError
        If a prediction is not finite: a diverged fit must not look like a result.
    """
    import anndata

    if not np.isfinite(values).all():
        bad = obs.index[~np.isfinite(values).all(axis=1)]
        raise FloatingPointError(f"predictions of {len(bad)} observations are not finite, first {bad[0]}")
    data = anndata.AnnData(X=values, obs=obs, var=pd.DataFrame(index=pd.Index(list(types), dtype=str)))
    for name, layer in layers.items():
        data.layers[name] = layer
    data.obsm["spatial"] = spatial
    data.uns[KEY] = canonical_json(metadata)
    data.write_h5ad(out)
