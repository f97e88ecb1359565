"""One reader for every slide image: OpenSlide for whole slides, tifffile for OME-TIFF, one decode for plain pictures.

A base room and not a stage: `histoloom.samples` wants a slide's size and thumbnail, `histoloom.tiles` its pixels.
"""

from pathlib import Path

from histoloom.errors import InputError
from histoloom.limits import MAX_SIDE, MAX_SLIDE_PIXELS
from histoloom.slides.base import DAMAGED, BlankSlide, Slide, UInt8
from histoloom.slides.files import RasterSlide, WholeSlide
from histoloom.slides.patches import PatchSlide
from histoloom.slides.tiff import TiffSlide, needs_tifffile

__all__ = ["BlankSlide", "PatchSlide", "Slide", "UInt8", "open_slide"]


def open_slide(path: str | Path) -> Slide:
    """Open a slide; use it as a context manager."""
    path = Path(path)
    if not path.is_file():
        remedy = "put it there, or give the section a reason in the sheet's 'exclude' column."
        raise InputError(path, "the slide image is missing.", remedy, code="slide-missing")
    if path.stat().st_size == 0:
        raise InputError(path, "the slide image has zero bytes.", DAMAGED, code="slide-empty")
    slide = _opened(path)
    if max(slide.width, slide.height) > MAX_SIDE or slide.width * slide.height > MAX_SLIDE_PIXELS:
        slide.close()
        problem = f"it states {slide.width} x {slide.height} px, more than any slide has."
        raise InputError(path, problem, DAMAGED, code="slide-too-large")
    return slide


def _opened(path: Path) -> Slide:
    import openslide

    if path.suffix == ".h5":
        return PatchSlide(path)
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor in {None, "generic-tiff"} and needs_tifffile(path):
        return TiffSlide(path)
    return WholeSlide(path) if vendor else RasterSlide(path)
