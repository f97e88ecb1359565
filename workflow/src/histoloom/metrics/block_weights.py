"""Spatial weights that are formed block by block when they are multiplied, for sections too dense to hold them.

At 240 um a section of 300,000 cells has about a billion weights, 16 GB; a block of rows has a few millions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from histoloom.lattice import ON_THE_EDGE
from histoloom.stats import Floats

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ENTRY_BYTES = 16
"""Of a stored weight: float64 value, int64 column."""
_MOST_IN_BLOCK = 5_000_000


class BlockWeights:
    """The symmetric matrix of `histoloom.metrics.moran.spatial_weights` (n, n), of which rows are made when asked for.

    ``weights[rows]`` and ``weights @ values`` are those of the stored matrix; `section` (n,) are codes, and each has
    its own length scale.
    """

    def __init__(
        self, positions: Floats, section: npt.NDArray[np.intp], length_scales: Floats, cutoff: float, include_self: bool
    ) -> None:
        from scipy.spatial import cKDTree

        self.shape = (len(positions), len(positions))
        self._own = include_self
        self._section, self._scales = section, length_scales
        self._radii = length_scales * np.sqrt(-2.0 * np.log(cutoff)) * ON_THE_EDGE
        self._positions = positions
        self._rows = [np.flatnonzero(section == code) for code in range(len(length_scales))]
        self._trees = [cKDTree(positions[rows]) for rows in self._rows]

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """Neighbours within reach of each observation, itself included."""
        counts = np.empty(self.shape[0], np.int64)
        for rows, tree, radius in zip(self._rows, self._trees, self._radii, strict=True):
            counts[rows] = tree.query_ball_point(self._positions[rows], radius, return_length=True)
        return counts

    def blocks(self) -> Iterator[slice]:
        """Yield slices of rows that hold at most some millions of weights each."""
        ends = np.cumsum(self.counts)
        start = 0
        while start < self.shape[0]:
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + _MOST_IN_BLOCK, side="right")))
            yield slice(start, stop)
            start = stop

    def _unscaled(self, rows: slice) -> csr_array:
        from scipy.sparse import csr_array
        from scipy.spatial import cKDTree

        chosen = np.arange(self.shape[0])[rows]
        triples: list[tuple[Any, Any, Any]] = []
        for code, (members, tree) in enumerate(zip(self._rows, self._trees, strict=True)):
            at = np.flatnonzero(self._section[chosen] == code)
            if not len(at):
                continue
            block = cKDTree(self._positions[chosen[at]])
            near = block.sparse_distance_matrix(tree, self._radii[code], output_type="ndarray")
            line, column = at[near["i"]], members[near["j"]]
            weight = np.exp(-(near["v"] ** 2) / (2.0 * self._scales[code] ** 2))
            keep = slice(None) if self._own else chosen[line] != column
            triples.append((weight[keep], line[keep], column[keep]))
        shape = (len(chosen), self.shape[1])
        if not triples:
            return csr_array(shape, dtype=np.float64)
        values, lines, columns = (np.concatenate(part) for part in zip(*triples, strict=True))
        return csr_array((values, (lines, columns)), shape=shape)

    @cached_property
    def _scale(self) -> float:
        return self._scale_of(sum(float(self._unscaled(rows).sum()) for rows in self.blocks()))

    def _scale_of(self, total: float) -> float:
        return self.shape[0] / total if total > 0 else 1.0

    def __getitem__(self, rows: slice) -> csr_array:
        return self._unscaled(rows) * self._scale

    def __matmul__(self, values: Floats) -> Floats:
        """Return the product with (n, columns); the first one also gives the sum of all weights."""
        more = np.column_stack([values, np.ones(len(values))])
        product = np.concatenate([self._unscaled(rows) @ more for rows in self.blocks()])
        self.__dict__.setdefault("_scale", self._scale_of(float(product[:, -1].sum())))
        return product[:, :-1] * self._scale

    @property
    def T(self) -> BlockWeights:
        return self

    def diagonal(self) -> Floats:
        """Return each observation's weight on itself."""
        return np.full(self.shape[0], self._scale if self._own else 0.0)

    def sum(self) -> float:
        return float(self.shape[0])
