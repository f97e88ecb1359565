"""What the engine asks of an encoder. A new one is a class, an entry in `histoloom.kinds` and a card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from histoloom.genes import GeneMatcher

Features = npt.NDArray[np.float32]
Scales = float | npt.NDArray[np.float64]


class Encoder(Protocol):
    """What all encoders have, whatever they read.

    Attributes
    ----------
    weights_sha256, revision
        Hash of the weights' content and where they are from; None where there are none.
    feature_names
        None where features have no names.
    device, precision
        From `histoloom.devices.lease_device`, and the arithmetic on it.
    batch_size
        Tiles or cells of a forward pass.
    """

    weights_sha256: str | None
    revision: str | None
    feature_names: list[str] | None
    device: str
    precision: str
    batch_size: int

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class PixelEncoder(Encoder, Protocol):
    """An encoder of tiles.

    Attributes
    ----------
    token_grid
        Tokens along a side of a tile, where it gives all of them (`histoloom.embeddings.tokens`); else 0.
    """

    token_grid: int

    def submit(self, tiles: npt.NDArray[np.uint8], um_per_px: Scales) -> Callable[[], Features]:
        """Start encoding and return a function that waits for the features, float32 (n, dim).

        Parameters
        ----------
        tiles
            uint8, (n, size, size, 3), of one section or several; unchanged until the features are there.
        um_per_px
            Of all tiles or of each, (n,).
        """
        ...

    def allocate(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Return memory for tiles; a GPU copies from some memory without waiting."""
        ...


class CountEncoder(Encoder, Protocol):
    """An encoder of expression."""

    def encode_counts(self, counts: Any, genes: Sequence[str], keys: Sequence[str], matcher: GeneMatcher) -> Features:
        """Return float32 (n, dim) for raw counts, CSR (n, G); see `histoloom.embeddings.scgpt.ScGPT`."""
        ...
