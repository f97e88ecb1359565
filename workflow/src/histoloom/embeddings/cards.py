"""What the engine asks of an encoder, cards, and entries with their cards.

A new encoder is a class, an entry in `histoloom.kinds` and a card.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import yaml

from histoloom.config import RESOURCES
from histoloom.errors import InputError
from histoloom.genes import GeneMatcher
from histoloom.kind_entries import EncoderKind
from histoloom.kinds import find, load
from histoloom.schemas import check, load_schema
from histoloom.tiles.spec import TileSpec

Features = npt.NDArray[np.float32]
Scales = float | npt.NDArray[np.float64]


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


@dataclass(frozen=True)
class EncoderSpec:
    """An entry of the config's encoders as the plan gives it: validated, with defaults, card and tile spec."""

    name: str
    card: Mapping[str, Any]
    tiles_spec: TileSpec
    weights: str  # none, hub, random or a path
    seed: int
    batch_size: int | str
    upsample: bool
    compile: bool | str
    tokens: Mapping[str, Any] | None
    tiles_in_job: int = 0  # that a job will encode, for what pays in large jobs only

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """Make the spec from an entry; keys that are no field are the plan's own."""
        card, weights = entry["card"], str(entry["weights"])
        if weights == "card" or card["default_weights"] == "none":
            weights = card["default_weights"]
        if weights == "path" or (weights == "hub" and not card["hub_id"]):
            where, problem = f"encoders.{entry['name']}.weights", f"card '{card['name']}' has no weights on the hub."
            local = card["default_weights"] == "path"
            remedy = "give the path of its checkpoint." if local else "use random or a path."
            raise InputError(where, problem, remedy, code="encoder-weights-hub")
        chosen = {field.name: entry[field.name] for field in fields(cls) if field.name in entry}
        return cls(**chosen | {"weights": weights, "tiles_spec": TileSpec.from_dict(entry["tiles_spec"])})

    @property
    def kind(self) -> EncoderKind:
        kind: EncoderKind = find("encoders", self.card["kind"])
        return kind


class Encoder(ABC):
    """What all encoders have; those of tiles are `PixelEncoder`, those of expression `CountEncoder`.

    `batch_size` is how many tiles or cells a forward pass takes.
    """

    weights_sha256: str | None = None  # of the weights' content
    revision: str | None = None  # where they are from
    feature_names: list[str] | None = None
    device = "cpu"
    precision = "float32"
    batch_size = 0

    @classmethod
    @abstractmethod
    def from_spec(cls, spec: EncoderSpec, *, threads: int, device: str) -> Self:
        """Build from an encoder's entry, weights loaded."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the embedding."""

    def close(self) -> None:  # noqa: B027 - nothing to free is a fair answer
        """Free what it holds."""


class PixelEncoder(Encoder):
    """An encoder of tiles."""

    token_grid = 0  # tokens along a tile's side, where it gives all of them (`histoloom.embeddings.tokens`)

    @abstractmethod
    def submit(self, tiles: npt.NDArray[np.uint8], um_per_px: Scales) -> Callable[[], Features]:
        """Start encoding uint8 (n, size, size, 3) tiles; return a function that waits for the features, (n, dim)."""

    def encode(self, tiles: npt.NDArray[np.uint8], um_per_px: Scales) -> Features:
        """Return float32 (n, dim) for uint8 (n, h, w, 3) tiles of `um_per_px` um per px, one for all or for each."""
        return self.submit(tiles, um_per_px)()

    def allocate(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Return memory for tiles; a GPU copies from some memory without waiting."""
        return np.empty(shape, np.uint8)


class CountEncoder(Encoder):
    """An encoder of expression."""

    @abstractmethod
    def encode_counts(self, counts: Any, genes: Sequence[str], keys: Sequence[str], matcher: GeneMatcher) -> Features:
        """Return float32 (n, dim) for raw counts, CSR (n, G); see `histoloom.embeddings.scgpt.ScGPT`."""


def build_encoder(spec: EncoderSpec, *, threads: int, device: str = "cpu") -> Any:
    """Return a pixel or a count encoder (`histoloom.embeddings.cards`), weights loaded."""
    return load("encoders", spec.card["kind"]).from_spec(spec, threads=threads, device=device)
