"""Where a tile lies: squares, borders. Coordinates are continuous, px i of a slide spans [i, i + 1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


def needs_scaling(size_level0_px: float, size_px: int) -> bool:
    """Tell whether a tile must be resampled, i.e. its square is not `size_px` level-0 px to a thousandth."""
    return abs(size_level0_px - size_px) >= 1e-3


def corner(centre: Float, size_px: int) -> npt.NDArray[np.int64]:
    """Return the integer corner of unscaled tiles: the square's middle is within 0.5 px of the centre.

    Halves round up, so that a tile moves with its centre and not with the parity of the corner.
    """
    return np.floor(np.asarray(centre, np.float64) - size_px / 2 + 0.5).astype(np.int64)


def leaves(centres: Float, size_level0_px: float, size_px: int, width: int, height: int) -> Bool:
    """Tell for each square whether it leaves the slide by half a px or more.

    Half a px is what rounding an unscaled tile to whole px may cost; a scaled one is treated alike. `centres`: (n, 2),
    x and y, level-0 px; `size_level0_px`, `size_px`: side of the square in level-0 px, and of the tile; `width`,
    `height`: size of the slide, px.
    """
    low = np.asarray(centres, np.float64) - size_level0_px / 2
    if not needs_scaling(size_level0_px, size_px):
        first = corner(centres, size_px)
        beyond: Bool = (first < 0) | (first + size_px > np.array([width, height]))
    else:
        beyond = (low < -0.5) | (low + size_level0_px > np.array([width, height]) + 0.5)
    either: Bool = beyond[:, 0] | beyond[:, 1]
    return either


def outside(centres: Float, width: int, height: int) -> Bool:
    """Tell for each centre whether it is no point of the slide (NaN included)."""
    x, y = np.asarray(centres, np.float64).T
    return ~((x >= 0) & (x <= width) & (y >= 0) & (y <= height))
