"""The barcode slide: the pixels under a spot say which spot it is, and where its centre lies below a pixel.

A block is 11 x 11 modules of 4 um: a dark frame one module wide, a light ring, and 7 x 7 modules of code. The
code's corners tell flips, the payload is array_row and array_col with their complements and a checksum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MODULE_UM = 4.0
SIDE, CODE_SIDE = 11, 7
_PAYLOAD = 45


def _bits(value: int, n: int) -> list[int]:
    return [(value >> i) & 1 for i in range(n)]


def code(row: int, col: int) -> Array:
    """Return the 7 x 7 code, 1 = dark."""
    data = _bits(row, 8) + _bits(col, 8)
    check = (row * 31 + col * 17 + 5) % 256
    payload = (data + [1 - b for b in data] + _bits(check, 8))[:_PAYLOAD]
    payload += [i % 2 for i in range(_PAYLOAD - len(payload))]
    flat = np.zeros(CODE_SIDE * CODE_SIDE, dtype=int)
    corners = (0, CODE_SIDE - 1, CODE_SIDE * (CODE_SIDE - 1), CODE_SIDE * CODE_SIDE - 1)
    flat[0] = 1
    flat[[i for i in range(flat.size) if i not in corners]] = payload
    return flat.reshape(CODE_SIDE, CODE_SIDE)


def block(row: int, col: int) -> Array:
    """Return the whole block (11, 11), 1 = dark."""
    made = np.ones((SIDE, SIDE), dtype=int)
    made[1:-1, 1:-1] = 0
    made[2:-2, 2:-2] = code(row, col)
    return made


def _coverage(n_pixels: int, start: float, module_px: float) -> Array:
    """Return how much of each pixel each module covers, (n_pixels, 11): exact, hence sub-pixel."""
    edges = start + np.arange(SIDE + 1) * module_px
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
    half = SIDE * module / 2
    for centre, row, col in zip(centres_px, x, y, strict=True):
        x0, y0 = np.floor(centre - half).astype(int)
        n = int(np.ceil(2 * half)) + 2
        patch = block(int(row), int(col))
        patch = _coverage(n, centre[1] - half - y0, module) @ patch @ _coverage(n, centre[0] - half - x0, module).T
        dark[y0 : y0 + n, x0 : x0 + n] = patch
    light, ink = np.array([226.0, 150.0, 190.0]), np.array([60.0, 20.0, 90.0])
    return (light + dark[..., None] * (ink - light) + 0.5).astype(np.uint8)
