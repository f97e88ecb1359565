"""The encoder that needs no weights: stains, texture at scales in um, counted nuclei."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from histoloom.embeddings.nuclei import block_mean, nuclear_features, power_of_two
from histoloom.embeddings.simple_features import Features, Image, TileFeatures, colour_moments
from histoloom.nuclei.stains import STAIN_SCALE, STAIN_TOP, deconvolve, log_table

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_BINS = 1024
_GLASS_OD, _GLASS_SIGMA_UM = 0.06, 2.0
_PYRAMID_SIGMA_PX = 2.0
_LEAST_PX = 8


def quantiles(values: Image, top: float, points: tuple[int, ...] = PERCENTILES) -> list[float]:
    """Return percentiles of values in [0, top] from a histogram of 1024 bins, exact to top / 1024."""
    counts = np.bincount(
        np.minimum(values.ravel() * np.float32(_BINS / top), _BINS - 1).astype(np.int32), minlength=_BINS
    )
    below = np.cumsum(counts)
    ranks = np.array(points) / 100 * below[-1]
    return [float((np.searchsorted(below, rank) + 0.5) * top / _BINS) for rank in ranks]


def smooth(image: Image, sigma_px: float) -> tuple[Image, int]:
    """Return a Gaussian blur and the factor it was reduced by: wide kernels go over block means, within 1 %."""
    from scipy import ndimage

    # Powers of two: common tile sizes lose no px at their far edges. A small tile is not reduced below 8 px.
    factor = power_of_two(min(sigma_px / _PYRAMID_SIGMA_PX, min(image.shape) / _LEAST_PX))
    small = block_mean(image, factor)
    # A block mean has the variance (factor^2 - 1) / 12 already.
    left = np.sqrt(max(sigma_px**2 - (factor**2 - 1) / 12, 0.0)) / factor
    return ndimage.gaussian_filter(small, left, mode="reflect", truncate=3.0), factor


class StainTexture(TileFeatures):
    """Stain, texture at Gaussian sigmas ``scales_um``, nuclei (``disc_um``: diameter of the central disc) and glass."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"scales_um": [1.0, 2.0, 4.0, 8.0, 16.0], "disc_um": 100.0}

    def tile_features(self, tile: npt.NDArray[np.uint8], um_per_px: float) -> Features:
        h, e, d = deconvolve(tile)
        features: Features = {}
        features.update(colour_moments(tile))
        for name, stain in (("h", h), ("e", e), ("d", d)):
            features[f"{name}_mean"] = mean = float(stain.mean())
            features[f"{name}_sd"], features[f"{name}_skew"] = _sd_and_skew(stain, mean)
            features.update(zip((f"{name}_p{p:02d}" for p in PERCENTILES), quantiles(stain, STAIN_TOP), strict=True))
        features["h_share"] = features["h_mean"] / (features["h_mean"] + features["e_mean"] + 1e-3)
        features["he_corr"] = _correlation(h, e)
        features.update(self._texture("h", h, um_per_px))
        # Green is absorbed by both stains and never cut to zero, as eosin is on a blue slide.
        features.update(self._texture("green", log_table()[tile[..., 1]] * np.float32(STAIN_SCALE), um_per_px))
        features.update(_glass(tile, um_per_px))
        features.update(nuclear_features(h, e, um_per_px, float(self.args["disc_um"])))
        return features

    def _texture(self, name: str, image: Image, um_per_px: float) -> Features:
        """Return band energies, gradients and orientation of one stain at each scale."""
        features: Features = {}
        base, done = image, 1
        previous, sigma_before = image, 0.0
        for scale in map(float, self.args["scales_um"]):
            sigma = scale / um_per_px / done
            # Blurs add in variance: start from the last level, already blurred and reduced.
            step = np.sqrt(max(sigma**2 - (sigma_before / done) ** 2, 0.0))
            level, factor = smooth(base, step)
            band = block_mean(previous, factor) - level
            key = f"{name}_{scale:g}um"
            features[f"{key}_band_sd"], features[f"{key}_band_skew"] = _sd_and_skew(band, float(band.mean()))
            features.update(_gradients(key, level, sigma / factor))
            base, previous, done, sigma_before = level, level, done * factor, scale / um_per_px
        return features


def _sd_and_skew(image: Image, mean: float) -> tuple[float, float]:
    """Return standard deviation and skewness; the latter is 0 for an image without contrast."""
    centred = image - np.float32(mean)
    square = centred * centred
    variance = float(square.mean())
    square *= centred
    return float(np.sqrt(variance)), float(square.mean()) / variance**1.5 if variance > 1e-8 else 0.0


def _correlation(one: Image, other: Image) -> float:
    a, b = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((a * a).mean() * (b * b).mean()))
    return float((a * b).mean()) / norm if norm > 1e-8 else 0.0


def _gradients(key: str, level: Image, sigma_px: float) -> Features:
    """Return mean gradient (per sigma) and coherence of its orientation: 1 for parallel fibres, 0 for none."""
    dx = (level[1:-1, 2:] - level[1:-1, :-2]) * np.float32(sigma_px / 2)
    dy = (level[2:, 1:-1] - level[:-2, 1:-1]) * np.float32(sigma_px / 2)
    xx, yy, xy = float((dx * dx).mean()), float((dy * dy).mean()), float((dx * dy).mean())
    energy = xx + yy
    coherence = float(np.hypot(xx - yy, 2 * xy)) / energy if energy > 1e-10 else 0.0
    return {f"{key}_gradient": float(np.sqrt(energy)), f"{key}_coherence": coherence}


def _glass(tile: npt.NDArray[np.uint8], um_per_px: float) -> Features:
    """Return the share of unstained area, in how large pieces it comes (fat, lumen, cracks)."""
    from scipy import ndimage

    # The green channel is the one that both stains absorb. 10^-0.06 = 0.87.
    factor = max(1, round(_GLASS_SIGMA_UM / um_per_px))
    green = block_mean(tile[..., 1].astype(np.float32), factor)
    empty = green > 255 * 10**-_GLASS_OD
    labels, n = ndimage.label(empty)
    share = float(empty.mean())
    if n == 0:
        return {"glass": share, "glass_largest": 0.0, "glass_pieces_per_mm2": 0.0, "glass_effective_um": 0.0}
    area = np.bincount(labels.ravel())[1:] * (factor * um_per_px) ** 2
    field = empty.size * (factor * um_per_px) ** 2
    large = area > 50.0
    return {
        "glass": share,
        "glass_largest": float(area.max() / field),
        "glass_pieces_per_mm2": float(large.sum() / field * 1e6),
        # Diameter of the piece that a random unstained point lies in.
        "glass_effective_um": float(2 * np.sqrt((area * area).sum() / area.sum() / np.pi)),
    }
