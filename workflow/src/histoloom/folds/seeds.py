"""One way to derive independent random streams from a seed and words."""

from __future__ import annotations

import numpy as np

from histoloom.identity import sha256_text


def derive_seed(seed: int, *words: str | int) -> int:
    """Return a seed in [0, 2**63) that depends on every word: no stream shifts when others come or go."""
    return int(sha256_text("|".join([str(seed), *map(str, words)]))[:16], 16) >> 1


def rng_for(seed: int, *words: str | int) -> np.random.Generator:
    """Return a NumPy generator for `derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *words))
