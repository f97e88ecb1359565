"""The steps of a model's life: fit folds, predict their test observations, predict new slides."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import Table, identities_of, write_table
from histoloom.checkpoints import Checkpoints, resume_identity
from histoloom.devices import lease_device
from histoloom.efficiency import Meter
from histoloom.errors import InputError
from histoloom.folds import ALL
from histoloom.identity import canonical_json, make_identity
from histoloom.inputs import Inputs, open_inputs
from histoloom.inputs.build import TRANSDUCTIVE, available
from histoloom.kinds import find
from histoloom.models.artefact import SavedModels, load_models, name_of, save_models
from histoloom.models.base import Fitted, FoldData, JobContext
from histoloom.models.selection import validated
from histoloom.models.setup import LEAKS, Files, FoldRows, Setup
from histoloom.obs_keys import observation_keys
from histoloom.samples.section import open_section
from histoloom.targets.base import dense, one_hot
from histoloom.tiles.spec import TileSpec

logger = logging.getLogger(__name__)

Key = tuple[str, int]


# fit -------------------------------------------------------------------------------------------------------------


def fit_models(
    *,
    spec: Mapping[str, Any],
    experiment: Mapping[str, Any],
    files: Files,
    out: Path,
    efficiency: Path,
    threads: int = 1,
    scratch: Path | None = None,
    device: str = "auto",
    fold: str | None = None,
    seed: int | None = None,
) -> None:
    """Fit a model on every fold, ``all`` included, and every training seed; or on one fold for one seed.

    Parameters
    ----------
    spec, experiment, files
        As of `Setup`; ``others`` in files: finished models of the other folds, for a fold that takes their median.
    out
        File to write; a sidecar lies next to it.
    efficiency
        JSON with seconds, peak memory and what the model measured; feeds efficiency tables only.
    scratch
        Folder of checkpoints of a long fit; None keeps none.
    device
        ``auto``, ``cpu`` or ``cuda``.
    fold, seed
        One fold and training seed, or None for all; a model that draws no random numbers has none.

    Raises
    ------
    InputError
        If inputs do not fit the target, or the model does not serve it.
    """
    setup = Setup(spec, experiment, files)
    seed = -1 if fold is not None and not setup.kind.stochastic else seed
    identity = setup.identity(fold, seed)
    chosen = setup.folds if fold is None else [f for f in setup.folds if f.name == fold]
    if not chosen:
        raise InputError(files["folds"][0], f"has no fold '{fold}'.", "make the folds again.", code="fold-unknown")
    keys = [(f, s) for f in chosen for s in (setup.seeds if seed is None else [seed])]
    with lease_device(device) as leased:
        checkpoints = None
        if scratch is not None:
            stages = ("models", "folds", "inputs", "networks")
            state = resume_identity(identity["sha256"], stages, device=leased.partition(":")[0], threads=threads)
            checkpoints = Checkpoints(scratch, state)
        job = JobContext(leased, threads, checkpoints, logger)
        meter = Meter("models", leased, threads)
        earlier = [load_models(path) for path in files.get("others", [])]
        fitted = _fit(setup, keys, job, [c for m in earlier for c in m.metadata["choices"].values()])
        meter.write(efficiency, len(keys), **job.record)
    choices = {name_of(*key): dict(model.choices) for key, model in fitted.items()}
    for name, choice in choices.items():
        logger.info("%s: %s", name, canonical_json(choice))
    meta = setup.target.metadata
    metadata = {
        "spec": dict(spec),
        "models": [list(key) for key in fitted],
        "outputs": {f.name: setup.panels[f.name] for f in chosen} if files.get("panel") else setup.target.outputs,
        "target_kind": experiment["target"]["kind"],
        "encoders": setup.spaces,
        "tiles": dict(meta["tiles"]),
        "units": meta["units"],
        "choices": choices,
        **{key: experiment[key] for key in ("standardise", "selection", "shuffle_labels")},
        "protocol": setup.protocol(choices),
        "identity": identity,
    }
    save_models(fitted, metadata, out)


def _fit(
    setup: Setup, keys: Sequence[tuple[FoldRows, int]], job: JobContext, earlier: Sequence[Mapping[str, Any]]
) -> dict[Key, Fitted]:
    """Fit folds; those that take the median of others' choices come last."""
    names = [(fold.name, seed) for fold, seed in keys]
    if hasattr(setup.model, "fit_many"):
        data = [replace(setup.fold_data(fold, seed), earlier=tuple(earlier)) for fold, seed in keys]
        return dict(zip(names, setup.model.fit_many(data, job), strict=True))
    fitted: dict[Key, Fitted] = {}
    chosen = list(earlier)
    for fold, seed in sorted(keys, key=lambda key: key[0].name == ALL):
        data_of: FoldData = replace(setup.fold_data(fold, seed), earlier=tuple(chosen))
        model = setup.model.fit(data_of, job)
        fitted[fold.name, seed] = model
        if not fold.comparison and validated(model.choices):
            chosen.append(model.choices)
    return {name: fitted[name] for name in names}


