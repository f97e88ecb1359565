"""Cells by the patch tokens around their nucleus, from a window each or from windows that cells share.

CellSymphony's UNI2*: a ViT's window of 112 um around a nucleus, of whose 16 x 16 patch tokens (class and register
tokens dropped) the four in the middle, or a block of 4 x 4, are averaged. A window each costs one forward pass per
cell. Where windows are shared, they lie on a grid, and a cell takes the tokens around its nucleus from the window in
which it is most central: tissue that several cells have in common is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histoloom.embeddings.sections import PartWriter, Section
from histoloom.errors import InputError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """Windows that the cells of a section share."""

    centres: Floats  # (m, 2), level-0 px
    of_cell: Integers  # (n,), the window of each cell
    offset: Floats  # (n, 2), nucleus minus the window's centre, level-0 px


def share_windows(cells: npt.ArrayLike, stride: float) -> Windows:
    """Lay windows on a grid over cells, (n, 2) in level-0 px; only those that a cell needs are kept.

    A cell lies at most half a stride (level-0 px) off a centre along each axis. No centre lies outside the cells' own
    range: where each cell's window is inside the slide, so is each shared one.
    """
    places = np.asarray(cells, np.float64)
    low, high = places.min(axis=0), places.max(axis=0)
    steps = np.rint((places - low) / stride).astype(np.int64)
    kept, of_cell = np.unique(steps, axis=0, return_inverse=True)
    centres = np.minimum(low + kept * stride, high)
    of_cell = of_cell.reshape(-1)
    return Windows(centres, of_cell.astype(np.int64), places - centres[of_cell])


def token_block(offset: npt.ArrayLike, side: float, grid: int, k: int) -> Integers:
    """Return the k patch tokens around a place in a window, int64 (n, k), row-major numbers.

    ``offset`` (n, 2) is place minus the window's centre, x and y, in the unit of ``side``; ``grid`` the tokens along a
    side. The k is a square number: of an even side (4, 16) the block whose middle is the corner of tokens nearest to
    the place, of an odd side (1, 9) the block around the token that holds it. At an edge, the block is moved inwards.
    """
    width = math.isqrt(k)
    if width * width != k or not 1 <= width <= grid:
        problem = f"{k} is no square number from 1 to {grid * grid}."
        raise InputError("tokens.k", problem, "use 1, 4, 9, 16 or all.", code="tokens-k")
    place = (np.asarray(offset, np.float64) / side + 0.5) * grid
    first = np.rint(place) - width // 2 if width % 2 == 0 else np.floor(place) - width // 2
    column, row = np.clip(first, 0, grid - width).astype(np.int64).T
    steps = np.arange(width)
    block = (row[:, None, None] + steps[None, :, None]) * grid + column[:, None, None] + steps[None, None, :]
    return block.reshape(len(column), k)


def windows_of(section: Section, settings: Mapping[str, Any]) -> tuple[Section, Windows]:
    """Return a section of shared windows in place of one of cells, and which cell has which."""
    facts = section.facts
    um_per_level0_px = float(facts["um_per_px"]) * int(facts["spec"]["size_px"]) / float(facts["size_level0_px"])
    shared = share_windows(section.centres, float(settings["stride_um"]) / um_per_level0_px)
    names = np.array([f"window-{i}" for i in range(len(shared.centres))], dtype=object)
    return replace(section, centres=shared.centres, obs_id=names), shared


class CellWriter(PartWriter):
    """Features of a section's cells, written as the tokens of their windows come, (m, tokens x dim)."""

    def __init__(
        self, scratch: Path, section: Section, identity: str, dim: int, shared: Windows, grid: int, k: int
    ) -> None:
        super().__init__(scratch, section, identity, dim)
        self._handle.flush()
        shape = (len(section), dim)
        self._out = np.memmap(self._temporary, "<f4", "r+", self._handle.tell(), shape)
        self._windows = self._left = len(shared.centres)
        self._cells = np.argsort(shared.of_cell, kind="stable")
        self._first = np.searchsorted(shared.of_cell[self._cells], np.arange(self._windows + 1))
        self._block = token_block(shared.offset, float(section.facts["size_level0_px"]), grid, k)

    def _write(self, features: Features) -> None:
        tokens = features.reshape(len(features), -1, self._out.shape[1])
        for i, window in enumerate(tokens, start=self._windows - self._left):
            cells = self._cells[self._first[i] : self._first[i + 1]]
            self._out[cells] = window[self._block[cells]].mean(axis=1, dtype=np.float64)

    def _close(self) -> None:
        self._out.flush()
        super()._close()


def saved(sections: Sequence[Section], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return cells, forward passes and their ratio, for the artefact's metadata."""
    cells = sum(map(len, sections))
    shared = settings["mode"] == "shared"
    forwards = sum(len(windows_of(s, settings)[0]) for s in sections) if shared else cells
    return {"cells": cells, "forwards": forwards, "forwards_share": round(forwards / cells, 6)}
