"""Which reader a slide needs."""

from __future__ import annotations

from pathlib import Path

from histoloom.errors import InputError
from histoloom.slides.base import DAMAGED, Slide
from histoloom.slides.files import PlainSlide, WholeSlide
from histoloom.slides.ome import OmeSlide, is_ome
from histoloom.slides.patches import PatchSlide


def open_slide(path: str | Path) -> Slide:
    """Open a slide; use it as a context manager.

    Raises
    ------
    InputError
        If the file is missing, empty, or no image that OpenSlide or Pillow can open.
    """
    import openslide

    path = Path(path)
    if not path.is_file():
        raise InputError(
            path,
            "the slide image is missing.",
            "put it there, or give the section a reason in the sheet's 'exclude' column.",
        )
    if path.stat().st_size == 0:
        raise InputError(path, "the slide image has zero bytes.", DAMAGED)
    if path.suffix == ".h5":
        return PatchSlide(path)
    if is_ome(path):
        return OmeSlide(path)
    return WholeSlide(path) if openslide.OpenSlide.detect_format(path) else PlainSlide(path)
