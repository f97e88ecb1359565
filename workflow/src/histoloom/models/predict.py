"""Predict the test observations of folds, and the tiles of new slides."""

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
from histoloom.devices import lease_device
from histoloom.errors import InputError
from histoloom.folds import ALL
from histoloom.identity import make_identity
from histoloom.inputs import open_inputs
from histoloom.inputs.build import TRANSDUCTIVE, available
from histoloom.kinds import find
from histoloom.models.artefact import SavedModels, load_models, name_of
from histoloom.models.base import JobContext
from histoloom.models.outputs import pictures_for_scanpy, tissue_of, without_negatives
from histoloom.models.setup import LEAKS, Files, FoldRows, Setup
from histoloom.models.training_range import LIMIT, read_training_range
from histoloom.obs_keys import observation_keys
from histoloom.samples.section import open_section
from histoloom.targets.base import dense, one_hot
from histoloom.tiles.spec import TileSpec

logger = logging.getLogger(__name__)
# How far um/px of a new slide may lie outside the range of training slides: what scanners of one kind differ by.
_MPP_MARGIN = 0.1


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
    """Predict every fold's test observations, with models made from just this spec, experiment and files.

    X float32 is the mean over training seeds; layers are ``labels``, ``seed_<s>`` and, where simulated,
    ``ground_truth``. The index is ``cohort/sample/obs_id``, after the fold where several test an observation. An output
    that is not in a fold's panel is NaN there. The variant `LEAKS` holds a comparison's
    folds, which every other variant leaves out.
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
            block = np.ix_(np.arange(start, start + len(fold.test)), np.array([column[name] for name in own]))
            y = setup.target.labels(fold.test, own)
            labels[block] = one_hot(y, len(own)) if setup.target.is_class else dense(y)
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
    obs.insert(0, "fold", [fold.name for fold in folds for _ in fold.test])
    if obs.index.has_duplicates:  # several folds test an observation
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
    _write_predictions(mean, obs, outputs, layers, metadata, out)


def variant_settings(spec: Mapping[str, Any], variant: str) -> Mapping[str, Any]:
    """Return the settings of a variant; a comparison takes the first."""
    variants: Mapping[str, Mapping[str, Any]] = spec.get("variants") or {"default": {}}
    if variant == LEAKS:
        return next(iter(variants.values()))
    if variant not in variants:
        problem, remedy = f"has no variant '{variant}'; it has {', '.join(variants)}.", "add it under `variants`."
        raise InputError(f"model '{spec.get('name')}'", problem, remedy, code="variant-unknown")
    return variants[variant]


def _own_models(setup: Setup, saved: Sequence[SavedModels]) -> dict[tuple[str, int], SavedModels]:
    """Return the model files by fold and seed, each checked to be what this experiment would train now."""
    by_key: dict[tuple[str, int], SavedModels] = {}
    for model in saved:
        single = model.names()[0] if setup.kind.job == "fold" and model.names() else (None, None)
        expected, made = setup.identity(*single), model.metadata["identity"]
        if made["sha256"] != expected["sha256"]:
            parts = [("params", k) for k in expected["params"]] + [("inputs", k) for k in expected["inputs"]]
            changed = [k for group, k in parts if made.get(group, {}).get(k) != expected[group][k]]
            problem = f"was trained from something else than this run has: {', '.join(changed) or 'version'}."
            raise InputError(model.path, problem, "remove it and train again.", code="model-other-run")
        _check_spaces(model.path, model.metadata["encoders"], setup.spaces)
        by_key |= dict.fromkeys(model.names(), model)
    needed = [(fold.name, seed) for fold in setup.folds if fold.name != ALL for seed in setup.seeds]
    if lacking := [name_of(*key) for key in needed if key not in by_key]:
        problem = f"no model of fold {', '.join(lacking[:5])} was given."
        raise InputError(setup.spec["name"], problem, "train the fold.", code="model-fold-missing")
    return by_key


def _tested_folds(folds: Sequence[FoldRows], variant: str, where: Path) -> list[FoldRows]:
    """Return the folds that a variant predicts; those of a comparison are in `LEAKS` alone."""
    chosen = [fold for fold in folds if fold.name != ALL and (variant == LEAKS or not fold.comparison)]
    if not chosen:
        remedy = f"predictions of a comparison (split paired_leakage, transfer with shared patients) are '{LEAKS}'."
        raise InputError(where, f"has no fold for predictions '{variant}'.", remedy, code="fold-none")
    return chosen


def _check_finite(values: npt.NDArray[np.float32], names: pd.Index) -> None:
    """Raise FloatingPointError for predictions that are not finite: a diverged fit must not look like a result."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise FloatingPointError(f"predictions of {len(bad)} observations are not finite, first {names[bad[0]]}")


