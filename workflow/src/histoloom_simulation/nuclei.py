"""Drawing cells: the haematoxylin of their nuclei and the stain of their bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoloom_simulation.cells import Cells
from histoloom_simulation.celltypes import CellType
from histoloom_simulation.fields import smooth_noise

Array = NDArray[Any]
_EDGE_UM = 0.55
_TEXTURE_PX = 512


def _unit(values: Array) -> Array:
    """Limit values to [0, 1] in place; `numpy.clip` takes several times longer on patches as small as a cell's."""
    return np.minimum(np.maximum(values, 0, out=values), 1, out=values)


class Stamper:
    """Draws cells into the haematoxylin and eosin layers of a slide.

    Parameters
    ----------
    rng
        Chromatin and small irregularities.
    mpp
        Micrometres per pixel.
    """

    def __init__(self, rng: np.random.Generator, mpp: float) -> None:
        self._rng, self._mpp = rng, mpp
        grain = max(0.55 / mpp, 0.6)
        self._centres = np.empty(0, dtype=np.float32)
        self._texture = smooth_noise(rng, (_TEXTURE_PX, _TEXTURE_PX), (grain, grain))

    def draw(self, cells: Cells, haematoxylin: Array, eosin: Array) -> None:
        """Add all cells to the two layers (h, w), optical density, in place: bodies first, then nuclei."""
        order = np.arange(len(cells.kind))
        for i in order:
            cell_type = cells.types[cells.kind[i]]
            if cell_type.body_um > 0:
                self._body(cell_type, cells.position[i], cells.angle[i], haematoxylin, eosin)
        tone = self._rng.normal(1.0, 0.08, len(order))
        for i in order:
            self._nucleus(
                cells.types[cells.kind[i]],
                cells.position[i],
                cells.angle[i],
                cells.scale[i],
                tone[i],
                haematoxylin,
                eosin,
            )

    def _patch(
        self, centre: Array, reach_um: float, shape: tuple[int, ...]
    ) -> tuple[slice, slice, Array, Array] | None:
        """Return the slices of a square around a centre and its pixels' offsets in um (1, w) and (h, 1)."""
        x, y = centre / self._mpp
        reach = reach_um / self._mpp + 1
        x0, x1 = max(int(x - reach), 0), min(int(x + reach) + 2, shape[1])
        y0, y1 = max(int(y - reach), 0), min(int(y + reach) + 2, shape[0])
        if x0 >= x1 or y0 >= y1:
            return None
        if len(self._centres) < max(shape):
            # Pixel i covers [i, i + 1): its centre lies at i + 0.5.
            self._centres = np.arange(max(shape), dtype=np.float32) + np.float32(0.5)
        u = ((self._centres[x0:x1] - np.float32(x)) * np.float32(self._mpp))[None, :]
        v = ((self._centres[y0:y1] - np.float32(y)) * np.float32(self._mpp))[:, None]
        return slice(y0, y1), slice(x0, x1), u, v

    def _body(self, cell_type: CellType, centre: Array, angle: float, haematoxylin: Array, eosin: Array) -> None:
        offset = cell_type.offset_um * np.array([np.cos(angle), np.sin(angle)])
        patch = self._patch(centre + offset, cell_type.body_um + 1, haematoxylin.shape)
        if patch is None:
            return
        rows, columns, u, v = patch
        r2 = (u * u + v * v) * np.float32(1 / cell_type.body_um**2)
        mask = _unit((1 - r2) * 2.2)
        grain = self._grain(mask.shape)
        eosin[rows, columns] += mask * np.float32(cell_type.body_eosin) * (1 + np.float32(0.25) * grain)
        haematoxylin[rows, columns] += mask * np.float32(cell_type.body_haem) * (1 + np.float32(0.3) * grain)

    def _nucleus(
        self,
        cell_type: CellType,
        centre: Array,
        angle: float,
        scale: float,
        tone: float,
        haematoxylin: Array,
        eosin: Array,
    ) -> None:
        half_long, half_short = 0.5 * cell_type.length_um * scale, 0.5 * cell_type.width_um * scale
        patch = self._patch(centre, half_long + 1.5, haematoxylin.shape)
        if patch is None:
            return
        rows, columns, u, v = patch
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        along, across = u * c + v * s, v * c - u * s
        if cell_type.bend:
            across = across - np.float32(cell_type.bend * self._rng.normal(0, 1)) * (
                along * along - np.float32(half_long**2 / 3)
            )
        r2 = (along / np.float32(half_long)) ** 2 + (across / np.float32(half_short)) ** 2
        # Distance to the outline is about (1 - r) * short axis; the edge is as soft as focus leaves it.
        mask = _unit((1 - r2) * np.float32(0.5 * half_short / _EDGE_UM) + np.float32(0.5))
        inner = _unit(1 - r2)
        value = np.float32(cell_type.stain * tone) * (1 - np.float32(0.75 * cell_type.vesicular) * inner)
        value = value * (1 + np.float32(cell_type.clumps) * self._grain(mask.shape))
        if cell_type.nucleolus:
            at = self._rng.normal(0, 0.22, 2) * (half_long, half_short)
            d2 = (along - np.float32(at[0])) ** 2 + (across - np.float32(at[1])) ** 2
            value = value + np.float32(0.75) * _unit(1.6 - d2)
        target = haematoxylin[rows, columns]
        np.maximum(target, mask * value, out=target)
        eosin[rows, columns] *= 1 - np.float32(0.7) * mask

    def _grain(self, shape: tuple[int, ...]) -> Array:
        """Return a random window of the chromatin texture."""
        y, x = self._rng.integers(0, _TEXTURE_PX - np.minimum(shape, _TEXTURE_PX - 1), 2)
        window = self._texture[y : y + shape[0], x : x + shape[1]]
        if window.shape == shape:
            return window
        return np.resize(window, shape)
