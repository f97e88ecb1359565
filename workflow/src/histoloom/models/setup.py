"""An experiment as a model's jobs open it: target, folds, panel and inputs, checked against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import identities_of, read_metadata
from histoloom.errors import InputError
from histoloom.folds import control_folds, read_folds, roles_of
from histoloom.folds.seeds import rng_for
from histoloom.identity import make_identity
from histoloom.inputs import open_inputs
from histoloom.inputs.build import EMBEDDINGS, TRANSDUCTIVE
from histoloom.kind_entries import ModelKind
from histoloom.kinds import find
from histoloom.models.artefact import make_model
from histoloom.models.base import FoldData, Part
from histoloom.models.selection import rule_of
from histoloom.obs_keys import section_keys
from histoloom.schemas import affected, fill_defaults, load_schema
from histoloom.targets import Target, TargetKind, kind_of, read_target

Index = npt.NDArray[np.intp]
Files = Mapping[str, Sequence[Path]]
LEAKS = "leaks"
"""The variant that holds the predictions of a comparison, and of the fold that it is compared with."""


@dataclass(frozen=True)
class FoldRows:
    """One fold: row numbers by role, and ``label_rows``: (n,) the row whose label each row is given in training."""

    name: str
    train: Index
    val: Index
    test: Index
    label_rows: Index
    comparison: bool = False


def split_rows(
    table: pd.DataFrame,
    obs: pd.DataFrame,
    shuffle: str = "none",
    seed: int = 0,
    comparison: frozenset[str] = frozenset(),
) -> list[FoldRows]:
    """Return the folds of a fold table as row numbers of the observations; `comparison` folds only serve one."""
    folds = []
    for name, roles in roles_of(table, obs).items():
        train, val, test = (np.flatnonzero(roles == role) for role in ("train", "val", "test"))
        label_rows = _label_rows(obs, roles, name, shuffle, seed)
        folds.append(FoldRows(name, train, val, test, label_rows, name in comparison))
    return folds


def _label_rows(obs: pd.DataFrame, roles: npt.NDArray[Any], fold: str, shuffle: str, seed: int) -> Index:
    rows = np.arange(len(obs))
    if shuffle == "none":
        return rows
    # Validation belongs to the training side: true labels there would choose the epoch.
    side = np.flatnonzero(np.isin(roles, ("train", "val")))
    if shuffle == "everywhere":
        rows[side] = rng_for(seed, "shuffle", fold).permutation(side)
        return rows
    section = section_keys(obs).to_numpy()
    for name, at in pd.Series(side).groupby(section[side], sort=False).indices.items():
        rows[side[at]] = rng_for(seed, "shuffle", fold, str(name)).permutation(side[at])
    return rows


class Setup:
    """One model in one experiment, from their entries in the config.

    `files` are by role: target, folds, panel (where the target has one), ``embeddings_<encoder>``, pixels, samples.
    """

    def __init__(self, spec: Mapping[str, Any], experiment: Mapping[str, Any], files: Files) -> None:
        self.spec, self.experiment, self.files = spec, experiment, files
        self.kind: ModelKind = find("models", spec["kind"])
        self.model = make_model(spec)
        self.target: Target = read_target(files["target"][0])
        self.target_kind: TargetKind = kind_of(experiment["target"]["kind"])
        check_target(spec, experiment)
        table, self.fold_facts = read_folds(files["folds"][0])
        shuffle, seed = experiment["shuffle_labels"], experiment["seed"]
        self.folds = split_rows(table, self.target.obs, shuffle, seed, control_folds(self.fold_facts["compared"]))
        obs, meta = self.target.obs, self.target.metadata
        self._patient, self._section = (
            np.asarray(pd.factorize(keys)[0], np.intp) for keys in (obs["patient"], section_keys(obs))
        )
        tables = [value for role, value in meta["identity"]["inputs"].items() if role.startswith("tiles.")]
        self.inputs, self.spaces = open_inputs(
            obs, self.kind.needs, spec, files, meta["tiles"], experiment["standardise"], tables
        )

    @cached_property
    def panels(self) -> dict[str, list[str]]:
        """Return the outputs of each fold; of all folds the target's where it has no panel."""
        panel = self.files.get("panel")
        if not panel:
            return {fold.name: self.target.outputs for fold in self.folds}
        table = pd.read_parquet(panel[0])
        return {str(fold): rows["gene"].tolist() for fold, rows in table.groupby("fold", sort=False)}

    @property
    def seeds(self) -> list[int]:
        """Return the training seeds; -1 alone for a model that draws no random numbers."""
        return list(self.experiment["train_seeds"]) if self.kind.stochastic else [-1]

    def part(self, rows: Index, fold: FoldRows) -> Part:
        labels = self.target.labels(fold.label_rows[rows], self.panels[fold.name])
        return Part(self.inputs.take(rows), labels, self._patient[rows], self._section[rows])

    def fold_data(self, fold: FoldRows, seed: int) -> FoldData:
        """Return what a fold's model is fitted on for a training seed."""
        selection, patient = self.experiment["selection"], self.target.obs["patient"].to_numpy(object)
        # The one selection that looks at test observations: a named protocol, stamped on every number.
        val = fold.test if selection == "test_as_published" else fold.val
        trained = len(set(patient[fold.train]) | set(patient[fold.val]))
        rule, how = rule_of(selection, fold.name, trained, [str(p) for p in patient[fold.val][:1]])
        return FoldData(
            name=fold.name,
            train=self.part(fold.train, fold),
            val=self.part(val, fold) if rule == "val" else None,
            target=self.target_kind,
            outputs=tuple(self.panels[fold.name]),
            seed=seed,
            root_seed=self.experiment["seed"],
            rule=rule,
            how=how,
            standardise=self.experiment["standardise"] == "train",
            everyone=self.inputs if self.sees_test_inputs else None,
            comparison=fold.comparison,
        )

    @property
    def sees_test_inputs(self) -> bool:
        """Whether the model's settings ask for the inputs of test observations in training."""
        return bool(getattr(self.model.spec, "sees_test_inputs", False))

    def identity(self, fold: str | None = None, seed: int | None = None) -> dict[str, Any]:
        """Return the identity of the model, or of one fold's and seed's where each has a job of its own."""
        chosen = {key: value for key, value in self.spec.items() if key != "variants"}
        params: dict[str, Any] = {
            "model": chosen,
            "experiment": affected("experiment.evaluate", self.experiment, "fit"),
        }
        if fold is not None:
            params |= {"fold": fold, "train_seed": seed}
        embeddings = [f"{EMBEDDINGS}{name}" for name in self.spec.get("inputs", [])]
        roles = {"target", "folds", "panel", "samples", "pixels"} & set(self.files) | set(embeddings)
        used = {role: self.files.get(role, []) for role in roles}
        return make_identity("models", params, identities_of(used), self.experiment["seed"], self.kind.version)

    def fine_tuned(self) -> dict[str, Any]:
        """Return the encoder that the model starts from, by name, as the stamp has encoders."""
        encoder = self.spec.get("encoder")
        if encoder is None:
            return {}
        card, weights = encoder["card"], encoder["weights"]
        revision = card.get("revision") if weights in {"hub", "card"} else weights if weights == "random" else "local"
        return {encoder["name"]: {"card": card["name"], "revision": revision, "weights_sha256": None}}

    def protocol(self, choices: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the choices that every number made with this model's predictions is stamped with."""
        meta, experiment = self.target.metadata, self.experiment
        chosen: dict[str, Any] = {}
        for key in ("epochs", "alpha"):
            values = [v for c in choices.values() if key in c for v in np.atleast_1d(c[key]).tolist()]
            if values:
                chosen[key] = values[0] if min(values) == max(values) else [min(values), max(values)]
        scaled = experiment["standardise"] if self.spaces else "none"
        stamp = {key: self.fold_facts[key] for key in ("split", "on_overlap", "overlap_patients")}
        panel = self.files.get("panel")
        return stamp | {
            "compared": {k: v for k, v in self.fold_facts["compared"].items() if k != "folds"},
            "selection": experiment["selection"],
            "chosen": chosen,
            "tuned_on_test": experiment["selection"] == "test_as_published" and bool(chosen),
            "standardise": scaled,
            "transductive": scaled in TRANSDUCTIVE
            or meta["recipe"].get("batch_correction", "none") != "none"
            or self.sees_test_inputs,
            "shuffle_labels": experiment["shuffle_labels"],
            "uses_test_labels": self.model.uses_test_labels,
            "target": dict(meta["recipe"]),
            "panel": read_metadata(panel[0])["panel"] if panel else None,
            "sections": self.fold_facts.get("published", ""),
            "units": meta["units"],
            "labels": meta["labels"],
            "truth": meta["truth"],
            "tiles": meta["tiles"]["name"],
            "encoders": {
                name: {key: space[key] for key in ("card", "revision", "weights_sha256")}
                for name, space in self.spaces.items()
            }
            | self.fine_tuned(),
            "kind": self.spec["kind"],
            **({"reads": self.inputs.modalities()} if self.target.is_class else {}),
            "settings": self.spec.get("settings", "default"),
            "changed": changed_settings(self.spec, self.model),
            **digits_of(self.spec),
            "weights": self.spec["encoder"]["weights"] if "encoder" in self.spec else self.spec.get("weights"),
            "train_seeds": self.seeds if self.kind.stochastic else [],
        }


_PLAIN = {"precision": "32-true", "channels_last": True}
NOT_SETTINGS = frozenset({"k", "method", "variants", "encoder", "weights", "checkpoint_activations", *_PLAIN})
"""Fields of a spec that a number's stamp holds elsewhere, or that change digits at most."""


def digits_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return, as ``digits`` of the stamp, the settings about speed that change digits, where they are not the plain."""
    chosen = {key: spec[key] for key, plain in _PLAIN.items() if spec.get(key, plain) != plain}
    return {"digits": chosen} if chosen else {}


def changed_settings(spec: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return the settings of a model that differ from those that its entry names (``settings``), with their values."""
    # A field without a default is no deviation from anything.
    needed = [f.name for f in fields(model.spec) if f.default is MISSING and f.default_factory is MISSING]
    named = {key: spec[key] for key in ("kind", "settings", *needed) if key in spec}
    fill_defaults(named, load_schema(f"model.{spec['kind']}"))
    own = vars(model.spec) if hasattr(model.spec, "__dict__") else {}
    plain = vars(type(model.spec).from_json(named)) if own else {}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in own.items()
        if key not in NOT_SETTINGS and value != plain.get(key)
    }


def check_target(spec: Mapping[str, Any], experiment: Mapping[str, Any]) -> None:
    """Refuse a model that does not serve the kind of target."""
    kind, wanted = spec["kind"], experiment["target"]["kind"]
    if wanted not in find("models", kind).targets:
        served = ", ".join(sorted(find("models", kind).targets))
        problem = f"of kind {kind} predicts {served}; the target of '{experiment.get('name', '')}' is {wanted}."
        remedy = "name another model under `models`, or another target."
        raise InputError(f"model '{spec.get('name', kind)}'", problem, remedy, code="model-target")
