"""OME-TIFF slides: what 10x gives with Xenium, and what OpenSlide cannot read or reads wrongly.

OpenSlide takes an OME-TIFF for a generic one: it sees only the first page, so that a picture stored by channel,
(3, y, x), comes out grey, and it refuses JPEG 2000. tifffile reads both, and the reduced levels in SubIFDs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from histoloom.errors import InputError
from histoloom.slides.base import DAMAGED, Slide, UInt8, plausible

logger = logging.getLogger(__name__)

_UM = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_BAND = 2048


def is_ome(path: Path) -> bool:
    """Tell whether a file is an OME-TIFF, by its content."""
    import tifffile

    if path.suffix.lower() not in {".tif", ".tiff", ".btf"}:
        return False
    try:
        with tifffile.TiffFile(path) as handle:
            return bool(handle.is_ome)
    except (tifffile.TiffFileError, OSError, ValueError):
        return False


class OmeSlide(Slide):
    """An OME-TIFF of 8-bit colours, stored (y, x, 3) or by channel (3, y, x), (4, y, x) with transparency."""

    def __init__(self, path: Path) -> None:
        import tifffile
        import zarr

        self.path = path
        try:
            self._file = tifffile.TiffFile(path)
            series = self._file.series[0]
            axes = series.axes
            stores = [self._file.aszarr(series=0, level=level) for level in range(len(series.levels))]
            self._levels: list[Any] = [zarr.open_array(store, mode="r") for store in stores]
        except (tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError) as error:
            raise InputError(path, f"not a readable OME-TIFF ({error}).", DAMAGED) from error
        self._axes = axes
        shape = dict(zip(axes, self._levels[0].shape, strict=True))
        colours = shape.get("S", shape.get("C", 1))
        others = {axis: n for axis, n in shape.items() if axis not in "YXSC" and n != 1}
        if self._levels[0].dtype != np.uint8 or colours not in (3, 4) or others or {"S", "C"} <= set(axes) - {""}:
            raise InputError(
                path,
                f"axes {axes} of {self._levels[0].shape}, {self._levels[0].dtype}: no 8-bit RGB image.",
                "give the H&E image, not the fluorescence one, as 8-bit RGB.",
            )
        self.height, self.width = shape["Y"], shape["X"]
        place = {axis: number for number, axis in enumerate(axes)}
        self.level_dimensions = [(int(a.shape[place["X"]]), int(a.shape[place["Y"]])) for a in self._levels]
        self.level_downsamples = [self.width / width for width, _ in self.level_dimensions]
        self.mpp = _physical_size(self._file.ome_metadata)

    def read_level(self, level: int, x: int, y: int, w: int, h: int) -> UInt8:
        """Return a rectangle of a coarser level, (h, w, 3); all numbers in that level's px."""
        where = {"X": slice(x, x + w), "Y": slice(y, y + h), "S": slice(None), "C": slice(None)}
        array = self._levels[level]
        axes = self._axes
        try:
            pixels = np.asarray(array[tuple(where.get(axis, 0) for axis in axes)])
        except (ValueError, OSError, RuntimeError) as error:
            raise InputError(self.path, f"its pixels cannot be read ({error}).", DAMAGED) from error
        left = [axis for axis in axes if axis in "YXSC"]
        order = [left.index("Y"), left.index("X"), left.index("S" if "S" in left else "C")]
        return np.ascontiguousarray(pixels.transpose(order)[..., :3])

    def _read(self, x: int, y: int, w: int, h: int) -> UInt8:
        return self.read_level(0, x, y, w, h)

    def thumbnail(self, max_px: int) -> UInt8:
        """Return the reduced slide, (h, w, 3), from the smallest level that is large enough."""
        from PIL import Image

        factor = min(1.0, max_px / max(self.width, self.height))
        size = (max(1, round(self.width * factor)), max(1, round(self.height * factor)))
        sides = self.level_dimensions
        level = max((i for i, side in enumerate(sides) if side[0] >= size[0] and side[1] >= size[1]), default=0)
        width, height = sides[level]
        reduce = max(1, width // size[0])
        step = max(reduce, _BAND // reduce * reduce)
        # In bands: without a pyramid the whole level may not fit in memory.
        bands = [
            np.asarray(Image.fromarray(self.read_level(level, 0, top, width, min(step, height - top))).reduce(reduce))
            for top in range(0, height, step)
        ]
        image = Image.fromarray(np.concatenate(bands))
        return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BOX))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _physical_size(xml: str | None) -> float | None:
    """Return um/px as the OME-XML states it, None where it states none that a microscope could have."""
    if not xml:
        return None
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    pixels = next((node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    sizes = []
    for axis in "XY":
        unit = _UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        try:
            sizes.append(float(pixels.get(f"PhysicalSize{axis}", "nan")) * (unit or float("nan")))
        except ValueError:
            return None
    return plausible(sizes)
