"""A region of interest, drawn in QuPath: which observations of a section take part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from histoloom.errors import InputError
from histoloom.slides import Slide
from histoloom.text_tables import read_text

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

IGNORED = "Ignore*"
"""QuPath's class for what is to be left out of an annotation around it."""
_MOST_BEYOND = 0.5
_REMEDY = (
    "export annotations of closed shapes from QuPath (File, Export objects as GeoJSON), or empty 'roi' in the sheet."
)


def read_roi(path: Path, offset: tuple[int, int] = (0, 0)) -> BaseGeometry:
    """Return the union of a GeoJSON's polygons without those of class `IGNORED`, level-0 px of the whole slide.

    `offset`: left top corner (x, y) of what QuPath shows of the slide. Points and lines have no area and do not count.
    """
    import shapely
    from shapely.affinity import translate
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    text = read_text(path)
    kept: list[Any] = []
    ignored: list[Any] = []
    try:
        content = json.loads(text)
        features: list[Any] = content.get("features", [content]) if isinstance(content, dict) else content
        for feature in features:
            # Cells and tiles in an export of all objects are detections and tiles, no annotations.
            if feature.get("properties") and feature["properties"].get("objectType", "annotation") != "annotation":
                continue
            drawn = shapely.make_valid(shape(feature.get("geometry", feature)))
            kind = (feature.get("properties") or {}).get("classification") or {}
            (ignored if kind.get("name") == IGNORED else kept).append(drawn)
    except (ValueError, KeyError, TypeError, AttributeError, ShapelyError) as error:
        raise InputError(path, f"is no GeoJSON of annotations ({error!r}).", _REMEDY, code="roi-geojson") from error
    region = shapely.union_all(kept) - shapely.union_all(ignored)
    if not region.area > 0:
        types = ", ".join(sorted({part.geom_type for part in kept})) or "nothing"
        raise InputError(path, f"holds no area ({types}).", _REMEDY, code="roi-no-area")
    return translate(region, *offset)


def inside_roi(path: Path, places: npt.NDArray[np.float64], slide: Slide, where: str) -> npt.NDArray[np.bool_]:
    """Return whether each place lies in the region of interest; `places`: (n, 2), column and row, level-0 px."""
    import shapely

    region = read_roi(path, slide.bounds)
    beyond = 1 - region.intersection(shapely.box(0, 0, slide.width, slide.height)).area / region.area
    extent = ", ".join(f"{value:.0f}" for value in region.bounds)
    if beyond > _MOST_BEYOND:
        size = f"{slide.width} x {slide.height} px"
        problem = f"{beyond:.0%} of the region of interest ({extent} px) lie beyond the slide of {size}."
        remedy = f"draw it on the slide that the sheet names, in level-0 px, and export it anew; read was {path}."
        raise InputError(where, problem, remedy, code="roi-other-frame")
    inside = np.asarray(shapely.contains_xy(region, places))
    if not inside.any():
        problem = f"none of {len(places)} observations lies in the region of interest of {path} ({extent} px)."
        remedy = "draw it around observations (results/figures/samples/ shows them), or empty 'roi' in the sheet."
        raise InputError(where, problem, remedy, code="roi-empty")
    return inside
