"""The architecture of a section: which region lies where, and the fields that cells follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoloom_simulation.celltypes import FAT, GLAND, GLASS, IMMUNE, STROMA, TUMOUR, VESSEL
from histoloom_simulation.fields import RandomField, orthogonal_residual
from histoloom_simulation.layout import Layout
from histoloom_simulation.options import Section, random_stream

Array = NDArray[Any]
STEP_UM = 4.0
BUNDLE = 0.6  # stroma where the bundle field is above this holds smooth muscle
_TRIES = 400
_SIBLING = 0.25  # share of a field's variance that is a section's own; siblings share the rest


@dataclass(frozen=True)
class Ring:
    """A round structure: a vessel or a gland; centre (x, y), outer and lumen radius, um on the slide."""

    centre: tuple[float, float]
    outer: float
    lumen: float


@dataclass(frozen=True)
class Tissue:
    """A section's architecture on a grid of `STEP_UM`, in slide coordinates.

    Attributes
    ----------
    region
        Region code (h, w), uint8.
    depth
        Distance inside the tissue's border (h, w), um; negative on glass.
    fibre
        Two stream functions (2, h, w), um: along and across the collagen.
    fields
        Named modulation fields (h, w), mean 0 and variance 1 over the tissue: ``pair``, ``pair2`` and ``split``
        (which of two twins), orthogonal to each other and to the regions; ``bundle`` (smooth muscle) and ``tone``.
    vessels, glands
        Round structures.
    """

    region: Array
    depth: Array
    fibre: Array
    fields: Mapping[str, Array]
    vessels: list[Ring]
    glands: list[Ring]

    def at(self, layer: Array, points: Array) -> Array:
        """Return a layer's values at slide positions (n, 2), um: the nearest grid node."""
        index = np.rint(points / STEP_UM).astype(int)
        row = np.clip(index[:, 1], 0, layer.shape[0] - 1)
        column = np.clip(index[:, 0], 0, layer.shape[1] - 1)
        return layer[row, column]


def _top_fraction(values: Array, eligible: Array, count: float) -> Array:
    """Return a mask of the `count` highest eligible values."""
    n = min(int(count), int(eligible.sum()))
    if n <= 0:
        return np.zeros_like(eligible)
    threshold = np.partition(values[eligible], -n)[-n]
    return eligible & (values >= threshold)


class _Fields:
    """Random fields of a patient with a section's own share, evaluated at warped tissue positions."""

    def __init__(self, seed: int, section: Section, points: Array) -> None:
        self._seed, self._section = seed, section
        own = random_stream(seed, "warp", section.patient, section.sample)
        warp = np.stack([RandomField(own, 300.0)(points), RandomField(own, 300.0)(points)], axis=-1)
        self.points = points + 10.0 * warp

    def __call__(self, name: str, scale_um: float) -> Array:
        shared = RandomField(random_stream(self._seed, "field", name, self._section.patient), scale_um)
        rng = random_stream(self._seed, "field", name, self._section.patient, self._section.sample)
        own = RandomField(rng, scale_um)
        return np.sqrt(1 - _SIBLING) * shared(self.points) + np.sqrt(_SIBLING) * own(self.points)


def _place_rings(
    rng: np.random.Generator, layout: Layout, region: Array, n: int, outer: tuple[float, float], lumen: float
) -> list[Ring]:
    """Choose places in the patient's frame; keep those that fall into stroma of this section and touch no other."""
    rings: list[Ring] = []
    candidates = rng.uniform(-1, 1, (_TRIES, 2)) * layout.half
    radii = rng.uniform(*outer, _TRIES)
    for point, radius in zip(layout.to_slide(candidates), radii, strict=True):
        reach = 1.1 * radius
        corners = np.array([(0, 0), (reach, 0), (-reach, 0), (0, reach), (0, -reach)]) * 0.75 + point
        row = np.rint(corners[:, 1] / STEP_UM).astype(int)
        column = np.rint(corners[:, 0] / STEP_UM).astype(int)
        inside = (row >= 0) & (column >= 0) & (row < region.shape[0]) & (column < region.shape[1])
        clear = all(np.hypot(*(point - r.centre)) > reach + r.outer for r in rings)
        if inside.all() and clear and (region[row, column] == STROMA).all():
            rings.append(Ring((float(point[0]), float(point[1])), float(radius), float(radius * lumen)))
        if len(rings) == n:
            break
    return rings


