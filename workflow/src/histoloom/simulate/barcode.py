"""The barcode slide: the pixels under a spot say which spot it is, and where its centre lies below a pixel.

A block is 11 x 11 modules of 4 um: a dark frame one module wide, a light ring, and 7 x 7 modules of code. The
code's corners tell flips, the payload is array_row and array_col with their complements and a checksum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MODULE_UM = 4.0
_SIDE, _CODE = 11, 7
_PAYLOAD = 45


class BarcodeReading(NamedTuple):
    """What a block says.

    Attributes
    ----------
    row, col
        array_row and array_col ("10x13" is row 10, col 13).
    dx, dy
        The block's centre minus the tile's centre, in pixels of the tile.
    """

    row: int
    col: int
    dx: float
    dy: float


def _bits(value: int, n: int) -> list[int]:
    return [(value >> i) & 1 for i in range(n)]


def _code(row: int, col: int) -> Array:
    """Return the 7 x 7 code, 1 = dark."""
    data = _bits(row, 8) + _bits(col, 8)
    check = (row * 31 + col * 17 + 5) % 256
    payload = (data + [1 - b for b in data] + _bits(check, 8))[:_PAYLOAD]
    payload += [i % 2 for i in range(_PAYLOAD - len(payload))]
    flat = np.zeros(_CODE * _CODE, dtype=int)
    corners = (0, _CODE - 1, _CODE * (_CODE - 1), _CODE * _CODE - 1)
    flat[0] = 1
    flat[[i for i in range(flat.size) if i not in corners]] = payload
    return flat.reshape(_CODE, _CODE)


def block(row: int, col: int) -> Array:
    """Return the whole block (11, 11), 1 = dark."""
    made = np.ones((_SIDE, _SIDE), dtype=int)
    made[1:-1, 1:-1] = 0
    made[2:-2, 2:-2] = _code(row, col)
    return made


def _coverage(n_pixels: int, start: float, module_px: float) -> Array:
    """Return how much of each pixel each module covers, (n_pixels, 11): exact, hence sub-pixel."""
    edges = start + np.arange(_SIDE + 1) * module_px
    left = np.arange(n_pixels)[:, None]
    return np.clip(np.minimum(left + 1, edges[1:]) - np.maximum(left, edges[:-1]), 0, 1)


def draw_barcodes(shape: tuple[int, int], centres_px: Array, x: Array, y: Array, mpp: float) -> Array:
    """Draw a slide of codes on pink, uint8 (h, w, 3).

    Parameters
    ----------
    shape
        Height and width, px.
    centres_px
        Spot centres (n, 2), px; pixel i covers [i, i + 1).
    x, y
        Array numbers (n,): x is array_row, y is array_col.
    mpp
        Micrometres per pixel.
    """
    dark = np.zeros(shape, dtype=np.float32)
    module = MODULE_UM / mpp
    half = _SIDE * module / 2
    for centre, row, col in zip(centres_px, x, y, strict=True):
        x0, y0 = np.floor(centre - half).astype(int)
        n = int(np.ceil(2 * half)) + 2
        patch = block(int(row), int(col))
        patch = _coverage(n, centre[1] - half - y0, module) @ patch @ _coverage(n, centre[0] - half - x0, module).T
        dark[y0 : y0 + n, x0 : x0 + n] = patch
    light, ink = np.array([226.0, 150.0, 190.0]), np.array([60.0, 20.0, 90.0])
    return (light + dark[..., None] * (ink - light) + 0.5).astype(np.uint8)


def _edges(profile: Array, threshold: float) -> tuple[float, float]:
    """Return where a 1-D profile first and last crosses a threshold, linear between samples."""
    above = np.flatnonzero(profile >= threshold)
    if not len(above) or above[0] == 0 or above[-1] == len(profile) - 1:
        raise ValueError("no whole barcode in the middle of the tile")
    first, last = above[0], above[-1]
    left = first - (profile[first] - threshold) / (profile[first] - profile[first - 1])
    right = last + (profile[last] - threshold) / (profile[last] - profile[last + 1])
    return float(left), float(right)


def _centre(dark: Array, axis: int, threshold: float) -> float:
    """Return the frame's middle along an axis, px from the array's first edge."""
    # The frame's two bars across this axis are the widest dark lines: take the median line through the block.
    left, right = _edges(np.quantile(dark, 0.9, axis=axis), threshold)
    return (left + right + 1) / 2


def decode_barcode(tile: Array, um_per_px: float) -> BarcodeReading:
    """Read the block in the middle of a tile.

    Parameters
    ----------
    tile
        uint8 (h, w, 3).
    um_per_px
        Micrometres per pixel of the tile.

    Returns
    -------
    BarcodeReading

    Raises
    ------
    ValueError
        If there is no block within 14 um of the centre, or it is mirrored, turned or damaged.
    """
    module = MODULE_UM / um_per_px
    reach = round((_SIDE / 2 + 3.6) * module)
    middle = np.array(tile.shape[:2]) / 2
    y0, x0 = np.maximum(np.rint(middle - reach).astype(int), 0)
    window = tile[y0 : y0 + 2 * reach, x0 : x0 + 2 * reach, 1].astype(np.float64)
    dark = (150.0 - window) / 130.0
    cx, cy = _centre(dark, 0, 0.5), _centre(dark, 1, 0.5)
    offsets = (np.arange(_CODE) - _CODE // 2) * module
    columns = np.floor(cx + offsets).astype(int)
    rows = np.floor(cy + offsets).astype(int)
    if min(rows.min(), columns.min()) < 0 or rows.max() >= dark.shape[0] or columns.max() >= dark.shape[1]:
        raise ValueError("no whole barcode in the middle of the tile")
    code = (dark[np.ix_(rows, columns)] > 0.5).astype(int)
    corners = (0, _CODE - 1, _CODE * (_CODE - 1), _CODE * _CODE - 1)
    payload = [int(b) for i, b in enumerate(code.ravel()) if i not in corners]
    row, col = (sum(b << i for i, b in enumerate(payload[k : k + 8])) for k in (0, 8))
    if not np.array_equal(code, _code(row, col)):
        raise ValueError("the barcode is mirrored, turned or damaged")
    return BarcodeReading(row, col, float(cx + x0 - middle[1]), float(cy + y0 - middle[0]))