def _write_predictions(
    values: npt.NDArray[np.float32],
    obs: pd.DataFrame,
    outputs: Sequence[str],
    layers: Mapping[str, npt.NDArray[np.float32]],
    metadata: Mapping[str, Any],
    out: Path,
    spatial: Mapping[str, Any] | None = None,
) -> None:
    var = pd.DataFrame(index=pd.Index(list(outputs), dtype=object))
    places, uns = {"spatial": obs[["x", "y"]].to_numpy(np.float64)}, {"spatial": spatial} if spatial else {}
    write_table(Table(obs, var, values, layers, places, metadata, uns), out)


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

    `files` are samples, whose tiles are the observations, their ``tiles``, ``embeddings_<encoder>`` and pixels, and
    ``training``: what the models were trained on. Abundances are not negative (`without_negatives`, key ``negative``;
    the layers are as the models give them). The h5ad has index ``cohort/sample/obs_id``, X (n, T) and layers
    ``seed_<s>`` and ``spread``: the standard deviation over the models of all folds and seeds that are given. For
    models that take features, ``obs`` has ``training_share`` (`TrainingRange.share_nearer`) and ``unlike_training``;
    tissue_fraction and edge (`tissue_of`) of all. The metadata has mpp and the tile's side per section.
    """
    saved = [load_models(path) for path in models]
    training = read_training_range(files["training"][0])
    files = {role: given for role, given in files.items() if role != "training"}
    facts, kind = saved[0].metadata, find("models", spec["kind"])
    obs, sections = _slide_observations(files["samples"])
    obs = obs[available(obs, kind.needs, spec, files)]
    if not len(obs):
        where = ", ".join(str(path) for path in files["samples"])
        raise InputError(where, "no kept tile.", "look at the tile picture; ease `background`.", code="apply-no-tile")
    inputs, spaces = open_inputs(obs, kind.needs, spec, files, tiles=facts["tiles"], standardise=facts["standardise"])
    _check_spaces(saved[0].path, facts["encoders"], spaces)
    tile = TileSpec.from_dict(facts["tiles"]["spec"])
    check_um_per_px(sections, tile, training.facts["um_per_px"])
    trained_on = {name.partition("/")[2] for name in training.facts["patients"]}
    shared = sorted({str(meta["patient"]) for meta in sections} & trained_on)
    if shared:
        logger.warning("the models were trained on patients of these slides: %s", ", ".join(shared))
    settings, outputs = variant_settings(spec, LEAKS), outputs_of(saved[-1], ALL)
    with lease_device(device) as leased:
        job = JobContext(leased, threads, None, logger)
        by_seed: dict[int, npt.NDArray[np.floating]] = {}
        spread = RunningSpread()
        for model in saved:
            for fold, seed in model.names():
                if outputs_of(model, fold) != outputs:  # a fold with another panel has other columns
                    continue
                values = model.fitted(fold, seed).predict(inputs, settings, job)
                spread.add(values)
                if fold == ALL:
                    by_seed[seed] = values
    mean = np.asarray(np.mean(list(by_seed.values()), axis=0, dtype=np.float64), np.float32)
    _check_finite(mean, obs.index)
    policy = experiment.get("negative", "clip") if facts["target_kind"] == "abundance" else "keep"
    mean, negative_share = without_negatives(mean, policy)
    obs = obs.join(tissue_of(files.get("tiles", []), obs)) if files.get("tiles") else obs
    if spaces and training.measures_tiles:
        obs["training_share"] = training.share_nearer(inputs.features())
        obs["unlike_training"] = obs["training_share"] > LIMIT
    counts = obs.groupby(["cohort", "sample"]).size()
    metadata = {
        "experiment": str(experiment.get("name", "")),
        "from": experiment.get("from") or experiment["bundle"],
        "model": str(spec["name"]),
        "variant": "default",
        "target_kind": facts["target_kind"],
        "units": facts["units"],
        "tiles": facts["tiles"],
        "transductive": facts["standardise"] in TRANSDUCTIVE and bool(spaces),
        "shared_patients": shared,
        "negative": {"policy": policy, "share": negative_share},
        "sections": [
            {
                **{key: meta.get(key) for key in ("cohort", "sample", "patient", "mpp", "pitch_px")},
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
    layers["spread"] = spread.standard_deviation()
    _write_predictions(mean, obs, outputs, layers, metadata, out, pictures_for_scanpy(files["samples"]))


def outputs_of(model: SavedModels, fold: str) -> list[str]:
    outputs = model.metadata["outputs"]
    return list(outputs if isinstance(outputs, list) else outputs[fold])


class RunningSpread:
    """The standard deviation over predictions, (n, T), of which only two arrays are held."""

    def __init__(self) -> None:
        self.n = 0
        self._mean: Any = 0.0
        self._square: Any = 0.0

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Take in one model's predictions (Welford 1962)."""
        self.n += 1
        values = np.asarray(values, np.float64)
        change = values - self._mean
        self._mean = self._mean + change / self.n
        self._square = self._square + change * (values - self._mean)

    def standard_deviation(self) -> npt.NDArray[np.float32]:
        """Return (n, T) with n - 1 in the denominator; NaN of a single model, whose spread is not known."""
        square = np.asarray(self._square)
        return np.asarray(np.sqrt(square / (self.n - 1)) if self.n > 1 else np.full(square.shape, np.nan), np.float32)


def check_um_per_px(sections: Sequence[Mapping[str, Any]], tile: TileSpec, trained: Sequence[float] | None) -> None:
    """Refuse native tiles of another um/px than training; elsewhere tell of slides outside its range."""
    low, high = trained or (0.0, np.inf)
    for meta in sections:
        if low * (1 - _MPP_MARGIN) <= float(meta["mpp"]) <= high * (1 + _MPP_MARGIN):
            continue
        where, problem = f"{meta['cohort']}/{meta['sample']}", f"has {meta['mpp']:.3g} um/px"
        if tile.um_per_px == "native":
            problem += f"; the model was trained on native tiles at {low:.3g} to {high:.3g} um/px."
            remedy = "use a model whose tiles have a size in um, or a scan of that resolution."
            raise InputError(where, problem, remedy, code="apply-um-per-px")
        logger.warning("%s %s, outside the %.3g to %.3g of training; tiles are brought to %g um/px", where, problem,
                       low, high, tile.um_per_px)  # fmt: skip


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
            problem = f"was trained on encoder '{name}' as {space}; the embeddings given are {given.get(name)}."
            remedy = "embed with the same card, revision and weights, or train again."
            raise InputError(where, problem, remedy, code="model-encoder")
