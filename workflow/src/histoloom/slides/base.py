"""What an open slide is, whatever its format.

The frame is always the stored one: x = column, y = row, origin at the top left of level 0; an EXIF rotation is not
applied, since published spot coordinates refer to the pixels as stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from histoloom.limits import PLAUSIBLE_MPP

UInt8 = npt.NDArray[np.uint8]

CM_UM, INCH_UM = 1e4, 25400.0

DAMAGED = "put the whole file there again, or give the section a reason in the sheet's 'exclude' column."
"""Remedy for a slide that cannot be read."""


class Slide(ABC):
    """An open slide.

    `width`, `height`: size of level 0, px; `mpp`: um/px of level 0 as the file states it, None where it states none
    that a microscope could have.
    """

    path: Path
    width: int
    height: int
    mpp: float | None
    bounds: tuple[int, int] = (0, 0)
    """Left and top of the scanned area, level-0 px, as MRXS and SCN state it; QuPath counts from there."""
    level_downsamples: Sequence[float] = (1.0,)
    level_dimensions: Sequence[tuple[int, int]] = ()
    ready_made = False
    """Whether the file holds tiles, which `ready_tile` gives, and no slide."""

    @abstractmethod
    def _read(self, x: int, y: int, w: int, h: int) -> UInt8:
        """Return the pixels of a rectangle that lies inside."""

    @abstractmethod
    def thumbnail(self, max_px: int) -> UInt8:
        """Return the whole slide, reduced so that its longer side has at most `max_px` px; never enlarged.

        Returns uint8, (h, w, 3), RGB; transparent parts are white.
        """

    def read(self, x: int, y: int, w: int, h: int) -> UInt8:
        """Return a rectangle of level 0.

        `x`, `y`: top left corner, level-0 px; `w`, `h`: size, px. Returns uint8, (h, w, 3), RGB. May be a view of
        memory that the slide owns: do not write into it. ValueError: if the rectangle is empty or leaves the slide:
        padding would be tissue that was never there.
        """
        x, y, w, h = int(x), int(y), int(w), int(h)
        if w <= 0 or h <= 0 or x < 0 or y < 0 or x + w > self.width or y + h > self.height:
            slide = f"the slide of {self.width} x {self.height} px"
            raise ValueError(f"{self.path}: the rectangle x={x}, y={y}, {w} x {h} px is not inside {slide}")
        return self._read(x, y, w, h)

    def read_level(self, level: int, x: int, y: int, w: int, h: int) -> UInt8:
        """Return a rectangle of a coarser level, (h, w, 3); all numbers in that level's px."""
        return self._read(x, y, w, h)

    def reduced_size(self, max_px: int) -> tuple[int, int]:
        """Return (width, height) of the whole slide when its longer side has at most `max_px` px."""
        share = min(1.0, max_px / max(self.width, self.height))
        return max(1, round(self.width * share)), max(1, round(self.height * share))

    def _reduced_level(self, level: int, reduce: int, band: int) -> Any:
        """Return a level reduced by a whole factor, a Pillow image; in bands, as all of it may not fit in memory."""
        from PIL import Image

        width, height = self.level_dimensions[level]
        step = reduce * max(1, band // reduce)
        parts = (self.read_level(level, 0, top, width, min(step, height - top)) for top in range(0, height, step))
        return Image.fromarray(np.concatenate([np.asarray(Image.fromarray(part).reduce(reduce)) for part in parts]))

    def ready_tile(self, x: float, y: float, side: float, size_px: int) -> UInt8:
        """Return the stored tile around (x, y), of `side` level-0 px, where the file is `ready_made`."""
        raise ValueError(f"{self.path} is a slide and holds no tiles")

    def close(self) -> None:  # noqa: B027 - nothing to free is a fair answer
        """Free what the slide holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlankSlide(Slide):
    """The glass under sections that are read without their slide."""

    def __init__(self, width: int, height: int) -> None:
        self.path, self.width, self.height, self.mpp = Path("no slide"), width, height, None

    @classmethod
    def around(cls, places: np.ndarray) -> BlankSlide:
        """Return glass that holds all places ((n, 2), level-0 px) with a margin as wide as above and left of them."""
        width, height = np.ceil(np.max(places, axis=0) + np.maximum(np.min(places, axis=0), 1))
        return cls(int(width), int(height))

    def _read(self, x: int, y: int, w: int, h: int) -> UInt8:
        return np.full((h, w, 3), 255, np.uint8)

    def thumbnail(self, max_px: int) -> UInt8:
        """Return white glass of the slide's shape."""
        return np.full((*self.reduced_size(max_px)[::-1], 3), 255, np.uint8)


def plausible(values: list[float]) -> float | None:
    """Return the mean of the um/px of both axes when a microscope could have them."""
    mean = float(np.mean(values)) if values else float("nan")
    return mean if PLAUSIBLE_MPP[0] <= mean <= PLAUSIBLE_MPP[1] else None
