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
    """What all encoders have, whatever they read."""

    weights_sha256: str | None  # of the weights' content; None where there are none
    revision: str | None  # where they are from
    feature_names: list[str] | None
    device: str
    precision: str
    batch_size: int  # tiles or cells of a forward pass

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class PixelEncoder(Encoder, Protocol):
    """An encoder of tiles."""

    token_grid: int  # tokens along a tile's side, where it gives all of them (`histoloom.embeddings.tokens`); else 0

    def submit(self, tiles: npt.NDArray[np.uint8], um_per_px: Scales) -> Callable[[], Features]:
        """Start encoding uint8 (n, size, size, 3) tiles; return a function that waits for float32 (n, dim).

        ``um_per_px`` is of all tiles or of each, (n,). The tiles must not change until the features are there.
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
