"""Encoder cards: a card with every default filled in, and the encoder that an entry of the config asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histoloom.config import RESOURCES, check, load_schema
from histoloom.errors import InputError
from histoloom.kinds import load


def full_card(card: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Validate a card and fill in the schema's defaults.

    Parameters
    ----------
    card
        The card, with or without its ``name``.
    name
        For messages, and kept as ``name``.

    Raises
    ------
    InputError
        If a key is unknown, missing or ill-formed.
    """
    name = str(card.get("name", name))
    filled = {key: value for key, value in card.items() if key != "name"}
    check(filled, load_schema("encoder_card"), f"encoders.yaml: {name}")
    return {"name": name, **filled}


def load_cards(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return all cards by name, checked and with defaults; `path` is ``resources/encoders.yaml`` unless given."""
    import yaml

    path = path or RESOURCES / "encoders.yaml"
    cards = yaml.safe_load(path.read_text())
    return {name: full_card(card, name) for name, card in cards.items()}


def full_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoder entry (with ``card``, ``tiles_spec``, ``name``) with every default filled in.

    ``weights`` is resolved: ``"card"`` becomes what the card says.

    Raises
    ------
    InputError
        If an entry or its card is ill-formed, or the card has no weights of the kind asked for.
    """
    own = {key: value for key, value in spec.items() if key not in {"card", "tiles_spec", "name"}}
    name = str(spec.get("name", spec["card"].get("name", "")))
    entry = {"card": name, "tiles": "", **own}
    check(entry, load_schema("encoder"), f"encoders.{name}")
    card = full_card(spec["card"])
    if entry["weights"] == "card" or card["default_weights"] == "none":
        entry["weights"] = card["default_weights"]
    if entry["weights"] == "path" or (entry["weights"] == "hub" and not card["hub_id"]):
        remedy = "give the path of its checkpoint." if card["default_weights"] == "path" else "use random or a path."
        raise InputError(
            f"encoders.{name}.weights",
            f"card '{card['name']}' has no weights on the hub.",
            remedy,
            code="encoder-weights-hub",
        )
    return {**entry, "name": name, "card": card, "tiles_spec": dict(spec["tiles_spec"])}


def build_encoder(spec: Mapping[str, Any], *, threads: int, device: str = "cpu") -> Any:
    """Return the encoder of a full entry (`full_spec`), weights loaded: a pixel or a count encoder.

    Parameters
    ----------
    spec
        From `full_spec`.
    threads
        Threads it may use.
    device
        From `histoloom.devices.lease_device`.
    """
    return load("encoders", spec["card"]["kind"]).from_spec(spec, threads=threads, device=device)
