"""Cells: where each lies, of which type, and the shape its nucleus is drawn with. What is drawn is what is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoloom_simulation.celltypes import (
    FAT,
    GLASS,
    PAIRS,
    PATIENT_ONLY,
    STROMA,
    TISSUE_ONLY,
    TWINS,
    CellType,
    patient_only_level,
    tissue_types,
)
from histoloom_simulation.layout import Layout
from histoloom_simulation.options import Section, SimulationOptions, random_stream
from histoloom_simulation.tissue import BUNDLE, STEP_UM, Ring, Tissue

Array = NDArray[Any]


@dataclass(frozen=True)
class Cells:
    """The cells of a section.

    Attributes
    ----------
    types
        The types of the tissue, in the generator's order.
    position
        Centres of the nuclei on the slide, um, (n, 2).
    kind
        Index into `types` (n,).
    angle, scale
        Direction of a nucleus' long axis, radians, and its size relative to the type's (n,).
    vacuoles
        Centres of the fat cells' vacuoles, um, (m, 2); picture only.
    """

    types: list[CellType]
    position: Array
    kind: Array
    angle: Array
    scale: Array
    vacuoles: Array

    def count_under(self, centres: Array, diameter_um: float) -> Array:
        """Return the number of nuclei of each type with their centre under each disc, int (n_centres, n_types)."""
        from scipy.spatial import cKDTree

        counts = np.zeros((len(centres), len(self.types)), dtype=np.int64)
        if len(self.position):
            for i, cells in enumerate(cKDTree(self.position).query_ball_point(centres, diameter_um / 2)):
                counts[i] = np.bincount(self.kind[cells], minlength=len(self.types))
        return counts


def density_maps(types: list[CellType], tissue: Tissue, section: Section, options: SimulationOptions) -> Array:
    """Return cells per um2 by type on the tissue's grid, float32 (types, h, w)."""
    index = {t.name: i for i, t in enumerate(types)}
    inside = tissue.region != GLASS
    maps = np.zeros((len(types), *tissue.region.shape), dtype=np.float32)
    for i, cell_type in enumerate(types):
        for code, density in cell_type.density.items():
            maps[i][tissue.region == code] = density
        maps[i][inside] += cell_type.everywhere
    lymphocytes = maps[index[TWINS[0]]].copy()
    share = 1 / (1 + np.exp(-3.0 * tissue.fields["split"]))
    for name, part in zip(TWINS, (share, 1 - share), strict=True):
        maps[index[name]] = lymphocytes * part
    if options.pairs:
        first, second = tissue.fields["pair"], tissue.fields["pair2"]
        # exp(a f - a^2 / 2) keeps the mean density.
        for name in PAIRS["attracting"]:
            maps[index[name]] *= np.exp(0.9 * first - 0.4)
        for sign, name in zip((1, -1), PAIRS["repelling"], strict=True):
            maps[index[name]] *= np.exp(sign * 0.9 * second - 0.4)
    maps[index[PATIENT_ONLY]] *= patient_only_level(section) if options.patient_only_type else 1.0
    if TISSUE_ONLY in index:
        bundle = (tissue.fields["bundle"] > BUNDLE) & (tissue.region == STROMA)
        maps[index[TISSUE_ONLY]][(tissue.region == STROMA) & ~bundle] = 0
        maps[index["fibroblast"]][bundle] *= 0.3
    if not options.prevalence:
        totals = maps.sum(axis=(1, 2), keepdims=True)
        maps *= np.divide(totals[totals > 0].mean(), totals, out=np.zeros_like(totals), where=totals > 0)
    return maps


def _scatter(rng: np.random.Generator, density: Array) -> Array:
    """Draw a Poisson process from a density map (h, w), cells per um2; positions in um (n, 2)."""
    cell = STEP_UM**2
    total = float(density.sum()) * cell
    if total <= 0:
        return np.zeros((0, 2))
    n = rng.poisson(total)
    weights = density.ravel().astype(np.float64)
    nodes = rng.choice(density.size, size=n, p=weights / weights.sum())
    row, column = np.divmod(nodes, density.shape[1])
    return (np.stack([column, row], axis=1) + rng.uniform(-0.5, 0.5, (n, 2))) * STEP_UM


