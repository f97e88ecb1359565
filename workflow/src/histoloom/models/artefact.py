"""Model files: arrays in an npz that loads without torch and without running code, and a sidecar for people."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histoloom.artefacts import write_sidecar
from histoloom.bundles import WEIGHTS, check_files
from histoloom.errors import InputError
from histoloom.identity import canonical_json
from histoloom.kinds import load
from histoloom.models.base import Fitted, Model

_FACTS = "facts.json"


def make_model(spec: Mapping[str, Any]) -> Model:
    cls = load("models", spec["kind"])
    model: Model = cls(cls.spec_type.from_json(spec))
    return model


def name_of(fold: str, seed: int) -> str:
    """Return the name of a fold's model for a training seed, as its arrays in a file start."""
    return fold if seed < 0 else f"{fold}.{seed}"


def save_models(fitted: Mapping[tuple[str, int], Fitted], metadata: Mapping[str, Any], out: Path) -> None:
    """Write fitted models by fold and training seed; same content, same bytes.

    `metadata`: what prediction checks and stamps (spec, outputs by fold, encoders, tiles, choices, protocol, identity).
    """
    arrays: dict[str, npt.NDArray[Any]] = {_FACTS: np.frombuffer(canonical_json(metadata).encode(), np.uint8)}
    for (fold, seed), model in fitted.items():
        for name, array in model.state().items():
            arrays[f"{name_of(fold, seed)}/{name}"] = np.asarray(array)
    with out.open("wb") as handle:  # a handle: numpy would add .npz to a name
        np.savez(handle, **arrays)  # type: ignore[arg-type]
    write_sidecar(out, metadata)


@dataclass(frozen=True)
class SavedModels:
    """A model file; arrays are read when a fold is asked for."""

    path: Path
    metadata: Mapping[str, Any]

    def names(self) -> list[tuple[str, int]]:
        """Return (fold, training seed) of each model in the file."""
        return [(str(fold), int(seed)) for fold, seed in self.metadata["models"]]

    def fitted(self, fold: str, seed: int) -> Fitted:
        start = name_of(fold, seed) + "/"
        if self.path.name == WEIGHTS:
            from safetensors import safe_open

            with safe_open(self.path, framework="np") as tensors:
                names = list(tensors.keys())
                state = {n.removeprefix(start): tensors.get_tensor(n) for n in names if n.startswith(start)}
        else:
            with np.load(self.path, allow_pickle=False) as arrays:
                state = {name.removeprefix(start): arrays[name] for name in arrays.files if name.startswith(start)}
        choices = self.metadata["choices"][name_of(fold, seed)]
        return make_model(self.metadata["spec"]).restore(state, choices)


def load_models(path: Path) -> SavedModels:
    """Open a model file, or the weights of a bundle; `InputError` if it is none of ours."""
    if path.name == WEIGHTS:
        return SavedModels(path, check_files(path.parent)["metadata"])
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return SavedModels(Path(path), json.loads(arrays[_FACTS].tobytes()))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            path, f"is no model file ({error}).", "remove it and train again.", code="model-file"
        ) from error
