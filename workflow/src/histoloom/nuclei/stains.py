"""Stains by colour deconvolution.

Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23 (2001) 291, with scikit-image's HED matrix.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]

STAIN_SCALE = 4.0
"""Stain concentrations are multiplied by this for features of order 1; skimage's are of order 0.1."""

STAIN_TOP = 2.5
"""Largest stain concentration that is distinguished."""
_EPSILON = 1e-6


@cache
def log_table() -> Image:
    """Return log(max(v / 255, 1e-6)) / log(1e-6) for every uint8 v, as skimage's `separate_stains` has it."""
    values = np.maximum(np.arange(256) / 255.0, _EPSILON)
    return (np.log(values) / np.log(_EPSILON)).astype(np.float32)


def deconvolve(tile: npt.NDArray[np.uint8]) -> tuple[Image, Image, Image]:
    """Return haematoxylin, eosin and residual (DAB), each float32 (h, w): `skimage.color.rgb2hed` x 4, cut at 2.5.

    Cut, because a black px (ink, dust) has an optical density that would rule every moment of the tile. Written out per
    channel with a table of 256 logarithms, which is ten times as fast; a matrix product would make the last digits
    depend on BLAS.
    """
    from skimage.color import hed_from_rgb

    density = [log_table()[tile[..., c]] for c in range(3)]
    matrix = (hed_from_rgb * STAIN_SCALE).astype(np.float32)
    h, e, d = (
        np.clip(density[0] * matrix[0, s] + density[1] * matrix[1, s] + density[2] * matrix[2, s], 0, STAIN_TOP)
        for s in range(3)
    )
    return h, e, d
