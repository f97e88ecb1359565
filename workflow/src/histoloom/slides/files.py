"""Slides in files that OpenSlide or Pillow read: whole slides level by level, plain pictures in one decode."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from histoloom.errors import InputError
from histoloom.limits import FREE_PICTURE_BYTES, MAX_PICTURE_RATIO, MAX_PIXELS
from histoloom.slides.base import CM_UM, DAMAGED, INCH_UM, Slide, UInt8, plausible

logger = logging.getLogger(__name__)

_BAND = 512
_EXIF_ORIENTATION = 0x0112


class RasterSlide(Slide):
    """A JPEG, PNG or plain TIFF: opened for its header, decoded once at the first `read`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pixels: UInt8 | None = None
        with _picture(path) as image:
            self.width, self.height = image.size
            self.mpp = _picture_mpp(image)
            if image.mode.startswith("I") or image.mode == "F":
                problem = f"pixels of mode '{image.mode}' are no 8-bit colours."
                raise InputError(path, problem, "save it as 8-bit RGB.", code="image-not-8-bit")
            if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
                logger.warning("%s: the EXIF orientation is not applied, pixels are used as stored", path)

    def _read(self, x: int, y: int, w: int, h: int) -> UInt8:
        if self._pixels is None:
            self._pixels = self._decode()
        return self._pixels[y : y + h, x : x + w]

    def _decode(self) -> UInt8:
        pixels = np.empty((self.height, self.width, 3), np.uint8)
        with _picture(self.path) as image:
            image.load()
            # In bands: a conversion of the whole would hold the picture three times.
            for top in range(0, self.height, _BAND):
                bottom = min(top + _BAND, self.height)
                pixels[top:bottom] = _rgb(image.crop((0, top, self.width, bottom)))
        return pixels

    def thumbnail(self, max_px: int) -> UInt8:
        """Return the reduced slide, (h, w, 3); JPEG is decoded at the reduced size."""
        with _picture(self.path) as image:
            # JPEG can be decoded at 1/2, 1/4, 1/8 of its size; other formats ignore this.
            image.draft("RGB", (max_px, max_px))
            image.load()
            return shrunk(image, self.reduced_size(max_px))

    def close(self) -> None:
        self._pixels = None


class WholeSlide(Slide):
    """Any format that OpenSlide reads: svs, ndpi, mrxs, scn, bif, dicom, tiled tiff."""

    def __init__(self, path: Path) -> None:
        import openslide

        self.path = path
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise InputError(path, f"OpenSlide cannot open it ({error}).", DAMAGED, code="slide-unreadable") from error
        self.width, self.height = self._slide.dimensions
        self.level_downsamples, self.level_dimensions = self._slide.level_downsamples, self._slide.level_dimensions
        self.mpp = _openslide_mpp(self._slide.properties)
        left, top = (int(_number(self._slide.properties.get(f"openslide.bounds-{axis}"))) for axis in "xy")
        self.bounds = (left, top)

    def _read(self, x: int, y: int, w: int, h: int) -> UInt8:
        return self.read_level(0, x, y, w, h)

    def read_level(self, level: int, x: int, y: int, w: int, h: int) -> UInt8:
        import openslide

        scale = self.level_downsamples[level]
        try:
            return _rgb(self._slide.read_region((round(x * scale), round(y * scale)), level, (w, h)))
        except openslide.OpenSlideError as error:
            raise InputError(self.path, f"its pixels are damaged ({error}).", DAMAGED, code="slide-pixels") from error

    def thumbnail(self, max_px: int) -> UInt8:
        """Return the reduced slide, (h, w, 3), from the level that suits best."""
        factor = max(1.0, max(self.width, self.height) / max_px)
        level = self._slide.get_best_level_for_downsample(factor)
        reduce = max(1, int(factor / self.level_downsamples[level]))
        return shrunk(self._reduced_level(level, reduce, _BAND), self.reduced_size(max_px))

    def close(self) -> None:
        self._slide.close()


@contextmanager
def _picture(path: Path) -> Iterator[Any]:
    """Open a picture with Pillow; what is unreadable, truncated or too large becomes an `InputError`."""
    from PIL import Image, UnidentifiedImageError

    # Pillow suspects an attack in anything above 90 Mpx and refuses above 180 Mpx; scanned sections have
    # 90 and more. The files are the user's own, so only what could not fit in memory is refused.
    Image.MAX_IMAGE_PIXELS = None
    with warnings.catch_warnings():
        # Truncated EXIF and the like: not about pixels.
        warnings.simplefilter("ignore", UserWarning)
        try:
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    size = f"{image.width} x {image.height} px"
                    problem = f"{size} are too many to decode at once (at most {MAX_PIXELS})."
                    raise InputError(path, problem, "save it as a tiled TIFF.", code="image-too-large")
                decoded, packed = 3 * image.width * image.height, path.stat().st_size
                if decoded > FREE_PICTURE_BYTES and decoded > MAX_PICTURE_RATIO * packed:
                    problem = f"{packed} bytes would unpack to {decoded}: no scanned slide is so empty."
                    raise InputError(path, problem, DAMAGED, code="image-ratio")
                yield image
        except UnidentifiedImageError as error:
            raise InputError(path, "is no known format of images.", DAMAGED, code="image-format") from error
        except (OSError, SyntaxError, EOFError) as error:
            raise InputError(path, f"is damaged or cut short ({error}).", DAMAGED, code="image-damaged") from error


def _rgb(image: Any) -> UInt8:
    """Return a Pillow image as RGB on white, (h, w, 3)."""
    from PIL import Image

    if image.mode == "P" or image.mode == "LA" or (image.mode in {"RGB", "L"} and "transparency" in image.info):
        image = image.convert("RGBA")
    if image.mode == "RGBA" and image.getextrema()[3][0] < 255:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def shrunk(image: Any, size: tuple[int, int]) -> UInt8:
    """Return a Pillow image as RGB on white, (h, w, 3), brought to a size (width, height)."""
    from PIL import Image

    rgb = Image.fromarray(_rgb(image))
    return np.asarray(rgb if rgb.size == size else rgb.resize(size, Image.Resampling.BOX))


def _openslide_mpp(properties: Any) -> float | None:
    """Read um/px from OpenSlide's own properties, else from the TIFF resolution tags."""
    values = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    if any(values):
        return plausible([value for value in values if value])
    unit = {"centimeter": CM_UM, "inch": INCH_UM}.get(str(properties.get("tiff.ResolutionUnit")), 0.0)
    resolutions = [_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    return plausible([unit / value for value in resolutions if value]) if unit else None


def _picture_mpp(image: Any) -> float | None:
    """Read um/px from Pillow's dots per inch."""
    dpi = image.info.get("dpi") or ()
    return plausible([INCH_UM / float(value) for value in dpi if float(value) > 0])


def _number(text: Any) -> float:
    """Return a property as a number, 0 when it is absent or none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return 0.0