def _ring_cells(rng: np.random.Generator, ring: Ring, spacing: float, radius: float) -> Array:
    """Return cells evenly placed on a circle: columns x, y, angle of the tangent."""
    n = max(int(2 * np.pi * radius / spacing), 4)
    theta = (np.arange(n) + rng.uniform(0, 1)) * 2 * np.pi / n + rng.normal(0, 0.06, n)
    r = radius + rng.normal(0, 0.5, n)
    return np.stack([ring.centre[0] + r * np.cos(theta), ring.centre[1] + r * np.sin(theta), theta + np.pi / 2], 1)


def _structured(rng: np.random.Generator, tissue: Tissue) -> list[tuple[str, Array]]:
    """Return the cells that line glands and vessels: (type, columns x, y, angle)."""
    made: list[tuple[str, Array]] = []
    for ring in tissue.glands:
        inner = _ring_cells(rng, ring, 8.0, ring.lumen + 5.5)
        inner[:, 2] += np.pi / 2  # columnar: the long axis points to the lumen
        made.append(("luminal_epithelial", inner))
        if ring.outer - ring.lumen > 16:
            made.append(("luminal_epithelial", _ring_cells(rng, ring, 8.5, ring.lumen + 14.0)))
    made.extend(("endothelial", _ring_cells(rng, ring, 12.0, ring.lumen + 1.0)) for ring in tissue.vessels)
    return made


def pack_vacuoles(rng: np.random.Generator, tissue: Tissue) -> Array:
    """Return centres of fat vacuoles, um (n, 2): points of the fat at least 34 um apart."""
    candidates = _scatter(rng, np.where(tissue.region == FAT, 0.012, 0.0).astype(np.float32))
    return candidates[_keep_apart(candidates, np.full(len(candidates), 17.0))]


def _keep_apart(position: Array, radius: Array) -> Array:
    """Return a mask that drops, in order, every point nearer to a kept earlier one than the sum of their radii."""
    from scipy.spatial import cKDTree

    kept = np.ones(len(position), dtype=bool)
    if len(position) < 2:
        return kept
    pairs = cKDTree(position).query_pairs(2 * float(radius.max()), output_type="ndarray")
    gap = np.hypot(*(position[pairs[:, 0]] - position[pairs[:, 1]]).T)
    pairs = pairs[gap < radius[pairs[:, 0]] + radius[pairs[:, 1]]]
    pairs = np.sort(pairs, axis=1)
    for first, second in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]:
        if kept[first]:
            kept[second] = False
    return kept


