"""Predictions as GeoJSON for QuPath 0.4 and later: drag the file onto the open slide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from histoloom.errors import InputError
from histoloom.report.slides import read_slide_predictions

_SIGNIFICANT = 6


def square(x: float, y: float, side: float) -> list[list[float]]:
    """Return the closed ring of a square around a centre, level-0 px, counterclockwise in x and y (RFC 7946)."""
    half = side / 2
    left, right, low, high = (round(v, 2) for v in (x - half, x + half, y - half, y + half))
    return [[left, low], [right, low], [right, high], [left, high], [left, low]]


def tile_feature(name: str, ring: list[list[float]], measurements: dict[str, float]) -> dict[str, Any]:
    """Return one tile as QuPath reads it: object type ``tile``, measurements by name."""
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "tile", "name": name, "isLocked": True, "measurements": measurements},
    }


def write_geojson(*, predictions: Path, cohort: str, sample: str, out: Path, side_px: float | None = None) -> None:
    """Write a section's predictions as a FeatureCollection of squares.

    Parameters
    ----------
    predictions, cohort, sample
        See `histoloom.report.slides.read_slide_predictions`.
    out
        geojson; coordinates are level-0 px of the slide.
    side_px
        Side of a square, level-0 px; None: the grid's pitch, else the tile's side, as the predictions state them.

    Raises
    ------
    InputError
        If no side is known.
    """
    values, xy, facts = read_slide_predictions(predictions, cohort, sample)
    side = side_px or facts.get("pitch_px") or facts.get("tile_level0_px")
    if not side:
        raise InputError(predictions, f"does not state the tile's side for {cohort}/{sample}.", "give side_px.")
    features = [
        tile_feature(
            str(name),
            square(float(x), float(y), float(side)),
            {str(t): float(f"{v:.{_SIGNIFICANT}g}") for t, v in zip(values.columns, row, strict=True)},
        )
        for name, (x, y), row in zip(values.index, xy, values.to_numpy(), strict=True)
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"), allow_nan=False)
    out.write_text(text + "\n", encoding="utf-8")
