"""Which reader a slide needs."""

from __future__ import annotations

from pathlib import Path

from histoloom.errors import InputError
from histoloom.slides.base import DAMAGED, Slide
from histoloom.slides.files import RasterSlide, WholeSlide
from histoloom.slides.patches import PatchSlide
from histoloom.slides.tiff import TiffSlide, needs_tifffile


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
