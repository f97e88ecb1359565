"""One reader for every slide image: OpenSlide for whole slides, tifffile for OME-TIFF, one decode for plain pictures.

A base room and not a stage: `histoloom.samples` wants a slide's size and thumbnail, `histoloom.tiles` its pixels.
"""

from pathlib import Path

from histoloom.errors import InputError
from histoloom.slides.base import DAMAGED, PLAUSIBLE_MPP, BlankSlide, Slide, UInt8
from histoloom.slides.files import RasterSlide, WholeSlide
from histoloom.slides.patches import PatchSlide
from histoloom.slides.tiff import TiffSlide, needs_tifffile

__all__ = ["PLAUSIBLE_MPP", "BlankSlide", "Slide", "UInt8", "open_slide"]


def open_slide(path: str | Path) -> Slide:
    """Open a slide; use it as a context manager."""
    import openslide

    path = Path(path)
    if not path.is_file():
        remedy = "put it there, or give the section a reason in the sheet's 'exclude' column."
        raise InputError(path, "the slide image is missing.", remedy, code="slide-missing")
    if path.stat().st_size == 0:
        raise InputError(path, "the slide image has zero bytes.", DAMAGED, code="slide-empty")
    if path.suffix == ".h5":
        return PatchSlide(path)
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor in {None, "generic-tiff"} and needs_tifffile(path):
        return TiffSlide(path)
    return WholeSlide(path) if vendor else RasterSlide(path)
