"""HEST's own patches as a source of tiles, checked against tiles of the slide.

``patches/<id>.h5`` (`histoloom.slides.patches`) with barcode (N, 1) bytes; made at 0.5 um/px where the tissue covers at
least 0.15 of the patch. P is 224 in the code and the benchmark, 256 in a tutorial: the array's own shape counts.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.samples.tables import as_text, check_unique, plain_id
from histoloom.slides import PatchSlide, Slide

logger = logging.getLogger(__name__)

PATCH_UM_PER_PX = 0.5
MAX_SHIFT_PX = 2.0
"""How far a patch's centre may lie from its spot's; corners are rounded to whole pixels."""
MAX_GREY_LEVELS = 20.0
"""Mean absolute difference that resampling and JPEG explain."""

_N_COMPARED = 8
_TURNED = 0.75
_REMEDY = "fetch it again, or set 'patches' to ignore."


def check_patches(
    path: Path, slide: Slide, obs_names: pd.Index, places: npt.NDArray[np.float64], mpp: float | None
) -> pd.Index:
    """Check that patches lie on their spots and show what the slide shows there.

    `obs_names`, `places`: spots and their centres (n, 2), column and row, level-0 px. `mpp`: um/px of level 0; None:
    taken from the patches, whose side is 2 x (spot - corner). Ids of the spots that have a patch.
    """
    with PatchSlide(path) as patches:
        at, side = locate_patches(patches, obs_names, places)
        differences = compare_pixels(patches, slide, side)
    if mpp is not None and abs(side * mpp / (patches.patch_px * PATCH_UM_PER_PX) - 1) > 0.05:
        by_patches = patches.patch_px * PATCH_UM_PER_PX / side
        problem = f"patches take {side:.1f} px of the slide, which makes {by_patches:.4f} um/px, not {mpp:.4f}."
        remedy = "correct 'mpp' in the sheet, or set 'patches' to ignore."
        raise InputError(path, problem, remedy, code="patches-scale")
    upright, best = differences[0], min(differences)
    logger.info("%s: %d patches of %.1f level-0 px, %.1f grey levels off the slide", path, len(at), side, upright)
    turned = best < _TURNED * upright
    if upright > MAX_GREY_LEVELS or turned:
        hint = f", by {best:.0f} when turned: they are turned or mirrored" if turned else ": of another image"
        problem = f"patches and slide {slide.path} differ by {upright:.0f} grey levels in the mean{hint}."
        raise InputError(path, problem, _REMEDY, code="patches-pixels")
    return obs_names[at]


def locate_patches(
    patches: PatchSlide, obs_names: pd.Index, places: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], float]:
    """Find the spot of every patch and check that it lies around it.

    `obs_names`, `places`: spots and their centres (n, 2), column and row, level-0 px. Returns the position of each
    patch's spot, (N,), and the side of a patch, level-0 px: twice the median way from corner to spot.
    """
    path, corners = patches.path, patches.corners
    if len(patches.barcodes) != len(corners):
        problem = f"{len(patches.barcodes)} barcodes of {len(corners)} patches."
        raise InputError(path, problem, _REMEDY, code="patches-barcodes")
    obs_ids = pd.Index([plain_id(name) for name in as_text(patches.barcodes)], dtype=object)
    check_unique(obs_ids, path, "patch")
    at = obs_names.get_indexer(obs_ids)
    if (at < 0).any():
        problem = f"{int((at < 0).sum())} patches have no spot in the h5ad, first '{obs_ids[at < 0][0]}'."
        raise InputError(path, problem, _REMEDY, code="patches-spots")
    half, swapped = places[at] - corners, places[at][:, ::-1] - corners
    side = 2 * float(np.median(half))
    off = np.abs(half - side / 2).max(axis=1)
    if side <= 0 or (off > MAX_SHIFT_PX).any():
        exchanged = np.abs(swapped - np.median(swapped)).max() <= MAX_SHIFT_PX
        hint = " With x and y exchanged they fit: the coordinates look swapped." if exchanged else ""
        share = f"{int((off > MAX_SHIFT_PX).sum())} of {len(off)} patches"
        problem = f"{share} are up to {off.max():.0f} px off their spots; coords must be top left corners.{hint}"
        raise InputError(path, problem, _REMEDY, code="patches-place")
    return at, side


def compare_pixels(patches: PatchSlide, slide: Slide, side: float) -> list[float]:
    """Return how far stored patches are from the slide, as they are and turned.

    Mean absolute difference in grey levels over a few patches, for the eight ways to lay a square down; the first is
    the upright one.
    """
    from PIL import Image

    differences, width = [], round(side)
    for index in np.unique(np.linspace(0, len(patches.corners) - 1, _N_COMPARED).astype(int)):
        x, y = np.rint(patches.corners[index]).astype(int)
        if x < 0 or y < 0 or x + width > slide.width or y + width > slide.height:
            continue
        tile = Image.fromarray(np.ascontiguousarray(slide.read(x, y, width, width)))
        small = np.asarray(tile.resize((patches.patch_px,) * 2, Image.Resampling.BOX), np.float64)
        stored = patches.images[index]
        laid = [np.rot90(side_up, k) for side_up in (stored, stored[:, ::-1]) for k in range(4)]
        differences.append([np.abs(small - image).mean() for image in laid])
    return [float(value) for value in np.mean(differences, axis=0)] if differences else [0.0]
