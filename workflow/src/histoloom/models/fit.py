"""Fit a model on the folds of an experiment."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from histoloom.checkpoints import Checkpoints, resume_identity
from histoloom.devices import lease_device
from histoloom.efficiency import Meter
from histoloom.errors import InputError
from histoloom.folds import ALL
from histoloom.identity import canonical_json
from histoloom.models.artefact import load_models, name_of, save_models
from histoloom.models.base import Fitted, JobContext
from histoloom.models.selection import validated
from histoloom.models.setup import Files, FoldRows, Setup

logger = logging.getLogger(__name__)


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

    `files` are those of `Setup`, and ``others``: finished models of the other folds, for a fold that takes their
    median. `efficiency` is a JSON with seconds, peak memory and what the model measured; `scratch` a folder of
    checkpoints of a long fit.
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
) -> dict[tuple[str, int], Fitted]:
    """Fit folds; those that take the median of others' choices come last."""
    names = [(fold.name, seed) for fold, seed in keys]
    if hasattr(setup.model, "fit_many"):
        data = [replace(setup.fold_data(fold, seed), earlier=tuple(earlier)) for fold, seed in keys]
        return dict(zip(names, setup.model.fit_many(data, job), strict=True))
    fitted: dict[tuple[str, int], Fitted] = {}
    chosen = list(earlier)
    for fold, seed in sorted(keys, key=lambda key: key[0].name == ALL):
        model = setup.model.fit(replace(setup.fold_data(fold, seed), earlier=tuple(chosen)), job)
        fitted[fold.name, seed] = model
        if not fold.comparison and validated(model.choices):
            chosen.append(model.choices)
    return {name: fitted[name] for name in names}
