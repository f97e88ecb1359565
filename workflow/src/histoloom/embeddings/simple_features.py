"""Baselines below texture: the colour of a tile and nothing else, the number of its nuclei and nothing else.

What a model of whole morphology gains over these is what it saw of morphology.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from histoloom.embeddings.tile_features import Features, TileFeatures
from histoloom.nuclei.find import find_nuclei, reduced
from histoloom.nuclei.stains import deconvolve


class ColourOnly(TileFeatures):
    """Mean and SD of R, G, B, of their spread and of haematoxylin, eosin and residual: blind to any arrangement."""

    def tile_features(self, tile: npt.NDArray[np.uint8], um_per_px: float) -> Features:
        """Return the 14 features of one tile by name."""
        features = colour_moments(tile)
        for name, stain in zip("hed", deconvolve(tile), strict=True):
            mean = float(stain.mean(dtype=np.float64))
            features.update(
                {f"{name}_mean": mean, f"{name}_sd": float((stain - np.float32(mean)).std(dtype=np.float64))}
            )
        return features


class NuclearDensity(TileFeatures):
    """Nuclei per area in the whole tile, and in a central disc (``disc_um`` of the card's ``args``): the spot."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"disc_um": 100.0}

    def tile_features(self, tile: npt.NDArray[np.uint8], um_per_px: float) -> Features:
        """Return densities in 1,000 per mm2; of a tile smaller than the disc, what of it lies inside."""
        picture, factor = reduced(tile, um_per_px)
        scale = um_per_px * factor
        height, width = picture.shape[0] * scale, picture.shape[1] * scale
        centres = find_nuclei(picture, scale)[:, :2] * scale
        radius = min(float(self.args["disc_um"]), height, width) / 2
        inside = np.hypot(centres[:, 0] - width / 2, centres[:, 1] - height / 2) <= radius
        return {
            "nuclei": len(centres) / (height * width) * 1e3,
            "disc_nuclei": float(inside.sum()) / (np.pi * radius**2) * 1e3,
        }


def colour_moments(tile: npt.NDArray[np.uint8]) -> Features:
    """Return mean and standard deviation of R, G, B and of the spread max - min, 0-1."""
    features: Features = {}
    for c, name in enumerate("rgb"):
        counts = np.bincount(tile[..., c].ravel(), minlength=256)
        features.update(_of_histogram(name, counts))
    spread = np.maximum(np.maximum(tile[..., 0], tile[..., 1]), tile[..., 2]) - np.minimum(
        np.minimum(tile[..., 0], tile[..., 1]), tile[..., 2]
    )
    features.update(_of_histogram("spread", np.bincount(spread.ravel(), minlength=256)))
    return features


def _of_histogram(name: str, counts: npt.NDArray[np.int64]) -> Features:
    values, total = np.arange(256) / 255, counts.sum()
    mean = float((counts * values).sum() / total)
    return {f"{name}_mean": mean, f"{name}_sd": float(np.sqrt((counts * (values - mean) ** 2).sum() / total))}
