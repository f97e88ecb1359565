"""Entries of encoders with every default filled in, as the plan makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histoloom.embeddings.cards import EncoderSpec, full_card
from histoloom.schemas import check, load_schema


def full_spec(entry: Mapping[str, Any]) -> EncoderSpec:
    """Return the spec of an entry with ``card``, ``tiles_spec`` and, if it likes, ``name``."""
    own = {key: value for key, value in entry.items() if key not in {"card", "tiles_spec", "name"}}
    name = str(entry.get("name", entry["card"].get("name", "")))
    own = {"card": name, "tiles": "", **own}
    check(own, load_schema("encoder"), f"encoders.{name}")
    return EncoderSpec.from_json(
        {**own, "name": name, "card": full_card(entry["card"]), "tiles_spec": entry["tiles_spec"]}
    )
