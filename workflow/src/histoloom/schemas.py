"""Schemas of the config, of sheets and of lists: closed, with defaults, and errors that name key and remedy."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from histoloom.errors import Collected, InputError

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"

NAME_PATTERN = r"^[A-Za-z0-9_-]{1,80}\Z"
"""What schemas ask of names; ``$`` would let a line end pass."""


def nearest(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """Return a question after the known name that is most like one, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file with libyaml: ten times faster, and a run reads thousands of lines of it at every start."""
    content: dict[str, Any] = yaml.load(path.read_text(), yaml.CSafeLoader)
    return content


@cache
def load_schema(name: str) -> dict[str, Any]:
    """Return ``workflow/schemas/<name>.schema.yaml`` with the parts of ``common.yaml`` that it shares in place."""
    schema = read_yaml(SCHEMAS / f"{name}.schema.yaml")
    _put_shared(schema, _shared_parts())
    return schema


@cache
def _shared_parts() -> dict[str, Any]:
    return read_yaml(SCHEMAS / "common.yaml")


def _put_shared(part: Any, shared: Mapping[str, Any]) -> None:
    if isinstance(part, dict):
        if str(part.get("$ref", "")).startswith("common#/"):
            part.update({**copy.deepcopy(shared[part.pop("$ref").removeprefix("common#/")]), **part})
        for value in part.values():
            _put_shared(value, shared)


def affected(schema: str, entry: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the keys of an entry whose schema says that they affect a part of the workflow (``x-affects``)."""
    keys = load_schema(schema)["properties"]
    return {key: value for key, value in entry.items() if part in keys.get(key, {}).get("x-affects", ())}


def fill_defaults(value: Any, schema: Mapping[str, Any]) -> None:
    """Put a schema's defaults into a value, in depth; explicit values stay."""
    if not isinstance(value, dict):
        return
    for key, sub in schema.get("properties", {}).items():
        if key not in value and "default" in sub:
            value[key] = copy.deepcopy(sub["default"])
        if key in value:
            fill_defaults(value[key], sub)
            if isinstance(value[key], list) and isinstance(sub.get("items"), dict):
                for item in value[key]:
                    fill_defaults(item, sub["items"])


def _explain(error: jsonschema.ValidationError) -> tuple[str, str, str]:
    """Turn a validator's error into (problem, remedy, code)."""
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = [k for k in error.instance if k not in known]
        close = "".join(nearest(k, known) for k in unknown)
        problem = f"unknown key {', '.join(map(repr, unknown))}.{close}"
        return problem, f"allowed keys: {', '.join(known)}.", "schema-unknown-key"
    if error.validator == "required":
        missing = [k for k in error.validator_value if k not in error.instance]
        hint = "; ".join(f"{k}: {error.schema['properties'].get(k, {}).get('description', '')}" for k in missing)
        return f"key {', '.join(map(repr, missing))} is missing.", f"add it ({hint}).", "schema-missing-key"
    if error.validator == "pattern" and error.validator_value == NAME_PATTERN:
        shown = error.instance if len(error.instance) <= 100 else f"{error.instance[:80]}... ({len(error.instance)})"
        remedy = "use at most 80 letters, digits, _ and -: names become names of files."
        return f"{shown!r} is no name.", remedy, "schema-name"
    hint = error.schema.get("description", "") if isinstance(error.schema, Mapping) else ""
    return f"{error.message}.", str(hint or "see config/README.md"), "schema-value"


def check(value: Any, schema: Mapping[str, Any], where: str) -> None:
    """Validate a value and fill in the schema's defaults; errors name file and key, in document order."""
    validator = jsonschema.Draft202012Validator(schema)
    # An unknown key first: it is often the misspelt one that is missed.
    errors = sorted(
        validator.iter_errors(value),
        key=lambda e: (e.validator != "additionalProperties", [str(p) for p in e.absolute_path], e.message),
    )
    faults = Collected()
    for error in errors:
        key = ".".join(str(p) for p in error.absolute_path)
        faults.add(InputError(f"{where}.{key}" if key else where, *_explain(error)))
    faults.stop()
    fill_defaults(value, schema)
