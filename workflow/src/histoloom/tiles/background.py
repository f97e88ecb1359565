"""Tissue or glass: a mask of the slide at a few um per px and the share of tissue in any square."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from histoloom.slides import Slide
from histoloom.tiles.spec import Background

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_MASK_PX = (512, 8192)
"""Longer side of the mask, px: enough for a small picture, not more than 100 MB for a large slide."""


def tissue_px(rgb: npt.NDArray[np.uint8], rules: Background) -> Bool:
    """Tell for each px whether it is tissue.

    `rgb`: uint8, (h, w, 3). `rules`: method and thresholds; method ``"none"`` measures as ``"optical_density"``.
    Returns bool, (h, w).
    """
    brightest, darkest = rgb.max(axis=2), rgb.min(axis=2)
    # JPEG noise gives black px any saturation and a high density: they are ruled out whatever the method.
    tissue = brightest >= rules.black_below
    if rules.method == "rgb":
        return tissue & (darkest <= rules.rgb_above)
    if rules.method == "saturation":
        # HSV saturation = (max - min) / max, without a division.
        spread = (brightest - darkest).astype(np.float32)
        return tissue & (spread >= np.float32(rules.min_saturation) * brightest) & (spread > 0)
    density = (-np.log10(np.maximum(np.arange(256), 1) / 255)).astype(np.float32)
    return tissue & (density[rgb].mean(axis=2) >= rules.min_optical_density)


def tissue_fraction(
    slide: Slide, centres: Float, size_level0_px: float, mpp: float, rules: Background
) -> npt.NDArray[np.float32]:
    """Return the share of tissue in each square.

    `centres`: (n, 2), x and y of the centres, level-0 px; a centre that is not finite gives 0. `size_level0_px`: side
    of the square, level-0 px. `mpp`: um per level-0 px. Returns float32, (n,), 0 to 1. What lies outside the slide
    counts as glass.
    """
    mask = tissue_px(overview(slide, mpp, rules.mask_um_per_px), rules)
    return share_in_squares(mask, slide, centres, size_level0_px)


def overview(slide: Slide, mpp: float, um_per_px: float) -> npt.NDArray[np.uint8]:
    """Return a small picture of a slide, uint8 (h, w, 3), of about `um_per_px`."""
    target = math.ceil(max(slide.width, slide.height) * mpp / um_per_px)
    return slide.thumbnail(min(max(target, _MASK_PX[0]), _MASK_PX[1]))


def share_in_squares(mask: Bool, slide: Slide, centres: Float, size_level0_px: float) -> npt.NDArray[np.float32]:
    """Return the share of a mask of the whole slide in each square, as `tissue_fraction` describes them."""
    integral = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    np.cumsum(np.cumsum(mask, axis=0), axis=1, out=integral[1:, 1:])
    scale = np.array([mask.shape[1] / slide.width, mask.shape[0] / slide.height])
    finite: Bool = np.isfinite(centres[:, 0]) & np.isfinite(centres[:, 1])
    points = np.where(finite[:, None], centres, 0.0)
    low, high = (points - size_level0_px / 2) * scale, (points + size_level0_px / 2) * scale
    area = np.prod(size_level0_px * scale)
    inside = (
        _area_below(integral, high[:, 0], high[:, 1])
        - _area_below(integral, low[:, 0], high[:, 1])
        - _area_below(integral, high[:, 0], low[:, 1])
        + _area_below(integral, low[:, 0], low[:, 1])
    )
    share = np.clip(inside / area, 0.0, 1.0)
    # Sums of ones are exact; the division's last digit is not: a full square shall be 1.
    return np.where(finite, np.round(share, 6), 0.0).astype(np.float32)


def _area_below(integral: Float, x: Float, y: Float) -> Float:
    """Return the mask left of x and above y; between whole px the integral image is bilinear, hence exact."""
    return np.asarray(map_coordinates(integral, [y, x], order=1, mode="nearest"))
