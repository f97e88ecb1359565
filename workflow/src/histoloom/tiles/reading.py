"""The pixels of tiles: exact crops where nothing is scaled, antialiased resampling where something is.

Coordinates are continuous: px i of a slide spans [i, i + 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from histoloom.slides import Slide

UInt8 = npt.NDArray[np.uint8]

_LANCZOS_SUPPORT = 3
"""Taps of the LANCZOS kernel on each side, in units of the larger of source and target px."""

_RING = 2
"""Spare px around what the kernel needs, for rounding."""


def needs_scaling(size_level0_px: float, size_px: int) -> bool:
    """Tell whether a tile must be resampled, i.e. its square is not `size_px` level-0 px to a thousandth."""
    return abs(size_level0_px - size_px) >= 1e-3


def corner(centre: npt.ArrayLike, size_px: int) -> npt.NDArray[np.int64]:
    """Return the integer corner of unscaled tiles: the square's middle is within 0.5 px of the centre.

    Halves round up, so that a tile moves with its centre and not with the parity of the corner.
    """
    return np.floor(np.asarray(centre, np.float64) - size_px / 2 + 0.5).astype(np.int64)


def read_tiles(
    slide: Slide,
    centres: npt.ArrayLike,
    size_level0_px: float,
    size_px: int,
    *,
    pad: Literal["white", "reflect"] = "white",
    exact: bool = True,
) -> Iterator[UInt8]:
    """Yield the tile around each centre, in the order given.

    `centres`: (n, 2), x (column) and y (row) of the centres in level-0 px; continuous, px i spans [i, i + 1).
    `size_level0_px`: side of the square in level-0 px; may be a fraction. `size_px`: side of the tile. Equal to
    `size_level0_px`: an exact crop whose middle is within 0.5 px of the centre. Else: LANCZOS with its kernel widened
    to the reduction (antialiased), centred to a fraction of a px. Returns uint8, (size_px, size_px, 3). May be a view
    of the slide's memory: do not write into it. `exact`: where published patches stand for a slide, a tile is one of
    them; False: it is cut from a drawing of all of them, for pictures that show more than a patch. ValueError: if the
    centres are no finite (n, 2) array.
    """
    points = np.asarray(centres, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"centres must be a finite (n, 2) array, got shape {points.shape}")
    if slide.ready_made and exact:
        for x, y in points.tolist():
            yield slide.ready_tile(x, y, size_level0_px, size_px)
        return
    if needs_scaling(size_level0_px, size_px):
        yield from _scaled(slide, points, size_level0_px, size_px, pad)
        return
    for x, y in corner(points, size_px).tolist():
        yield _padded(slide.read, slide.width, slide.height, (x, y, size_px, size_px), pad)


def _padded(read: Callable[..., UInt8], width: int, height: int, box: tuple[int, int, int, int], pad: str) -> UInt8:
    """Read the part of a rectangle that lies inside and fill the rest.

    `pad` is ``"white"``, ``"reflect"`` (the edge px is repeated first, as in a mirror laid on the edge) or ``"edge"``.
    """
    x, y, w, h = box
    if x >= 0 and y >= 0 and x + w <= width and y + h <= height:
        return read(*box)
    if pad == "white":
        tile = np.full((h, w, 3), 255, np.uint8)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + w, width), min(y + h, height)
        if left < right and top < bottom:
            tile[top - y : bottom - y, left - x : right - x] = read(left, top, right - left, bottom - top)
        return tile
    columns, rows = _inside(np.arange(x, x + w), width, pad), _inside(np.arange(y, y + h), height, pad)
    left, top = int(columns.min()), int(rows.min())
    source = read(left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1)
    return source[np.ix_(rows - top, columns - left)]


def _inside(index: npt.NDArray[np.int64], size: int, pad: str) -> npt.NDArray[np.int64]:
    """Map px numbers that may lie outside to those that stand in for them."""
    if pad == "edge":
        return np.clip(index, 0, size - 1)
    folded = np.mod(index, 2 * size)
    return np.minimum(folded, 2 * size - 1 - folded)


def _scaled(
    slide: Slide, points: npt.NDArray[np.float64], size_level0_px: float, size_px: int, pad: str
) -> Iterator[UInt8]:
    """Yield resampled tiles; reads a coarser level of a pyramid where it still has more px than the tile."""
    from PIL import Image

    level, reduction = _level(slide, size_level0_px / size_px)
    read = partial(slide.read_level, level) if level else slide.read
    width, height = slide.level_dimensions[level] if level else (slide.width, slide.height)
    # The pyramid's level is a reduced level 0: its own frame differs in scale only.
    side = size_level0_px / reduction
    ring = math.ceil(_LANCZOS_SUPPORT * max(side / size_px, 1.0)) + _RING

    for x, y in points / reduction - side / 2:
        left, top = math.floor(x) - ring, math.floor(y) - ring
        w = math.ceil(x + side) + ring - left
        h = math.ceil(y + side) + ring - top
        box = (left, top, w, h)
        within = x >= -0.5 and y >= -0.5 and x + side <= width + 0.5 and y + side <= height + 0.5
        # Only the kernel's ring is outside: white there would bleed into a tile that lies within.
        pixels = _padded(read, width, height, box, "edge" if within else pad)
        image = Image.fromarray(pixels)
        frame = (x - left, y - top, x - left + side, y - top + side)
        yield np.asarray(image.resize((size_px, size_px), Image.Resampling.LANCZOS, box=frame))


def _level(slide: Slide, downsample: float) -> tuple[int, float]:
    """Return the coarsest level, with its reduction, that has at least the px the tile needs; 0 below a factor of 2."""
    reductions = slide.level_downsamples
    if downsample < 2:
        return 0, 1.0
    fit = [i for i, factor in enumerate(reductions) if factor <= downsample * 1.001]
    best = max(fit, key=lambda i: reductions[i], default=0)
    return best, float(reductions[best])
