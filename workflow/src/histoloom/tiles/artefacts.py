"""Pen and blur: parts of a slide that one cannot learn from.

Classical rules, as HistoQC has them (Janowczyk 2019, doi:10.1200/CCI.18.00157). Both stains of an H&E absorb green most
and blue little, ink does not. A blurred tile has less fine detail than the section's other tiles. Folds are not looked
for: a rule on density (Kothari 2013, doi:10.4103/2153-3539.117448) calls dense tumour a fold or misses nearly
all of them. A region of interest leaves them out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from histoloom.slides import Slide
from histoloom.tiles.background import overview, share_in_squares
from histoloom.tiles.reading import read_tiles
from histoloom.tiles.spec import Background

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

KINDS = ("pen", "blur")
_DENSITY = (-np.log10(np.maximum(np.arange(256), 1) / 255)).astype(np.float32)
_FAINT, _BLACK, _EVEN, _RED, _SHIFT = 0.15, 0.6, 0.25, 0.65, 0.03
_STROKE_UM, _SPECK_UM2 = 40.0, 20_000.0
_BLUR_UM_PER_PX, _BLUR_RATIO, _LEAST_TISSUE = 1.0, 0.3, 0.5


def pen_px(rgb: npt.NDArray[np.uint8], um_per_px: float) -> Bool:
    """Tell for each px, (h, w), whether it is ink: `rgb`, uint8 (h, w, 3)."""
    red, green, blue = np.moveaxis(_DENSITY[rgb], 2, 0)
    low, high = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    cold = red > 1.05 * green + _SHIFT  # blue, green: absorb red more than green
    yellow = blue > 1.1 * green + _SHIFT
    warm = (blue > _RED * green) & (red < 0.35 * green)
    black = (low > _BLACK) & (high - low < _EVEN * high)
    ink = ((cold | yellow | warm) & (high > 2 * _FAINT)) | black
    return _without_specks(ndimage.binary_opening(ink, _disc(_STROKE_UM / 2 / um_per_px)), um_per_px)


def blurred(slide: Slide, centres: npt.NDArray[np.float64], size_level0_px: float, mpp: float) -> Bool:
    """Tell for each tile, (n,), whether it is out of focus; `centres`: (n, 2) tiles on tissue, level-0 px.

    Compared are the mean absolute Laplacian over the standard deviation of the grey tile at 1 um per px: below 0.3 of
    the section's median is blurred. A section that is blurred everywhere is not found.
    """
    size = max(16, round(size_level0_px * mpp / _BLUR_UM_PER_PX))
    detail = []
    for tile in read_tiles(slide, centres, size_level0_px, size, exact=False):
        grey = tile.mean(axis=2)
        detail.append(np.abs(ndimage.laplace(grey)).mean() / max(float(grey.std()), 1.0))
    return np.asarray(detail) < _BLUR_RATIO * np.median(detail) if detail else np.zeros(0, bool)


def _without_specks(mask: Bool, um_per_px: float) -> Bool:
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray(sizes[labels] >= _SPECK_UM2 / um_per_px**2)


def _disc(radius: float) -> Bool:
    reach = max(1, round(radius))
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(x * x + y * y <= reach * reach)


def shares(
    slide: Slide, centres: Float, size_level0_px: float, mpp: float, rules: Background, tissue: Float32
) -> dict[str, Float32]:
    """Return by kind (`rules.artefacts`) the share of each tile that is ink, or whether it is blurred (0 or 1).

    `centres`, `size_level0_px`, `mpp`: as `histoloom.tiles.background.tissue_fraction` has them; `tissue`: its result.
    """
    of_kind: dict[str, Float32] = {}
    if "pen" in rules.artefacts:
        picture = overview(slide, mpp, rules.mask_um_per_px)
        ink = pen_px(picture, mpp * max(slide.width, slide.height) / max(picture.shape))
        of_kind["pen"] = share_in_squares(ink, slide, centres, size_level0_px)
    if "blur" in rules.artefacts:
        rows = np.flatnonzero(tissue >= max(rules.min_tissue, _LEAST_TISSUE))
        of_kind["blur"] = np.zeros(len(centres), np.float32)
        of_kind["blur"][rows] = blurred(slide, centres[rows], size_level0_px, mpp)
    return of_kind
