"""Where the array lies on the slide and where the tissue lies under it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoloom_simulation.options import Section, SimulationOptions, random_stream

Array = NDArray[Any]
_FIRST_X, _FIRST_Y = 3, 7  # array numbers do not start at 0, and not at the same number
_TILE_PX = 224  # no tile of this size leaves the slide, as in her2st


@dataclass(frozen=True)
class Layout:
    """Geometry of a section; all lengths in um from the slide's upper left corner, x to the right, y down.

    Attributes
    ----------
    x, y
        Array numbers of all positions, int (n,).
    centres
        Centres of the printed spots, um (n, 2).
    jitter
        How far each lies from its array position, in pitches (n, 2).
    width_px, height_px
        Size of the slide.
    spot_um
        Diameter of a spot, um.
    middle, half
        Centre and half size of the tissue's frame, um (2,).
    angle
        Rotation of the tissue, radians.
    l_shaped
        Whether a corner of the tissue is missing.
    """

    x: Array
    y: Array
    centres: Array
    jitter: Array
    width_px: int
    height_px: int
    spot_um: float
    middle: Array
    half: Array
    angle: float
    l_shaped: bool

    def to_tissue(self, points: Array) -> Array:
        """Turn slide positions (..., 2), um, into the tissue's own frame (centred, unrotated)."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        shifted = points - self.middle
        return np.stack(
            [c * shifted[..., 0] + s * shifted[..., 1], -s * shifted[..., 0] + c * shifted[..., 1]], axis=-1
        )

    def to_slide(self, points: Array) -> Array:
        """Invert `to_tissue`."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        turned = np.stack([c * points[..., 0] - s * points[..., 1], s * points[..., 0] + c * points[..., 1]], axis=-1)
        return turned + self.middle

    def outline(self, points: Array) -> Array:
        """Return a signed distance, um, of tissue-frame points to the tissue's border; negative inside."""
        u, v = points[..., 0], points[..., 1]
        inside = np.maximum(np.abs(u) - self.half[0], np.abs(v) - self.half[1])
        if not self.l_shaped:
            return inside
        notch = np.maximum(0.22 * self.half[0] - u, v + 0.12 * self.half[1])
        return np.maximum(inside, -notch)


def lay_out(spec: Mapping[str, Any], section: Section, options: SimulationOptions) -> Layout:
    """Place the array and the tissue on the slide.

    With the geometry effect: unequal margins (so width, height and all four margins differ), x pitch 1 % above
    y pitch, the tissue L-shaped, off centre and rotated by an angle of the section's own.
    """
    rng = random_stream(spec["seed"], "layout", section.sample)
    nx, ny = int(spec["array_x"]), int(spec["array_y"])
    stretch = np.array([1.005, 0.995]) if options.geometry else np.ones(2)
    pitch = section.pitch_um * stretch
    margin = max(_TILE_PX / 2 * section.mpp * 1.06, 0.6 * section.pitch_um) + 8.0
    before = np.array([margin + 10, margin]) if options.geometry else np.full(2, margin)
    after = np.array([margin + 45, margin + 25]) if options.geometry else np.full(2, margin)
    gy, gx = np.divmod(np.arange(nx * ny), nx)
    jitter = np.clip(rng.normal(0, 0.015, (nx * ny, 2)), -0.04, 0.04)
    grid = np.stack([gx, gy], axis=1)
    centres = before + (grid + jitter) * pitch
    extent = (np.array([nx, ny]) - 1) * pitch
    size = (before + extent + after) / section.mpp
    turn = rng.uniform(-7, 7) + 180 * (section.order % 2)
    if options.geometry:
        half, shift = extent * np.array([0.475, 0.49]), extent * np.array([-0.03, 0.015])
    else:
        half, shift, turn = extent * 0.47, np.zeros(2), 0.0
    return Layout(
        x=gx + _FIRST_X,
        y=gy + _FIRST_Y,
        centres=centres,
        jitter=jitter,
        width_px=int(np.ceil(size[0])),
        height_px=int(np.ceil(size[1])),
        spot_um=section.spot_um,
        middle=before + extent / 2 + shift,
        half=half,
        angle=float(np.deg2rad(turn)),
        l_shaped=options.geometry,
    )