# predict ---------------------------------------------------------------------------------------------------------


def predict_models(
    *,
    models: Sequence[Path],
    spec: Mapping[str, Any],
    experiment: Mapping[str, Any],
    files: Files,
    variant: str,
    out: Path,
    threads: int = 1,
    device: str = "auto",
) -> None:
    """Predict every fold's test observations.

    Parameters
    ----------
    models
        From `fit_models`: one file, or one per fold and training seed.
    spec, experiment, files
        As given to `fit_models`; every model file must have been made from just these.
    variant
        ``default``, a key of the model's ``variants``, or `LEAKS`: a comparison's folds, which every other variant
        leaves out.
    out
        h5ad to write: X float32, the mean over training seeds; layers ``labels``, ``seed_<s>`` and, where simulated,
        ``ground_truth``. An output that is not in a fold's panel is NaN there.

    Raises
    ------
    InputError
        If a model was made from other folds, target, settings or embeddings; ``variant-unknown``; ``fold-none``.
    """
    setup = Setup(spec, experiment, files)
    settings = variant_settings(spec, variant)
    by_key = _own_models(setup, [load_models(path) for path in models])
    folds = _tested_folds(setup.folds, variant, files["folds"][0])
    outputs = list(dict.fromkeys(name for fold in folds for name in setup.panels[fold.name]))
    column = {name: i for i, name in enumerate(outputs)}
    index = np.concatenate([fold.test for fold in folds])
    shape, seeds = (len(index), len(outputs)), setup.seeds
    layers = {f"seed_{seed}": np.full(shape, np.nan, np.float32) for seed in seeds if setup.kind.stochastic}
    labels = np.full(shape, np.nan, np.float32)
    mean = labels.copy()
    start = 0
    with lease_device(device) as leased:
        job = JobContext(leased, threads, None, logger)
        for fold in folds:
            own = setup.panels[fold.name]
            block = np.ix_(np.arange(start, start + len(fold.test)), [column[name] for name in own])
            y = setup.target.labels(fold.test, own)
            labels[block] = _dense_labels(y, len(own))
            inputs = setup.inputs.take(fold.test)
            if setup.model.uses_test_labels:
                inputs = replace(inputs, labels=labels[block])
            by_seed = [by_key[fold.name, seed].fitted(fold.name, seed).predict(inputs, settings, job) for seed in seeds]
            mean[block] = np.mean(by_seed, axis=0, dtype=np.float64)
            for seed, values in zip(seeds, by_seed, strict=True):
                if setup.kind.stochastic:
                    layers[f"seed_{seed}"][block] = values
            _check_finite(mean[block], setup.target.obs.index[fold.test])
            start += len(fold.test)
    meta, saved = setup.target.metadata, next(iter(by_key.values()))
    choices = {k: v for m in {id(m): m for m in by_key.values()}.values() for k, v in m.metadata["choices"].items()}
    obs = setup.target.obs.iloc[index].copy()
    obs.insert(0, "fold", np.repeat([fold.name for fold in folds], [len(fold.test) for fold in folds]))
    obs.index = pd.Index(obs["fold"] + "/" + obs.index)
    layers["labels"] = labels
    if setup.target.ground_truth is not None:
        layers["ground_truth"] = setup.target.ground_truth[index]
    metadata = {
        "experiment": str(experiment.get("name") or Path(files["target"][0]).parent.name),
        "model": str(spec["name"]),
        "variant": variant,
        "target_kind": experiment["target"]["kind"],
        "protocol": setup.protocol(choices) | ({"variant": dict(settings)} if settings else {}),
        "choices": choices,
        "units": meta["units"],
        "truth_units": meta["truth_units"],
        "constant_types": meta["constant_types"],
        "identity": make_identity(
            "predictions",
            {"variant": variant, "settings": dict(settings), "model": str(spec["name"])},
            {"target": saved.metadata["identity"]["inputs"]["target.0000"], **identities_of({"models": models})},
            version=setup.kind.version,
        ),
    }
    write_predictions(mean, obs, outputs, layers, metadata, out)


