"""Bivariate Moran's R of 80 types on 4,000 spots: one matrix product against the loop over pairs, on the same weights.

Run ``python tests/bench/bench_moran.py``; it prints the ratio and fails below 30 or where results differ by 1e-9.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow" / "src"))

from histoloom.metrics.moran import morans_r, spatial_weights

SPOTS, TYPES, WANTED = 4000, 80, 30.0


def pairwise_loop(values: np.ndarray, weights) -> np.ndarray:
    """The definition, pair by pair, as peers compute it."""
    types = values.shape[1]
    result = np.empty((types, types))
    for i in range(types):
        x = values[:, i] - values[:, i].mean()
        for j in range(i, types):
            y = values[:, j] - values[:, j].mean()
            result[i, j] = result[j, i] = x @ (weights @ y) / np.sqrt((x @ x) * (y @ y))
    return result


def best_of(repeats: int, work, *args) -> tuple[float, np.ndarray]:
    """The shortest of several runs, s, and the result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work(*args)
        times.append(time.perf_counter() - start)
    return min(times), result


def main() -> int:
    """Time both and compare."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(SPOTS)))
    array = np.column_stack(np.divmod(np.arange(SPOTS), side)).astype(float)
    weights = spatial_weights(200.0 * array, np.repeat(["a", "b"], SPOTS // 2))
    values = rng.gamma(1.0, size=(SPOTS, TYPES))
    with threadpool_limits(1):  # one core each, so that the ratio is of the methods and not of the machine's load
        slow, want = best_of(2, pairwise_loop, values, weights)
        fast, got = best_of(30, morans_r, values, weights)
    error, ratio = float(np.abs(got - want).max()), slow / fast
    print(f"pairwise loop {slow:.3f} s, one product {fast * 1e3:.1f} ms: ratio {ratio:.0f}; difference {error:.1e}")
    return 0 if ratio >= WANTED and error < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
