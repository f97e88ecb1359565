"""One reader for every slide image: OpenSlide for whole slides, tifffile for OME-TIFF, one decode for plain pictures.

A base room and not a stage: `histoloom.samples` wants a slide's size and thumbnail, `histoloom.tiles` its pixels.
"""

from histoloom.slides.base import PLAUSIBLE_MPP, BlankSlide, Slide, UInt8
from histoloom.slides.opening import open_slide

__all__ = ["PLAUSIBLE_MPP", "BlankSlide", "Slide", "UInt8", "open_slide"]