def variant_settings(spec: Mapping[str, Any], variant: str) -> Mapping[str, Any]:
    """Return the settings of a variant; a comparison takes the first; `InputError` ``variant-unknown``."""
    variants: Mapping[str, Mapping[str, Any]] = spec.get("variants") or {"default": {}}
    if variant == LEAKS:
        return next(iter(variants.values()))
    if variant not in variants:
        raise InputError(
            f"model '{spec.get('name')}'", f"has no variant '{variant}'; it has {', '.join(variants)}.",
            "name one of these, or add it under the model's `variants`.", code="variant-unknown",
        )  # fmt: skip
    return variants[variant]


def _own_models(setup: Setup, saved: Sequence[SavedModels]) -> dict[Key, SavedModels]:
    """Return the model files by fold and seed, each checked to be what this experiment would train now."""
    by_key: dict[Key, SavedModels] = {}
    for model in saved:
        single = model.names()[0] if setup.kind.job == "fold" and model.names() else (None, None)
        expected, made = setup.identity(*single), model.metadata["identity"]
        if made["sha256"] != expected["sha256"]:
            parts = [("params", k) for k in expected["params"]] + [("inputs", k) for k in expected["inputs"]]
            changed = [k for group, k in parts if made.get(group, {}).get(k) != expected[group][k]]
            raise InputError(
                model.path, f"was trained from something else than this run has: {', '.join(changed) or 'version'}.",
                "remove it and train again.", code="model-other-run",
            )  # fmt: skip
        _check_spaces(model.path, model.metadata["encoders"], setup.spaces)
        by_key |= dict.fromkeys(model.names(), model)
    lacking = [
        name_of(f.name, s) for f in setup.folds for s in setup.seeds if (f.name, s) not in by_key and f.name != ALL
    ]
    if lacking:
        problem = f"no model of fold {', '.join(lacking[:5])} was given."
        raise InputError(setup.spec["name"], problem, "train the fold.", code="model-fold-missing")
    return by_key


def _tested_folds(folds: Sequence[FoldRows], variant: str, where: Path) -> list[FoldRows]:
    """Return the folds that a variant predicts; those of a comparison are in `LEAKS` alone."""
    chosen = [fold for fold in folds if fold.name != ALL and (variant == LEAKS or not fold.comparison)]
    if not chosen:
        raise InputError(
            where, f"has no fold for predictions '{variant}'.",
            f"predictions of a comparison (split paired_leakage, transfer with shared patients) are '{LEAKS}'.",
            code="fold-none",
        )  # fmt: skip
    return chosen


def _dense_labels(y: Any, n_outputs: int) -> npt.NDArray[np.float32]:
    return one_hot(y, n_outputs) if np.ndim(y) == 1 else dense(y)


def _check_finite(values: npt.NDArray[np.float32], names: pd.Index) -> None:
    """Raise FloatingPointError for predictions that are not finite: a diverged fit must not look like a result."""
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise FloatingPointError(f"predictions of {int(bad.sum())} observations are not finite, first {names[bad][0]}")


def write_predictions(
    values: npt.NDArray[np.float32],
    obs: pd.DataFrame,
    outputs: Sequence[str],
    layers: Mapping[str, npt.NDArray[np.float32]],
    metadata: Mapping[str, Any],
    out: Path,
) -> None:
    """Write a predictions h5ad; every artefact of predictions goes through here."""
    var = pd.DataFrame(index=pd.Index(list(outputs), dtype=object))
    write_table(Table(obs, var, values, layers, {"spatial": obs[["x", "y"]].to_numpy(np.float64)}, metadata), out)


# apply -----------------------------------------------------------------------------------------------------------


