"""What an artefact was made from, as a hash that says nothing of time or machine.

An identity is the sha256 of stage, stage version, parameters, seed and the identities of the inputs. Raw files are
identified by their bytes. The record travels inside the artefact (see `histoloom.artefacts`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histoloom.versions import stage as stage_of


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def make_identity(
    stage: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, str],
    seed: int | None = None,
    version: int | None = None,
) -> dict[str, Any]:
    """Return the record that an artefact carries, with its own hash under ``"sha256"``.

    The stage may be a step of one, such as ``labels.gather``; params must be JSON; inputs are identities by role
    (`histoloom.artefacts.identity_of`). A version is given for what is no stage of its own: a kind of model.
    """
    record: dict[str, Any] = {
        "stage": stage,
        "version": stage_of(stage).version if version is None else version,
        "params": dict(params),
        "inputs": dict(sorted(inputs.items())),
        "seed": seed,
    }
    record["sha256"] = sha256_text(canonical_json(record))
    return record


def source_hash(name: str) -> str:
    """Return a hash of the source of a module or sub-package of this package, 16 hex digits."""
    entry = Path(__file__).resolve().parent / name
    files = sorted(entry.rglob("*.py")) if entry.is_dir() else [entry.with_suffix(".py")]
    return sha256_text("".join(f.read_text() for f in files))[:16]
