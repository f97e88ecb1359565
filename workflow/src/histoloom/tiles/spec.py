"""What a tile is: its size in px and um, what happens at the border and on glass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from histoloom.errors import InputError


@dataclass(frozen=True)
class Background:
    """How tissue is separated from glass; fields as in ``workflow/schemas/tiles.schema.yaml``."""

    method: Literal["none", "rgb", "saturation", "optical_density"] = "optical_density"
    min_tissue: float = 0.1
    rgb_above: int = 220
    min_saturation: float = 0.12
    min_optical_density: float = 0.12
    black_below: int = 15
    artefacts: Sequence[Literal["pen", "blur"]] = ()
    max_artefact: float = 0.25
    mask_um_per_px: float = 4.0


@dataclass(frozen=True)
class TileSpec:
    """A tile spec.

    `size_px`: side of the tile in output px; `um_per_px`: um per output px, or ``"native"``: the slide's own px;
    `border`: ``"drop"`` or ``"pad"`` squares that leave the slide; `pad`: what padding shows: ``"white"`` or
    ``"reflect"``; `background`: how tissue is separated from glass.
    """

    size_px: int = 224
    um_per_px: float | Literal["native"] = "native"
    border: Literal["drop", "pad"] = "drop"
    pad: Literal["white", "reflect"] = "white"
    background: Background = field(default_factory=Background)

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> TileSpec:
        """Build from a validated entry of the config."""
        known, inner = {f.name for f in fields(cls)}, {f.name for f in fields(Background)}
        unknown = [k for k in spec if k not in known]
        unknown += [f"background.{k}" for k in spec.get("background", {}) if k not in inner]
        if unknown:
            problem = f"unknown key {', '.join(unknown)}."
            raise InputError("tile spec", problem, f"allowed keys: {', '.join(sorted(known))}.", code="tiles-spec")
        values, background = dict(spec), dict(spec.get("background", {}))
        # A tuple, so that specs with and without their defaults are equal.
        background["artefacts"] = tuple(background.get("artefacts", ()))
        if values.get("um_per_px", "native") != "native":
            values["um_per_px"] = float(values["um_per_px"])
        return cls(**{**values, "background": Background(**background)})

    def as_dict(self) -> dict[str, Any]:
        """Return the spec with every default, as JSON."""
        spec = asdict(self)
        spec["background"]["artefacts"] = list(self.background.artefacts)
        return spec

    def size_level0_px(self, mpp: float) -> float:
        """Return the side of the square in level-0 px.

        `mpp`: um per level-0 px of the slide.
        """
        return float(self.size_px) if self.um_per_px == "native" else self.size_px * self.um_per_px / mpp

    def effective_um_per_px(self, mpp: float) -> float:
        """Return um per output px on a slide of `mpp` um per level-0 px."""
        return float(mpp) if self.um_per_px == "native" else float(self.um_per_px)


def same_spec(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two entries, with or without their defaults, mean the same tiles."""
    return TileSpec.from_dict(one) == TileSpec.from_dict(other)
