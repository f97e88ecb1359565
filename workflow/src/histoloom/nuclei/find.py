"""Find nuclei in a picture.

A half-local threshold of haematoxylin; touching nuclei are parted by a watershed on the distance transform. All lengths
are in um, so that a count does not depend on the scan.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from histoloom.nuclei.stains import Image, deconvolve

MIN_CONTRAST, COUNT_CONTRAST = 0.10, 0.08
"""Least haematoxylin (x 4) above the surroundings for a px to be nuclear: in measures of nuclei, and to count them."""
LEAST_AREA_UM2 = 6.0
"""A piece below is debris; a lymphocyte's nucleus has about 30 um2, of which pale ones show a part."""
APART_UM = 1.5
"""Peaks of the distance transform that are nearer than this are one nucleus."""
# The three were chosen on tiles of NuCLS with marked nuclei (tests/bench/bench_nuclei.py), leaving each out in turn.
_FINEST = 0.45
"""Finer scans are reduced to about this um/px: detail below does not help to count."""
_SMOOTH_UM, _AROUND_UM = 0.7, 12.0
Points = npt.NDArray[np.float64]


def nuclear_mask(h: Image, um_per_px: float, contrast: float = MIN_CONTRAST) -> npt.NDArray[np.bool_]:
    """Return where haematoxylin stands out from its surroundings, bool (h, w)."""
    from scipy import ndimage

    fine = ndimage.gaussian_filter(h, _SMOOTH_UM / um_per_px, truncate=2.5) if um_per_px < 1.5 else h
    size = max(3, int(_AROUND_UM / um_per_px) * 2 + 1)
    around = ndimage.uniform_filter(fine, size, mode="reflect")
    level = float(fine.mean())
    # In a dense nest the surroundings are nuclei too: half local, half the tile's own mean.
    mask: npt.NDArray[np.bool_] = fine > 0.5 * (around + level) + contrast
    return mask


def find_nuclei(tile: npt.NDArray[np.uint8], um_per_px: float) -> Points:
    """Return centres (x, y) and areas of the nuclei of a picture.

    `tile`: (h, w, 3) uint8. Returns (n, 3): x, y in px of the picture, area in um2.
    """
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.morphology import remove_small_objects
    from skimage.segmentation import watershed

    haematoxylin = deconvolve(tile)[0]
    least = max(2, round(LEAST_AREA_UM2 / um_per_px**2))
    mask = remove_small_objects(nuclear_mask(haematoxylin, um_per_px, COUNT_CONTRAST), max_size=least - 1)
    if not mask.any():
        return np.zeros((0, 3))
    mask = ndimage.binary_fill_holes(mask)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 0.6 / um_per_px)
    pieces, _ = ndimage.label(mask)
    peaks = peak_local_max(
        distance, min_distance=max(1, round(APART_UM / um_per_px)), labels=pieces, exclude_border=False
    )
    marks = np.zeros(mask.shape, dtype=np.int32)
    marks[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    parted = watershed(-distance, marks, mask=mask)
    areas = np.bincount(parted.ravel(), minlength=len(peaks) + 1)[1:]
    centres = np.asarray(ndimage.center_of_mass(mask, parted, np.arange(1, len(peaks) + 1))).reshape(-1, 2)
    kept = areas >= least
    return np.column_stack([centres[kept][:, ::-1] + 0.5, areas[kept] * um_per_px**2])


def reduced(tile: npt.NDArray[np.uint8], mpp: float) -> tuple[npt.NDArray[np.uint8], float]:
    """Return a picture of about `_FINEST` um/px or coarser, and how many level-0 px one of its px is."""
    from PIL import Image

    factor = int(_FINEST / mpp + 0.35)
    if factor < 2:
        return tile, 1.0
    return np.asarray(Image.fromarray(np.ascontiguousarray(tile)).reduce(factor)), float(factor)
