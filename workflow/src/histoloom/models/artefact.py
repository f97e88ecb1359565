"""Model files: tensors, texts and numbers that load without running code, and a sidecar for people."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histoloom.artefacts import write_sidecar
from histoloom.errors import InputError
from histoloom.kinds import load
from histoloom.models.base import Model


def save_model(model: Model, facts: Mapping[str, Any], metadata: Mapping[str, Any], out: Path) -> None:
    """Write a model and its sidecar.

    Parameters
    ----------
    model
        A fitted model.
    facts
        What prediction needs to know next to the state: types, encoders, tiles, standardise, seeds, choices.
    metadata
        For ``<file>.json``.
    out
        ``models/{experiment}/{model}.pt``.
    """
    import torch

    buffer = io.BytesIO()  # torch writes the file's name into a file; a buffer gives the same bytes under any name
    torch.save({"spec": model.spec, "facts": dict(facts), "state": model.state}, buffer)
    out.write_bytes(buffer.getvalue())
    write_sidecar(out, metadata)


def load_model(path: Path) -> tuple[Model, dict[str, Any]]:
    """Return a fitted model and the facts it was saved with.

    Raises
    ------
    InputError
        If the file is no model of ours.
    """
    import pickle

    import torch

    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
        spec, facts, state = record["spec"], record["facts"], record["state"]
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(path, f"is no model file ({error}).", "remove it and train again.") from error
    model: Model = load("models", spec["kind"])(spec)
    model.state = state
    return model, facts
