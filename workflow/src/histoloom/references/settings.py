"""A reference's entry with every default of its schema. Imports nothing heavy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from histoloom.config import fill_defaults, load_schema


def with_defaults(spec: Mapping[str, Any], schema: str) -> dict[str, Any]:
    """Return an entry with the defaults it lacks, also inside its sections; explicit values stay."""
    filled = copy.deepcopy(dict(spec))
    fill_defaults(filled, load_schema(schema))
    return filled


def reference_settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reference's entry with every default filled in."""
    # A simulated reference is an h5ad in the layout that the h5ad reader takes by default.
    source = "h5ad" if spec["source"] == "simulated" else spec["source"]
    return with_defaults(spec, f"reference.{source}")
