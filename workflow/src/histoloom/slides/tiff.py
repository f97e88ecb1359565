"""TIFF slides that OpenSlide cannot read or reads wrongly: OME-TIFF, ImageJ composites, separate planes, JPEG 2000.

OpenSlide and Pillow see only the first page, so that a picture stored by channel, (3, y, x), comes out grey, and they
refuse some compressions. tifffile reads all of them, and the reduced levels in SubIFDs.
"""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from histoloom.errors import InputError
from histoloom.slides.base import CM_UM, DAMAGED, INCH_UM, Slide, UInt8, plausible
from histoloom.slides.files import shrunk

logger = logging.getLogger(__name__)

_METRIC = {"\u03bcm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3, "cm": CM_UM, "m": 1e6}
_UM = {**_METRIC, "inch": INCH_UM, "in": INCH_UM}
"""um per unit of length, by the unit's name in NFKC (which writes every micro sign as a Greek mu)."""
_READ_ELSEWHERE = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946})
"""TIFF compressions that OpenSlide and Pillow decode: none, fax, LZW, JPEG, deflate, PackBits."""
_SEPARATE = 2
_ORIENTATION = 274
"""Tag of how a viewer should turn a page; Pillow turns it, OpenSlide and tifffile give pixels as stored."""
_BAND = 2048


def needs_tifffile(path: Path) -> bool:
    """Tell by its content whether a file is a TIFF that only tifffile reads, or reads rightly."""
    import tifffile

    if path.suffix.lower() not in {".tif", ".tiff", ".btf"}:
        return False
    try:
        with tifffile.TiffFile(path) as handle:
            series, page = handle.series[0], handle.pages[0]
            planes = len(series.pages) > 1 or getattr(page, "planarconfig", 1) == _SEPARATE
            turned = _is_turned(page)
            plain = not planes and not turned and int(page.compression) in _READ_ELSEWHERE
            return bool(handle.is_ome or not plain or _larger(handle))
    except (tifffile.TiffFileError, OSError, ValueError, IndexError):
        return False


def _is_turned(page: Any) -> bool:
    tag = getattr(page, "tags", {}).get(_ORIENTATION)
    return tag is not None and int(tag.value) != 1


def _larger(file: Any) -> tuple[int, int] | None:
    """Return (width, height) of a picture in colour that is larger than the first, where a TIFF holds one."""
    first, *others = file.series
    sides = [(s.sizes.get("width", 0), s.sizes.get("height", 0)) for s in others if s.sizes.get("sample", 1) in (3, 4)]
    most = max(sides, key=lambda side: side[0] * side[1], default=(0, 0))
    return most if most[0] * most[1] > first.sizes.get("width", 0) * first.sizes.get("height", 0) else None


class TiffSlide(Slide):
    """A TIFF of 8-bit colours, stored (y, x, 3) or by channel (3, y, x), (4, y, x) with transparency."""

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
            raise InputError(path, f"not a readable TIFF ({error}).", DAMAGED, code="tiff-unreadable") from error
        if larger := _larger(self._file):
            problem = f"holds a larger picture, {larger[0]} x {larger[1]} px, behind the first."
            remedy = "save the picture that the positions were made on as a file of its own."
            raise InputError(path, problem, remedy, code="tiff-larger-page")
        if _is_turned(self._file.pages[0]):
            logger.warning("%s: the TIFF's orientation is not applied, pixels are used as stored", path)
        self._axes = axes
        shape = dict(zip(axes, self._levels[0].shape, strict=True))
        colours = shape.get("S", shape.get("C", 1))
        others = {axis: n for axis, n in shape.items() if axis not in "YXSC" and n != 1}
        if self._levels[0].dtype != np.uint8 or colours not in (3, 4) or others or {"S", "C"} <= set(axes) - {""}:
            problem = f"axes {axes} of {self._levels[0].shape}, {self._levels[0].dtype}: no 8-bit RGB image."
            remedy = "give the H&E image, not the fluorescence one, saved as one 8-bit RGB picture."
            raise InputError(path, problem, remedy, code="tiff-not-rgb")
        self.height, self.width = shape["Y"], shape["X"]
        place = {axis: number for number, axis in enumerate(axes)}
        self.level_dimensions = [(int(a.shape[place["X"]]), int(a.shape[place["Y"]])) for a in self._levels]
        self.level_downsamples = [self.width / width for width, _ in self.level_dimensions]
        self.mpp = _physical_size(self._file.ome_metadata, path) if self._file.is_ome else _resolution(self._file)

    def read_level(self, level: int, x: int, y: int, w: int, h: int) -> UInt8:
        where = {"X": slice(x, x + w), "Y": slice(y, y + h), "S": slice(None), "C": slice(None)}
        try:
            pixels = np.asarray(self._levels[level][tuple(where.get(axis, 0) for axis in self._axes)])
        except (ValueError, OSError, RuntimeError) as error:
            raise InputError(self.path, f"its pixels are damaged ({error}).", DAMAGED, code="slide-pixels") from error
        left = [axis for axis in self._axes if axis in "YXSC"]
        order = [left.index("Y"), left.index("X"), left.index("S" if "S" in left else "C")]
        return np.ascontiguousarray(pixels.transpose(order)[..., :3])

    def _read(self, x: int, y: int, w: int, h: int) -> UInt8:
        return self.read_level(0, x, y, w, h)

    def thumbnail(self, max_px: int) -> UInt8:
        """Return the reduced slide, (h, w, 3), from the smallest level that is large enough."""
        width, height = self.reduced_size(max_px)
        sides = self.level_dimensions
        level = max((i for i, side in enumerate(sides) if side[0] >= width and side[1] >= height), default=0)
        image = self._reduced_level(level, max(1, sides[level][0] // width), _BAND)
        return shrunk(image, (width, height))

    def close(self) -> None:
        self._file.close()


def _resolution(file: Any) -> float | None:
    """Return um/px by the resolution tags; ImageJ states its unit of length in the description."""
    unit = str((file.imagej_metadata or {}).get("unit", "")) if file.is_imagej else ""
    page = file.pages[0]
    tag = page.tags.get("ResolutionUnit")
    unit_um = _unit_um(unit) or {2: INCH_UM, 3: CM_UM}.get(int(tag.value) if tag is not None else 1)
    values = [page.tags[name].value for name in ("XResolution", "YResolution") if name in page.tags]
    return plausible([unit_um * below / above for above, below in values if above]) if unit_um else None


def _unit_um(unit: str) -> float | None:
    """Return um per unit of length; None for what is no length."""
    return _UM.get(unicodedata.normalize("NFKC", unit.encode().decode("unicode_escape") if "\\u" in unit else unit))


def _physical_size(xml: str | None, path: Path) -> float | None:
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
        unit = pixels.get(f"PhysicalSize{axis}Unit", "um")
        unit_um = _unit_um(unit)
        if unit_um is None:
            logger.warning("%s: PhysicalSize%s is in '%s', which is no length: not used", path, axis, unit)
        try:
            sizes.append(float(pixels.get(f"PhysicalSize{axis}", "nan")) * (unit_um or float("nan")))
        except ValueError:
            return None
    return plausible(sizes)