def _fat_nuclei(rng: np.random.Generator, vacuoles: Array) -> Array:
    """Return one flattened nucleus per vacuole, on the wall to a neighbour: columns x, y, angle."""
    from scipy.spatial import cKDTree

    if len(vacuoles) < 2:
        return np.zeros((0, 3))
    _, near = cKDTree(vacuoles).query(vacuoles, k=min(4, len(vacuoles)))
    other = vacuoles[near[np.arange(len(near)), rng.integers(1, near.shape[1], len(near))]]
    step = other - vacuoles
    angle = np.arctan2(step[:, 1], step[:, 0]) + np.pi / 2
    slide = rng.uniform(-5, 5, len(vacuoles))[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    gap = np.hypot(*step.T)[:, None]
    wall = np.minimum(0.5, 25.0 / gap)
    return np.column_stack([vacuoles + step * wall + slide, angle])


def _to_walls(position: Array, tissue: Tissue, vacuoles: Array) -> Array:
    """Move cells that fell into a fat vacuole to its wall."""
    from scipy.spatial import cKDTree

    if len(vacuoles) < 2 or not len(position):
        return position
    moved = position.copy()
    in_fat = np.flatnonzero(tissue.at(tissue.region, position) == FAT)
    if not len(in_fat):
        return position
    distance, near = cKDTree(vacuoles).query(position[in_fat], k=2)
    # The wall is the perpendicular bisector of the two nearest vacuoles.
    first, second = vacuoles[near[:, 0]], vacuoles[near[:, 1]]
    axis = second - first
    axis /= np.maximum(np.hypot(*axis.T), 1e-9)[:, None]
    overshoot = np.einsum("ij,ij->i", (first + second) / 2 - position[in_fat], axis)
    inside = distance[:, 0] < 30
    moved[in_fat[inside]] += (overshoot[:, None] * axis)[inside]
    return moved


def place_cells(
    spec: Mapping[str, Any], section: Section, layout: Layout, tissue: Tissue, options: SimulationOptions
) -> Cells:
    """Place the cells of a section.

    Types draw from streams of their own. Glands, vessels and fat come first, then the types that ignore regions,
    then the rest; a cell that would overlap an earlier one is dropped.
    """
    seed = int(spec["seed"])
    types = tissue_types(options)
    index = {t.name: i for i, t in enumerate(types)}
    maps = density_maps(types, tissue, section, options)
    rng = random_stream(seed, "structure", section.sample)
    vacuoles = pack_vacuoles(rng, tissue)
    blocks = [(name, block, 0) for name, block in _structured(rng, tissue)]
    blocks.append(("adipocyte", _fat_nuclei(rng, vacuoles), 0))
    for i, cell_type in enumerate(types):
        own = random_stream(seed, "cells", section.sample, cell_type.name)
        position = _to_walls(_scatter(own, maps[i]), tissue, vacuoles)
        angle = _direction(own, tissue, position, cell_type)
        blocks.append((cell_type.name, np.column_stack([position, angle]), 1 if cell_type.everywhere else 2))
    table = np.concatenate([block for _, block, _ in blocks])
    kind = np.concatenate([np.full(len(block), index[name]) for name, block, _ in blocks])
    turn = np.concatenate([np.full(len(block), wave) for _, block, wave in blocks])
    shuffled = random_stream(seed, "order", section.sample).random(len(table))
    order = np.lexsort((shuffled, turn))
    table, kind = table[order], kind[order]
    ok = _allowed(table[:, :2], layout, tissue, section)
    table, kind = table[ok], kind[ok]
    radius = np.array([0.40 * np.sqrt(t.length_um * t.width_um) for t in types])[kind]
    kept = _keep_apart(table[:, :2], radius)
    table, kind = table[kept], kind[kept]
    spread = np.array([t.size_cv for t in types])[kind]
    size = np.exp(np.clip(random_stream(seed, "size", section.sample).normal(0, 1, len(kind)), -2.2, 2.2) * spread)
    return Cells(types, table[:, :2], kind, table[:, 2], size, vacuoles)


def _direction(rng: np.random.Generator, tissue: Tissue, position: Array, cell_type: CellType) -> Array:
    """Return the long axis: along the collagen for spindle cells in stroma, anywhere for round ones."""
    if not len(position):
        return np.zeros(0)
    gradient = np.gradient(tissue.fibre[1])
    across = np.arctan2(tissue.at(gradient[0], position), tissue.at(gradient[1], position))
    spindle = cell_type.length_um > 2.5 * cell_type.width_um
    loose = rng.uniform(0, np.pi, len(position))
    return across + np.pi / 2 + rng.normal(0, 0.25, len(position)) if spindle else loose


def _allowed(position: Array, layout: Layout, tissue: Tissue, section: Section) -> Array:
    """Return which cells lie on the slide, in tissue and outside every lumen."""
    size = np.array([layout.width_px, layout.height_px]) * section.mpp
    ok = np.all((position > 2) & (position < size - 2), axis=1) & (tissue.at(tissue.depth, position) > 2)
    for ring in [*tissue.glands, *tissue.vessels]:
        ok &= np.hypot(*(position - ring.centre).T) > ring.lumen
    return ok
