"""Tiles: the square of slide around every observation, which of them count, and their pixels.

`cut_tiles` writes the table of centres (no pixels), `read_tiles` reads the pixels when an encoder or a model wants
them.
"""

from histoloom.tiles.cut import cut_tiles
from histoloom.tiles.reading import read_tiles
from histoloom.tiles.spec import TileSpec

__all__ = ["TileSpec", "cut_tiles", "read_tiles"]
