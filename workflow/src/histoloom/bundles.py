"""Bundles: folders that hold a trained model, to be handed on, and how a config takes one.

A bundle has ``bundle.json`` (facts, and the sha256 of the other files), ``weights.safetensors``, ``training.npz`` (see
`histoloom.models.training_range`) and ``README.md``. Nothing in it is code, and nothing is unpickled. The standard
library alone: the Snakefile reads the facts at every start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histoloom.errors import InputError

FACTS, WEIGHTS, TRAINING = "bundle.json", "weights.safetensors", "training.npz"
FORMAT = 1
# Of an encoder's entry: where and how fast it runs, which features do not depend on.
_OF_THE_MACHINE = ("weights", "batch_size", "sections_per_batch", "compile")


def read_facts(folder: str | Path) -> dict[str, Any]:
    """Return the facts of a bundle whose files are all there."""
    path = Path(folder) / FACTS
    missing = [name for name in (FACTS, WEIGHTS, TRAINING) if not (Path(folder) / name).is_file()]
    if missing:
        problem = f"is no complete bundle: {', '.join(missing)} is missing."
        raise InputError(folder, problem, "copy the whole folder again, or fix `bundle:`.", code="bundle-incomplete")
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
        version = facts["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, f"cannot be read ({error}).", "copy the bundle again.", code="bundle-facts") from error
    if version != FORMAT:
        problem = f"is of format {version}; this version reads format {FORMAT}."
        raise InputError(path, problem, "use the version of histoloom that wrote it.", code="bundle-format")
    return facts


def check_files(folder: str | Path) -> dict[str, Any]:
    """Return the facts of a bundle whose files have the content that they had when it was written."""
    from histoloom.identity import sha256_file

    facts = read_facts(folder)
    for name, expected in facts["sha256"].items():
        if sha256_file(Path(folder) / name) != expected:
            path, remedy = Path(folder) / name, "copy the bundle again from where you have it."
            raise InputError(path, "is not the file that the bundle was written with.", remedy, code="bundle-changed")
    return facts


def add_entries(entries: Mapping[str, dict[str, dict[str, Any]]], experiment: str, folder: str, origin: str) -> None:
    """Add tiles, cards, encoders and the model of a bundle to a config's entries.

    An entry of the same name must mean the same; of an encoder the config's own weights and batch sizes are used.
    """
    facts = read_facts(folder)
    wanted = {
        "tiles": {facts["tiles"]["name"]: facts["tiles"]["entry"]},
        "cards": facts["cards"],
        "encoders": facts["encoders"],
        "models": {facts["model"]["name"]: {k: v for k, v in facts["model"].items() if k != "name"}},
    }
    for section, own in wanted.items():
        for name, entry in own.items():
            present = entries[section].setdefault(name, entry)
            ignored = _OF_THE_MACHINE if section == "encoders" else ()
            keys = [k for k in {**present, **entry} if k not in ignored and present.get(k) != entry.get(k)]
            if keys:
                problem = f"differs from '{name}' of bundle {folder} in {', '.join(keys)}."
                remedy = "rename it in the config, or leave it out: the bundle brings its own."
                raise InputError(f"{origin}: {section}.{name}", problem, remedy, code="bundle-name")
    entry, name = entries["experiments"][experiment], facts["model"]["name"]
    if entry["models"] not in (None, [name]):
        where, problem = f"{origin}: experiments.{experiment}.models", f"the bundle holds '{name}'."
        raise InputError(where, problem, "leave `models` out.", code="bundle-models")
    entry["models"] = [name]