def apply_models(
    *,
    models: Sequence[Path],
    spec: Mapping[str, Any],
    experiment: Mapping[str, Any],
    files: Files,
    out: Path,
    threads: int = 1,
    device: str = "auto",
) -> None:
    """Predict on slides without expression, with the models of fold ``all``.

    Parameters
    ----------
    models
        From `fit_models`: one file with all folds, or one per training seed.
    spec
        The model's entry, with its ``name``.
    experiment
        The entry of the apply experiment.
    files
        samples: section artefacts of the new slides, whose tiles are the observations; ``embeddings_<encoder>`` and
        pixels of them.
    out
        h5ad with index ``cohort/sample/obs_id``, X (n, T), ``obsm["spatial"]``, layers ``seed_<s>``; metadata holds
        mpp and the tile's side per section.

    Raises
    ------
    InputError
        If embeddings come from other tiles or weights than the model's, or no tile is kept.
    """
    saved = [load_models(path) for path in models]
    facts, kind = saved[0].metadata, find("models", spec["kind"])
    obs, sections = _slide_observations(files["samples"])
    obs = obs[available(obs, kind.needs, spec, files)]
    if not len(obs):
        where = ", ".join(str(path) for path in files["samples"])
        raise InputError(where, "no kept tile.", "look at the tile picture; ease `background`.", code="apply-no-tile")
    inputs, spaces = open_inputs(obs, kind.needs, spec, files, tiles=facts["tiles"], standardise=facts["standardise"])
    _check_spaces(saved[0].path, facts["encoders"], spaces)
    by_seed = _predict_everyone(saved, inputs, variant_settings(spec, LEAKS), device, threads)
    mean = np.mean(list(by_seed.values()), axis=0, dtype=np.float64).astype(np.float32)
    _check_finite(mean, obs.index)
    tile = TileSpec.from_dict(facts["tiles"]["spec"])
    counts = obs.groupby(["cohort", "sample"]).size()
    metadata = {
        "experiment": str(experiment.get("name", "")),
        "from": experiment["from"],
        "model": str(spec["name"]),
        "variant": "default",
        "target_kind": facts["target_kind"],
        "units": facts["units"],
        "tiles": facts["tiles"],
        "transductive": facts["standardise"] in TRANSDUCTIVE and bool(spaces),
        "sections": [
            {
                **{key: meta.get(key) for key in ("cohort", "sample", "mpp", "pitch_px")},
                "size_level0_px": tile.size_level0_px(float(meta["mpp"])),
                "n_tiles": int(counts.get((meta["cohort"], meta["sample"]), 0)),
            }
            for meta in sections
        ],
        "identity": make_identity(
            "apply", {"model": str(spec["name"])}, identities_of({"models": models, **files}), version=kind.version
        ),
    }
    layers = {f"seed_{seed}": np.asarray(v, np.float32) for seed, v in by_seed.items() if kind.stochastic}
    outputs = facts["outputs"] if isinstance(facts["outputs"], list) else facts["outputs"][ALL]
    write_predictions(mean, obs, outputs, layers, metadata, out)


def _predict_everyone(
    saved: Sequence[SavedModels], inputs: Inputs, settings: Mapping[str, Any], device: str, threads: int
) -> dict[int, npt.NDArray[np.floating]]:
    """Return the predictions of fold ``all`` by training seed."""
    with lease_device(device) as leased:
        job = JobContext(leased, threads, None, logger)
        return {
            seed: model.fitted(ALL, seed).predict(inputs, settings, job)
            for model in saved
            for fold, seed in model.names()
            if fold == ALL
        }


def _slide_observations(samples: Sequence[Path]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return the observations of sections (cohort, sample, obs_id, array positions, x, y) and each section's facts."""
    frames, facts = [], []
    for path in samples:
        section = open_section(path)
        frame = section.obs[["cohort", "sample", "array_row", "array_col"]].astype({"cohort": str, "sample": str})
        frame.insert(2, "obs_id", section.obs.index)
        frame["x"], frame["y"] = section.spatial.T
        frames.append(frame.set_axis(observation_keys(frame)))
        facts.append(section.metadata)
    return pd.concat(frames), facts


def _check_spaces(where: Path, trained: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse embeddings of another encoder, or other weights, than the model was trained on."""
    for name, space in trained.items():
        if given.get(name) != space:
            raise InputError(
                where, f"was trained on encoder '{name}' as {space}; the embeddings given are {given.get(name)}.",
                "embed with the same card, revision and weights, or train again.", code="model-encoder",
            )  # fmt: skip
