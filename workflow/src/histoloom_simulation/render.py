"""The slide: stains laid down in tissue, light shone through them (Beer-Lambert), a lens and a sensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoloom_simulation.cells import Cells
from histoloom_simulation.celltypes import FAT, IMMUNE, STROMA, TUMOUR
from histoloom_simulation.fields import smooth_noise
from histoloom_simulation.layout import Layout
from histoloom_simulation.nuclei import Stamper
from histoloom_simulation.options import Section, SimulationOptions, random_stream
from histoloom_simulation.tissue import BUNDLE, STEP_UM, Ring, Tissue

Array = NDArray[Any]
_BASE_UM = 0.7  # resolution of everything but nuclei; finer only where the slide is coarser
_STRIP = 512  # rows that share a window of noise
_BLOCK = 32  # rows that stay in the processor's cache
# Optical density per unit of stain in R, G, B (after Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23).
_HAEMATOXYLIN = np.array([0.66, 0.69, 0.30])
_EOSIN = np.array([0.10, 0.93, 0.34])


def stain_of(seed: int, section: Section, options: SimulationOptions) -> tuple[Array, Array, float]:
    """Return the stain vectors (2, 3), the strength of each stain (2,) and the glass' brightness.

    Patients differ in all of them when the effect is on; sections of one patient differ a little.
    """
    vectors = np.stack([_HAEMATOXYLIN, _EOSIN])
    strength = np.ones(2)
    if options.stain_by_patient:
        rng = random_stream(seed, "stain", section.patient)
        vectors = np.clip(vectors + rng.normal(0, 0.05, (2, 3)), 0.02, 1.2)
        # Spread evenly over the patients, so that no two are alike by chance.
        turn = 2 * np.pi * section.rank / max(section.n_patients, 1)
        strength = np.exp(0.30 * np.array([np.cos(turn), np.sin(turn)]))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    own = random_stream(seed, "staining", section.sample)
    return vectors, strength * np.exp(own.normal(0, 0.03, 2)), float(own.uniform(241, 247))


def _resize(layer: Array, shape: tuple[int, int], scale: float) -> Array:
    """Resample a grid whose node (i, j) lies at ``(i, j) * scale`` target pixels to (h, w), bilinear.

    Done with two sparse products, one per axis, because nodes lie at exact positions and not on a pixel raster.
    """
    from scipy.sparse import csr_matrix

    def weights(n_out: int, n_in: int) -> csr_matrix:
        at = np.clip((np.arange(n_out) + 0.5) / scale, 0, n_in - 1 - 1e-6)
        left = np.minimum(at.astype(int), n_in - 2)
        part = (at - left).astype(np.float32)
        rows = np.repeat(np.arange(n_out), 2)
        return csr_matrix(
            (np.stack([1 - part, part], 1).ravel(), (rows, np.stack([left, left + 1], 1).ravel())), shape=(n_out, n_in)
        )

    tall = weights(shape[0], layer.shape[0]) @ layer.astype(np.float32)
    return np.ascontiguousarray((weights(shape[1], layer.shape[1]) @ tall.T).T)


def _smoothstep(values: Array, low: float, high: float) -> Array:
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


class _Base:
    """Eosin and background haematoxylin of the tissue between nuclei, at `step` um per px."""

    def __init__(self, rng: np.random.Generator, layout: Layout, section: Section, tissue: Tissue, step: float) -> None:
        self.rng, self.tissue, self.step = rng, tissue, step
        self.shape = (
            int(np.ceil(layout.height_px * section.mpp / step)),
            int(np.ceil(layout.width_px * section.mpp / step)),
        )
        self.eosin = np.zeros(self.shape, dtype=np.float32)
        self.haematoxylin = np.zeros(self.shape, dtype=np.float32)

    def grow(self, layer: Array) -> Array:
        return _resize(layer, self.shape, STEP_UM / self.step)

    def part(self, code: int) -> Array:
        """Return the soft mask of a region; a blur of one node hides the grid's steps."""
        from scipy.ndimage import gaussian_filter

        return self.grow(gaussian_filter((self.tissue.region == code).astype(np.float32), 0.8))

    def speckle(self, sigma_um: float) -> Array:
        """Return noise of the given grain over the picture (a 512 px texture, repeated)."""
        texture = smooth_noise(self.rng, (512, 512), (sigma_um / self.step, sigma_um / self.step))
        repeats = [n // 512 + 1 for n in self.shape]
        return np.tile(texture, repeats)[: self.shape[0], : self.shape[1]]

    def fibres(self) -> Array:
        """Return collagen in [0, 1]: stripes of noise across the fibres, long along them."""
        along, across = self.grow(self.tissue.fibre[0]), self.grow(self.tissue.fibre[1])
        total = np.zeros(self.shape, dtype=np.float32)
        for width, length, weight in ((0.9, 30.0, 0.4), (2.2, 60.0, 0.55), (7.0, 110.0, 0.5)):
            texture = smooth_noise(self.rng, (512, 512), (2.5, 2.5))
            i = (across * (2.5 / width)).astype(np.int32) & 511
            j = (along * (2.5 / length * 4)).astype(np.int32) & 511
            total += weight * texture[i, j]
        return _smoothstep(total, -1.0, 1.1)

    def lay_stroma(self) -> None:
        stroma, fibre = self.part(STROMA), self.fibres()
        bundle = self.grow((self.tissue.fields["bundle"] > BUNDLE).astype(np.float32)) * stroma
        self.eosin += stroma * (0.06 + 0.50 * fibre) + 0.14 * bundle
        self.haematoxylin += stroma * 0.035
        immune = self.part(IMMUNE)
        self.eosin += immune * (0.12 + 0.12 * fibre)
        self.haematoxylin += immune * 0.06

    def lay_tumour(self) -> None:
        tumour = self.part(TUMOUR)
        self.eosin += tumour * (0.20 + 0.03 * self.speckle(1.6))
        self.haematoxylin += tumour * (0.14 + 0.03 * self.speckle(1.6))
        # Nests shrink away from the stroma around them when the tissue is fixed.
        cleft = np.clip(1 - np.abs(tumour - 0.35) / 0.25, 0, 1) * (self.speckle(14.0) > 0.3)
        self.eosin *= 1 - 0.75 * cleft

    def lay_fat(self, vacuoles: Array) -> None:
        from scipy.spatial import cKDTree

        soft = self.part(FAT)
        rows, columns = np.nonzero(soft > 0.01)
        if len(vacuoles) < 2 or not len(rows):
            return
        # At full resolution: interpolated distances have no crease on the wall and break it into beads.
        distance, _ = cKDTree(vacuoles).query((np.stack([columns, rows], 1) + 0.5) * self.step, k=2)
        first, gap = distance[:, 0], distance[:, 1] - distance[:, 0]
        wall = np.zeros(self.shape, dtype=np.float32)
        wall[rows, columns] = np.maximum(1 - _smoothstep(gap, 1.2, 3.2), _smoothstep(first, 30.0, 32.0))
        self.eosin += soft * (0.015 + 0.42 * wall * (1 + 0.15 * self.speckle(2.0)))
        self.haematoxylin += soft * 0.03 * wall

    def ring_window(self, ring: Ring, reach: float) -> tuple[slice, slice, Array]:
        """Return the slices around a ring and the distance to its centre there, um."""
        x0, x1 = (int(max((ring.centre[0] + d) / self.step, 0)) for d in (-reach, reach))
        y0, y1 = (int(max((ring.centre[1] + d) / self.step, 0)) for d in (-reach, reach))
        x1, y1 = min(x1, self.shape[1]), min(y1, self.shape[0])
        u = (np.arange(x0, x1) + 0.5) * self.step - ring.centre[0]
        v = (np.arange(y0, y1) + 0.5) * self.step - ring.centre[1]
        return slice(y0, y1), slice(x0, x1), np.hypot(u[None, :], v[:, None]).astype(np.float32)

    def lay_rings(self) -> None:
        for ring in self.tissue.glands:
            rows, columns, r = self.ring_window(ring, ring.outer + 6)
            body = 1 - _smoothstep(r, ring.outer - 1.5, ring.outer + 1.5)
            lumen = 1 - _smoothstep(r, ring.lumen - 1, ring.lumen + 1)
            membrane = np.exp(-(((r - ring.outer) / 1.6) ** 2))
            self.eosin[rows, columns] *= 1 - body
            self.eosin[rows, columns] += body * 0.34 * (1 - lumen) + 0.35 * membrane + 0.03 * lumen
            self.haematoxylin[rows, columns] *= 1 - body
            self.haematoxylin[rows, columns] += body * 0.07 * (1 - lumen)
        for ring in self.tissue.vessels:
            rows, columns, r = self.ring_window(ring, ring.outer + 8)
            body = 1 - _smoothstep(r, ring.outer - 2, ring.outer + 2)
            lumen = 1 - _smoothstep(r, ring.lumen - 1, ring.lumen + 1)
            self.eosin[rows, columns] *= 1 - body
            self.eosin[rows, columns] += body * (0.52 + 0.08 * np.sin(r * 1.9)) * (1 - lumen) + 0.02 * lumen
            self.haematoxylin[rows, columns] *= 1 - body
            self._red_cells(ring)

    def _red_cells(self, ring: Ring) -> None:
        """Fill part of a lumen with red cells, 7 um, without nuclei."""
        n = int(0.55 * ring.lumen**2 / 3.5**2)
        radius = np.sqrt(self.rng.random(n)) * max(ring.lumen - 4, 1)
        theta = self.rng.uniform(0, 2 * np.pi, n)
        for r, t in zip(radius, theta, strict=True):
            cell = Ring((ring.centre[0] + r * np.cos(t), ring.centre[1] + r * np.sin(t)), 3.3, 0)
            rows, columns, d = self.ring_window(cell, 4.5)
            disc = (1 - _smoothstep(d, 2.8, 3.6)) * (0.72 + 0.02 * d * d)
            np.maximum(self.eosin[rows, columns], disc, out=self.eosin[rows, columns])

    def finish(self) -> None:
        """Cut the base at the tissue's border and vary the staining over the section."""
        # The border's outline is rough at the scale of single fibres.
        edge = _smoothstep(self.grow(self.tissue.depth) + 2.5 * self.speckle(4.0), -1.0, 1.5)
        tone = 1 + 0.10 * self.grow(self.tissue.fields["tone"])
        for layer in (self.eosin, self.haematoxylin):
            layer *= edge * np.clip(tone, 0.6, 1.4)
            np.clip(layer, 0, None, out=layer)


def draw_slide(
    spec: Mapping[str, Any], section: Section, layout: Layout, tissue: Tissue, cells: Cells, options: SimulationOptions
) -> Array:
    """Draw a section as a microscope's camera would see it.

    Returns
    -------
    numpy.ndarray
        uint8 (height, width, 3), RGB.
    """
    seed = int(spec["seed"])
    rng = random_stream(seed, "picture", section.sample)
    step = max(_BASE_UM, section.mpp)
    base = _Base(rng, layout, section, tissue, step)
    base.lay_stroma()
    base.lay_tumour()
    base.lay_fat(cells.vacuoles)
    base.lay_rings()
    base.finish()
    shape = (layout.height_px, layout.width_px)
    if step == section.mpp and base.shape == shape:
        eosin, haematoxylin = base.eosin, base.haematoxylin
    else:
        eosin, haematoxylin = (_enlarge(layer, shape, section.mpp / step) for layer in (base.eosin, base.haematoxylin))
    del base
    Stamper(rng, section.mpp).draw(cells, haematoxylin, eosin)
    return develop(rng, haematoxylin, eosin, stain_of(seed, section, options), section.mpp)


def _enlarge(layer: Array, shape: tuple[int, int], ratio: float) -> Array:
    """Resample to a finer raster (h, w) whose pixel is `ratio` times the layer's, bilinear; edges stay aligned."""
    from PIL import Image

    height, width = shape
    layer = np.pad(layer, ((0, 2), (0, 2)), mode="edge")
    image = Image.fromarray(layer).resize(
        (width, height), Image.Resampling.BILINEAR, box=(0, 0, width * ratio, height * ratio)
    )
    return np.array(image, dtype=np.float32)


def develop(
    rng: np.random.Generator,
    haematoxylin: Array,
    eosin: Array,
    stain: tuple[Array, Array, float],
    mpp: float,
) -> Array:
    """Turn two layers of stain (h, w), optical density, into pixels: blur, transmission, sensor noise.

    Works in strips, so that no float copy of the three channels is ever whole. Both layers are blurred in place.
    """
    from scipy.ndimage import gaussian_filter

    vectors, strength, glass = stain
    sigma = max(0.28 / mpp, 0.35)
    stained = _stained(haematoxylin, eosin, margin=int(2.5 * sigma + 0.5) + 1)
    for layer in (haematoxylin, eosin):
        gaussian_filter(layer[stained], sigma, output=layer[stained], truncate=2.5)
    height, width = haematoxylin.shape
    white = np.array([glass, glass - 1.0, glass + 1.0], dtype=np.float32)
    noise = rng.normal(0, 2.0, (_STRIP, 2 * 1024)).astype(np.float32)
    picture = np.empty((height, width, 3), dtype=np.uint8)
    mix = (vectors * strength[:, None]).astype(np.float32)
    for top in range(0, height, _STRIP):
        grain = np.tile(np.roll(noise, int(rng.integers(0, 2048)), axis=1), (1, width // 2048 + 1))[:, :width]
        grains = [np.roll(grain, 37 * channel, axis=1) for channel in range(3)]
        for first in range(top, min(top + _STRIP, height), _BLOCK):
            rows = slice(first, min(first + _BLOCK, top + _STRIP, height))
            for channel in range(3):
                light = haematoxylin[rows] * mix[0, channel]
                light += eosin[rows] * mix[1, channel]
                np.exp(np.negative(light, out=light), out=light)
                light *= white[channel]
                light += grains[channel][first - top : rows.stop - top]
                light += np.float32(0.5)
                picture[rows, :, channel] = np.clip(light, 0, 255, out=light)
    return picture


def _stained(haematoxylin: Array, eosin: Array, margin: int) -> tuple[slice, slice]:
    """Return the smallest rectangle that holds all stain, with a margin; nothing else can change under a blur."""
    spans = []
    for axis, size in ((1, haematoxylin.shape[0]), (0, haematoxylin.shape[1])):
        at = np.flatnonzero(haematoxylin.any(axis=axis) | eosin.any(axis=axis))
        spans.append(slice(max(int(at[0]) - margin, 0), min(int(at[-1]) + margin + 1, size)) if len(at) else slice(0))
    return spans[0], spans[1]
