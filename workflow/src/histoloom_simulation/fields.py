"""Smooth random fields that can be evaluated at any point, so that tissue does not depend on pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class RandomField:
    """A stationary Gaussian random field by random Fourier features.

    ``f(p) = sqrt(2/K) * sum_k cos(w_k . p + b_k)`` with ``w ~ N(0, 1/l^2)`` has covariance ``exp(-d^2 / 2 l^2)``
    (Rahimi and Recht 2007, NIPS 20).

    Parameters
    ----------
    rng
        Source of randomness.
    scale_um
        Length scale l, um.
    terms
        Number of cosines K.
    """

    def __init__(self, rng: np.random.Generator, scale_um: float, terms: int = 32) -> None:
        self._waves = (rng.standard_normal((2, terms)) / scale_um).astype(np.float32)
        self._phases = (rng.random(terms) * 2 * np.pi).astype(np.float32)

    def __call__(self, points: Array) -> Array:
        """Evaluate at points (..., 2) in um; mean 0, variance about 1, float32."""
        total = np.zeros(points.shape[:-1], dtype=np.float32)
        u, v = points[..., 0].astype(np.float32), points[..., 1].astype(np.float32)
        for wave_u, wave_v, phase in zip(*self._waves, self._phases, strict=True):
            total += np.cos(u * wave_u + v * wave_v + phase)
        return total * np.float32(np.sqrt(2 / len(self._phases)))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: tuple[float, float]) -> Array:
    """Return periodic Gaussian noise (h, w), mean 0 and standard deviation 1, smoothed by sigma (px) per axis."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def orthogonal_residual(values: Array, others: Array) -> Array:
    """Return values (n,) without their least-squares part in others (m, n) and a constant, scaled to unit variance."""
    design = np.vstack([np.ones(values.size), *others]).T.astype(np.float64)
    coefficients, *_ = np.linalg.lstsq(design, values.astype(np.float64), rcond=None)
    rest = values - design @ coefficients
    return (rest / max(float(rest.std()), 1e-9)).astype(np.float32)
