"""Which colocalizations are more than chance: permutations within sections, and the false discovery rate over pairs.

Two schemes. ``random`` gives every spot the other type of any spot of its section: right when at least one of the two
types has no spatial structure of its own. Abundances do, and then it finds too much: two independent smooth maps
look colocalized somewhere. ``toroidal`` keeps each map as it is and slides one over the other, with wrap-around on
the array (Lotwick and Silverman 1982, doi:10.1111/j.2517-6161.1982.tb01221.x).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from histoloom.errors import InputError
from histoloom.lattice import HEXAGONAL, SQUARE, cells_of
from histoloom.stats import Floats, standardise_columns

SCHEMES = ("toroidal", "random")


def grid_shifts(
    array: Floats, rng: np.random.Generator, count: int, *, least: int, lattice: str = SQUARE
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return random slides of an array (n, 2: row, column) over itself, with wrap-around.

    `least`: a slide moves at least this many steps along an axis, or it would compare a map with itself. On a hexagonal
    lattice it moves by an even number of rows, which maps spots onto spots. Returns source (count, n): which
    observation's value lands on each, -1 where the array has a gap; and the steps (count, 2).
    """
    cells = cells_of(array[:, 0], array[:, 1], lattice)
    low = cells.min(axis=0)
    step = 2 if lattice == HEXAGONAL else 1
    size = cells.max(axis=0) - low + 1
    size[0] += size[0] % step  # a row of the other parity follows the last one
    table = np.full(size, -1, dtype=np.int64)
    table[tuple((cells - low).T)] = np.arange(len(cells))
    rows, columns = np.meshgrid(np.arange(0, size[0], step), np.arange(size[1]), indexing="ij")
    far = np.maximum(np.minimum(rows, size[0] - rows), np.minimum(columns, size[1] - columns)) >= least
    if not far.any():
        problem = "the array is too small to be slid over itself."
        raise InputError("permutations", problem, "use `scheme: random`.", code="permutations-small-array")
    steps = np.column_stack([rows[far], columns[far]])
    chosen = steps[rng.integers(len(steps), size=count)]
    source = np.stack([table[tuple(((cells - low + move) % size).T)] for move in chosen])
    return source, chosen


def null_maps(
    values: Floats,
    weights: Any,
    array: Floats,
    *,
    scheme: str,
    count: int,
    seed: int,
    least: int = 3,
    lattice: str = SQUARE,
) -> Floats:
    """Return Moran's R (count, types, types) under permutation of the second type within one section.

    `values` (n, types), `weights` (n, n) summing to n, `array` (n, 2) row and column. With gaps in the array the
    overlap is smaller than the section; R is then formed over the weights between observations that got a value, with
    z-scores of the values that landed.
    """
    if scheme not in SCHEMES:
        problem = f"'{scheme}' is no scheme."
        raise InputError("permutations", problem, f"use one of: {', '.join(SCHEMES)}.", code="permutations-scheme")
    rng = np.random.default_rng([seed, len(values)])
    z = standardise_columns(values)
    smoothed = np.asarray(weights.T @ z)  # R = z' W z_permuted / n = (W' z)' z_permuted / n
    null = np.full((count, z.shape[1], z.shape[1]), np.nan)
    if scheme == "random":
        for b in range(count):
            null[b] = smoothed.T @ z[rng.permutation(len(z))] / len(z)
        return null
    source, _ = grid_shifts(array, rng, count, least=least, lattice=lattice)
    for b in range(count):
        landed = np.flatnonzero(source[b] >= 0)
        if len(landed) < 3:
            continue
        # Both maps are centred where they overlap: a slide shows parts of them, whose means differ from the wholes'.
        x, y = standardise_columns(values[landed]), standardise_columns(values[source[b][landed]])
        part = weights[landed][:, landed]
        total = part.sum()
        null[b] = x.T @ (part @ y) / total if total > 0 else np.nan
    return null


def permutation_p(observed: Floats, null: Floats) -> Floats:
    """Return two-sided p values, ``(1 + #{|null - centre| >= |observed - centre|}) / (1 + count)``.

    `observed` (types, types), `null` (count, types, types) with its mean as centre. The result is symmetric: the null
    of (i, j) and of (j, i) are both draws for the pair and are used together. NaN where the observed value is.
    """
    both = np.concatenate([null, np.swapaxes(null, 1, 2)])
    defined = np.isfinite(both)
    count = defined.sum(axis=0)
    centre = np.where(defined, both, 0.0).sum(axis=0) / np.maximum(count, 1)
    extreme = (np.abs(both - centre) >= np.abs(observed - centre) * (1 - 1e-12)) & defined
    # Slides back and forth are not independent draws: half the number is what they are worth.
    p = (1.0 + extreme.sum(axis=0) / 2.0) / (1.0 + count / 2.0)
    defined_p: Floats = np.where(np.isfinite(observed) & (count > 0), p, np.nan)
    return defined_p