def _paint_rings(region: Array, grid: Array, rings: list[Ring], code: int) -> None:
    for ring in rings:
        region[np.hypot(*np.moveaxis(grid - ring.centre, -1, 0)) < ring.outer] = code


def grow_tissue(spec: Mapping[str, Any], section: Section, layout: Layout) -> Tissue:
    """Grow a section's architecture.

    Sibling sections share the patient's random fields, slightly deformed, with a quarter of the variance their own.

    Parameters
    ----------
    spec
        Validated cohort entry (``seed``).
    section, layout
        The section and its geometry.

    Returns
    -------
    Tissue
        Every region is present; their shares of the tissue vary by patient.
    """
    seed = int(spec["seed"])
    size = np.array([layout.width_px, layout.height_px]) * section.mpp
    columns, rows = (np.ceil(size / STEP_UM) + 1).astype(int)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1) * STEP_UM
    points = layout.to_tissue(grid)
    field = _Fields(seed, section, points)
    depth = -(layout.outline(points) + 9.0 * field("border", 45.0)).astype(np.float32)
    tissue = depth > 0
    share = random_stream(seed, "shares", section.patient).uniform(-1, 1, 3)
    area = float(tissue.sum())
    region = np.where(tissue, STROMA, GLASS).astype(np.uint8)
    fat = _top_fraction(field("fat", 130.0) - 0.002 * np.minimum(depth, 300), tissue, (0.15 + 0.04 * share[0]) * area)
    region[fat] = FAT
    nests = field("tumour", 60.0) + 0.6 * field("nests", 22.0)
    tumour = _top_fraction(nests, region == STROMA, (0.34 + 0.07 * share[1]) * area)
    region[tumour] = TUMOUR
    rng = random_stream(seed, "rings", section.patient)
    glands = _place_rings(rng, layout, region, 14, (27.0, 48.0), 0.45)
    _paint_rings(region, grid, glands, GLAND)
    vessels = _place_rings(rng, layout, region, 5, (18.0, 36.0), 0.64)
    _paint_rings(region, grid, vessels, VESSEL)
    immune = _top_fraction(field("immune", 48.0), region == STROMA, (0.11 + 0.04 * share[2]) * area)
    region[immune] = IMMUNE
    return Tissue(region, depth, _fibres(field, points), _modulations(field, region), vessels, glands)


def _fibres(field: _Fields, points: Array) -> Array:
    """Return wavy coordinates along and across the collagen: its bundles are stripes of the second."""
    turn = 0.9 * field("turn", 400.0)
    along, across = points[..., 0] + 40.0 * field("along", 160.0), points[..., 1] + 42.0 * field("across", 110.0)
    c, s = np.cos(turn.mean()), np.sin(turn.mean())
    return np.stack([c * along + s * across, c * across - s * along]).astype(np.float32)


def _modulations(field: _Fields, region: Array) -> dict[str, Array]:
    """Return the fields that cells follow; those of an effect are made orthogonal to the regions.

    Otherwise a patch that happens to lie on a nest would tie two types together that the effect calls independent.
    """
    tissue = region != GLASS
    codes = [(region[tissue] == code).astype(np.float32) for code in (TUMOUR, FAT, IMMUNE, GLAND, VESSEL)]
    made: dict[str, Array] = {}
    flat: list[Array] = []
    for name, scale in (("pair", 75.0), ("pair2", 75.0), ("split", 60.0)):
        values = np.zeros(region.shape, dtype=np.float32)
        flat.append(orthogonal_residual(field(name, scale)[tissue], np.array(codes + flat)))
        values[tissue] = flat[-1]
        made[name] = values
    for name, scale in (("bundle", 70.0), ("tone", 350.0)):
        values = field(name, scale)
        made[name] = ((values - values[tissue].mean()) / max(float(values[tissue].std()), 1e-6)).astype(np.float32)
    return made
