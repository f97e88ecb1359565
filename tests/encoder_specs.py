"""Cards and entries of encoders with every default filled in, as the plan makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from histoloom.config import RESOURCES, check, load_schema
from histoloom.embeddings.cards import EncoderSpec


def full_card(card: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Validate a card, with or without its ``name``, and fill in the schema's defaults."""
    name = str(card.get("name", name))
    filled = {key: value for key, value in card.items() if key != "name"}
    check(filled, load_schema("encoder_card"), f"encoders.yaml: {name}")
    return {"name": name, **filled}


def load_cards() -> dict[str, dict[str, Any]]:
    """Return all cards of ``resources/encoders.yaml`` by name."""
    cards = yaml.safe_load((RESOURCES / "encoders.yaml").read_text())
    return {name: full_card(card, name) for name, card in cards.items()}


def full_spec(entry: Mapping[str, Any]) -> EncoderSpec:
    """Return the spec of an entry with ``card``, ``tiles_spec`` and, if it likes, ``name``."""
    own = {key: value for key, value in entry.items() if key not in {"card", "tiles_spec", "name"}}
    name = str(entry.get("name", entry["card"].get("name", "")))
    own = {"card": name, "tiles": "", **own}
    check(own, load_schema("encoder"), f"encoders.{name}")
    return EncoderSpec.from_json(
        {**own, "name": name, "card": full_card(entry["card"]), "tiles_spec": entry["tiles_spec"]}
    )
