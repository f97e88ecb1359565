"""Inputs of models, read by row and only when asked for: features, pixels, expression, coordinates, graphs."""

from histoloom.inputs.base import Inputs, SectionKey, union
from histoloom.inputs.build import open_inputs
from histoloom.inputs.pixels import pack_tiles

__all__ = ["Inputs", "SectionKey", "open_inputs", "pack_tiles", "union"]
