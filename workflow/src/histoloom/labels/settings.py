"""A label method's entry with every default of its schema. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histoloom.references.settings import with_defaults


def label_settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a label method's entry with every default filled in."""
    return with_defaults(spec, f"labels.{spec['method']}")
