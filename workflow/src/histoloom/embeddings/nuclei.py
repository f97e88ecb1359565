"""Counted nuclei of a tile: density, size, shape, chromatin; all lengths in um.

A dark-on-light segmentation by a local threshold of the haematoxylin channel, good for counting, not for outlines.
Measures come from sums per label (`numpy.bincount`): region properties one by one take 20 to 40 ms a tile.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from histoloom.nuclei.find import nuclear_mask

Image = npt.NDArray[np.float32]
Float = npt.NDArray[np.float64]
Features = dict[str, float]

AREA_CLASSES_UM2 = (8.0, 22.0, 40.0, 65.0, 110.0, 250.0)
"""Bounds of the size classes; smaller is debris, larger a clump that counts by its area."""

_ELONGATED = 1.8
_TYPICAL_UM2 = 45.0
_BLOB_SIGMAS_UM = (1.5, 2.4, 3.84)
_BLOB_RATIO = 1.6
_BLOB_CONTRAST = 0.03


def measure(mask: npt.NDArray[np.bool_], h: Image, um_per_px: float) -> dict[str, Float]:
    """Measure the connected pieces of a mask (rows, columns) with haematoxylin `h` of the same shape.

    Returns one array each, in order of labels: ``area`` (um2), ``x``, ``y`` (um from the tile's corner), ``elongation``
    (ratio of the axes of the ellipse with the same moments), ``stain`` (mean haematoxylin), ``chromatin`` (its SD).
    """
    from scipy import ndimage

    labels, n = ndimage.label(mask)
    rows, columns = np.nonzero(mask)
    index, stain = labels[rows, columns], h[rows, columns].astype(np.float64)

    def total(weights: npt.NDArray[Any] | None = None) -> Float:
        return np.bincount(index, weights, n + 1)[1:].astype(np.float64)

    px = total()
    x, y = total(columns) / px, total(rows) / px
    xx = total(columns.astype(np.float64) ** 2) / px - x * x + 1 / 12
    yy = total(rows.astype(np.float64) ** 2) / px - y * y + 1 / 12
    xy = total(columns * rows.astype(np.float64)) / px - x * y
    half, spread = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy * xy)
    mean = total(stain) / px
    return {
        "area": px * um_per_px**2,
        "x": (x + 0.5) * um_per_px,
        "y": (y + 0.5) * um_per_px,
        "elongation": np.sqrt((half + spread) / np.maximum(half - spread, 1 / 12)),
        "stain": mean,
        "chromatin": np.sqrt(np.maximum(total(stain * stain) / px - mean * mean, 0)),
    }


def nuclear_features(h: Image, e: Image, um_per_px: float, disc_um: float) -> Features:
    """Return counts per mm2 by class and averages over nuclei; the central disc (the spot) is counted apart."""
    mask = nuclear_mask(h, um_per_px)
    pieces = measure(mask, h, um_per_px)
    real = pieces["area"] >= AREA_CLASSES_UM2[0]
    pieces = {key: value[real] for key, value in pieces.items()}
    mm2 = mask.size * um_per_px**2 / 1e6
    around = ~mask
    return {
        "nuclear_share": float(mask.mean()),
        **_classes(pieces, mm2),
        **_averages(pieces),
        **_disc(pieces, mask.shape, um_per_px, disc_um),
        **_spacing(pieces),
        **_blobs(h, um_per_px, mm2),
        "e_around": float(e[around].mean()) if around.any() else 0.0,
        "e_in_nuclei": float(e[mask].mean()) if mask.any() else 0.0,
    }


def _classes(pieces: dict[str, Float], mm2: float) -> Features:
    """Return densities per size class, round and elongated; order of 1 at 1,000 per mm2."""
    size = np.digitize(pieces["area"], AREA_CLASSES_UM2[1:])
    long = pieces["elongation"] > _ELONGATED
    features: Features = {"nuclei": len(size) / mm2 / 1e3}
    for i, low in enumerate(AREA_CLASSES_UM2):
        features[f"nuclei_{low:g}um2_round"] = float(((size == i) & ~long).sum() / mm2 / 1e3)
        features[f"nuclei_{low:g}um2_long"] = float(((size == i) & long).sum() / mm2 / 1e3)
    # Touching nuclei make one piece: its area says how many.
    features["nuclei_by_area"] = float(np.maximum(pieces["area"] / _TYPICAL_UM2, 1.0).sum() / mm2 / 1e3)
    return features


def _averages(pieces: dict[str, Float]) -> Features:
    features: Features = {}
    for key, unit in (("area", 100.0), ("elongation", 1.0), ("stain", 1.0), ("chromatin", 1.0)):
        values = pieces[key] / unit if len(pieces[key]) else np.zeros(1)
        features[f"nucleus_{key}_mean"] = float(values.mean())
        features[f"nucleus_{key}_sd"] = float(values.std())
        features[f"nucleus_{key}_median"] = float(np.median(values))
    return features


def _disc(pieces: dict[str, Float], shape: tuple[int, ...], um_per_px: float, disc_um: float) -> Features:
    cx, cy = shape[1] * um_per_px / 2, shape[0] * um_per_px / 2
    inside = (pieces["x"] - cx) ** 2 + (pieces["y"] - cy) ** 2 <= (disc_um / 2) ** 2
    area = pieces["area"][inside]
    return {
        "disc_nuclei": float(inside.sum()) / 10,
        "disc_nuclei_by_area": float(np.maximum(area / _TYPICAL_UM2, 1.0).sum()) / 10,
        "disc_nuclei_small": float((area < AREA_CLASSES_UM2[2]).sum()) / 10,
        "disc_nuclei_large": float((area >= AREA_CLASSES_UM2[3]).sum()) / 10,
    }


def _spacing(pieces: dict[str, Float]) -> Features:
    """Return the distance to the nearest nucleus: mean and relative spread, in units of 10 um."""
    from scipy.spatial import cKDTree

    points = np.column_stack([pieces["x"], pieces["y"]])
    if len(points) < 3:
        return {"spacing": 5.0, "spacing_cv": 0.0}
    near = cKDTree(points).query(points, k=2)[0][:, 1]
    return {"spacing": min(float(near.mean()) / 10, 5.0), "spacing_cv": float(near.std() / near.mean())}


def _blobs(h: Image, um_per_px: float, mm2: float) -> Features:
    """Return densities of peaks of the scale-normalised Laplacian: counts that touching nuclei do not fool."""
    from scipy import ndimage

    features: Features = {}
    image, done = h, 0.0
    for sigma_um in (*_BLOB_SIGMAS_UM, _BLOB_SIGMAS_UM[-1] * _BLOB_RATIO):
        # Blurs add in variance: each level starts from the one before.
        step = np.sqrt(sigma_um**2 - done**2) / um_per_px
        level = ndimage.gaussian_filter(image, step, truncate=3.0)
        if done > 0:
            # Difference of Gaussians with ratio 1.6 stands in for the Laplacian (Marr and Hildreth 1980).
            response = image - level
            peak = _single((response == ndimage.maximum_filter(response, 3)) & (response > _BLOB_CONTRAST))
            features[f"blobs_{done:g}um"] = float(peak.sum() / mm2 / 1e3)
            features[f"blobs_{done:g}um_contrast"] = float(response[peak].mean()) if peak.any() else 0.0
        coarse = power_of_two(min(sigma_um / um_per_px / 1.5, min(level.shape) / 8))
        image, um_per_px, done = block_mean(level, coarse), um_per_px * coarse, sigma_um
    return features


def _single(peak: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Keep one px of a peak that several adjoining px share."""
    kept = peak.copy()
    kept[:, 1:] &= ~peak[:, :-1]
    kept[1:] &= ~peak[:-1]
    kept[1:, 1:] &= ~peak[:-1, :-1]
    kept[1:, :-1] &= ~peak[:-1, 1:]
    return kept


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
