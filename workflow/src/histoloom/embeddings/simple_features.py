"""Encoders that compute named features of a tile without weights, and two that know no texture: colours and nuclei.

Features are functions of one tile alone. Lengths are in um, so that a nucleus measures the same at 0.27 and 0.92 um/px,
as far as the pixels resolve it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from histoloom.embeddings.cards import EncoderSpec, PixelEncoder, Scales
from histoloom.nuclei.find import find_nuclei, reduced
from histoloom.nuclei.stains import deconvolve

Image = npt.NDArray[np.float32]
Features = dict[str, float]

_PARTS, _TILES_PER_PART = 2, 8
_WATCH_S = 2.0


class TileFeatures(PixelEncoder):
    """An encoder whose features have names; the card's ``args`` go over `DEFAULTS`, `threads` are processes."""

    DEFAULTS: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, card: Mapping[str, Any], *, threads: int = 1) -> None:
        self.args = {**self.DEFAULTS, **(card.get("args") or {})}
        self.threads = max(1, threads)
        self.batch_size = _TILES_PER_PART * _PARTS * self.threads
        self._pool = _worker_pool(self.threads)
        self.feature_names = list(self.tile_features(np.full((64, 64, 3), 240, np.uint8), 1.0))

    @classmethod
    def from_spec(cls, spec: EncoderSpec, *, threads: int, device: str) -> Self:
        """Build from an encoder entry; `device` is taken and not used, it computes on the CPU."""
        return cls(spec.card, threads=threads)

    @abstractmethod
    def tile_features(self, tile: npt.NDArray[np.uint8], um_per_px: float) -> Features:
        """Return the features of one tile, uint8 (h, w, 3), by name."""

    @property
    def dim(self) -> int:
        return len(self.feature_names or ())

    def encode(self, tiles: npt.NDArray[np.uint8], um_per_px: Scales) -> Image:
        if len(tiles) == 0:
            return np.zeros((0, self.dim), np.float32)
        scales = np.broadcast_to(np.asarray(um_per_px, np.float64), len(tiles))
        if self._pool is None or len(tiles) < 2:
            return self._rows(tiles, scales)
        n = min(self.threads * _PARTS, len(tiles))
        return np.concatenate(list(self._pool.map(self._rows, np.array_split(tiles, n), np.array_split(scales, n))))

    def submit(self, tiles: npt.NDArray[np.uint8], um_per_px: Scales) -> Callable[[], Image]:
        features = self.encode(tiles, um_per_px)
        return lambda: features

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _rows(self, tiles: npt.NDArray[np.uint8], scales: npt.NDArray[np.float64]) -> Image:
        features = (self.tile_features(tile, float(scale)) for tile, scale in zip(tiles, scales, strict=True))
        return np.stack([np.fromiter(of_tile.values(), np.float32) for of_tile in features])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}


class ColourOnly(TileFeatures):
    """Mean and SD of R, G, B, of their spread and of haematoxylin, eosin and residual: blind to any arrangement."""

    def tile_features(self, tile: npt.NDArray[np.uint8], um_per_px: float) -> Features:
        features = colour_moments(tile)
        for name, stain in zip("hed", deconvolve(tile), strict=True):
            mean = float(stain.mean(dtype=np.float64))
            sd = float((stain - np.float32(mean)).std(dtype=np.float64))
            features |= {f"{name}_mean": mean, f"{name}_sd": sd}
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
    r, g, b = np.moveaxis(tile, -1, 0)
    spread = np.maximum(np.maximum(r, g), b) - np.minimum(np.minimum(r, g), b)
    features, values = Features(), np.arange(256) / 255
    for name, channel in zip(("r", "g", "b", "spread"), (r, g, b, spread), strict=True):
        share = np.bincount(channel.ravel(), minlength=256)
        features[f"{name}_mean"] = mean = float((share * values).sum() / channel.size)
        features[f"{name}_sd"] = float(np.sqrt((share * (values - mean) ** 2).sum() / channel.size))
    return features


def _worker_pool(workers: int) -> Executor | None:
    """Return a pool of started workers, None for one worker.

    Forked, since a fresh interpreter would run a job's main script again and import for a second; started at once,
    before the caller has threads of its own. Where forking is unsafe (macOS, Windows), threads do.
    """
    if workers <= 1:
        return None
    if sys.platform != "linux":
        return ThreadPoolExecutor(workers)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _follow_parent, (os.getpid(),))
    pool.submit(os.getpid).result()
    return pool


def _follow_parent(parent: int) -> None:
    """End this worker when its parent is gone: a killed job must not leave orphans behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
