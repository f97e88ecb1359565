"""Reading the barcode slide of `histoloom_simulation.barcode`: which spot a tile shows, and where its centre lies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from histoloom_simulation.barcode import CODE_SIDE, MODULE_UM, SIDE, Array, code


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
    reach = round((SIDE / 2 + 3.6) * module)
    middle = np.array(tile.shape[:2]) / 2
    y0, x0 = np.maximum(np.rint(middle - reach).astype(int), 0)
    window = tile[y0 : y0 + 2 * reach, x0 : x0 + 2 * reach, 1].astype(np.float64)
    dark = (150.0 - window) / 130.0
    cx, cy = _centre(dark, 0, 0.5), _centre(dark, 1, 0.5)
    offsets = (np.arange(CODE_SIDE) - CODE_SIDE // 2) * module
    columns = np.floor(cx + offsets).astype(int)
    rows = np.floor(cy + offsets).astype(int)
    if min(rows.min(), columns.min()) < 0 or rows.max() >= dark.shape[0] or columns.max() >= dark.shape[1]:
        raise ValueError("no whole barcode in the middle of the tile")
    read = (dark[np.ix_(rows, columns)] > 0.5).astype(int)
    corners = (0, CODE_SIDE - 1, CODE_SIDE * (CODE_SIDE - 1), CODE_SIDE * CODE_SIDE - 1)
    payload = [int(b) for i, b in enumerate(read.ravel()) if i not in corners]
    row, col = (sum(b << i for i, b in enumerate(payload[k : k + 8])) for k in (0, 8))
    if not np.array_equal(read, code(row, col)):
        raise ValueError("the barcode is mirrored, turned or damaged")
    return BarcodeReading(row, col, float(cx + x0 - middle[1]), float(cy + y0 - middle[0]))
