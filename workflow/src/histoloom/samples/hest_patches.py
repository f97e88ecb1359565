"""HEST's own patches as a source of tiles, checked against tiles of the slide.

``patches/<id>.h5``: img (N, P, P, 3) uint8 RGB, coords (N, 2) = top left corner in level-0 px, barcode (N, 1) bytes;
made at 0.5 um/px where the tissue covers at least 0.15 of the patch. P is 224 in the code and the benchmark, 256 in a
tutorial: the array's own shape counts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.samples.tables import check_unique, plain_id
from histoloom.slides import Slide, UInt8

logger = logging.getLogger(__name__)

PATCH_UM_PER_PX = 0.5
MAX_SHIFT_PX = 2.0
"""How far a patch's centre may lie from its spot's; corners are rounded to whole pixels."""
MAX_GREY_LEVELS = 20.0
"""Mean absolute difference that resampling and JPEG explain."""

_N_COMPARED = 8
_TURNED = 0.75
_REMEDY = "fetch it again, or set 'patches' to ignore."


@dataclass(frozen=True)
class Patches:
    """Published patches.

    `corners`: (n, 2) top left corners, level-0 px; `obs_ids`: (n,) ids of their spots; `size_px`: side of the stored
    images, px.
    """

    corners: npt.NDArray[np.float64]
    obs_ids: pd.Index
    size_px: int


def read_patches(path: Path) -> Patches:
    """Read where patches lie, without their pixels."""
    import h5py

    if not path.is_file():
        raise InputError(path, "the patches are missing.", _REMEDY, code="patches-missing")
    try:
        with h5py.File(path, "r") as handle:
            missing = [name for name in ("img", "coords", "barcode") if name not in handle]
            if missing:
                raise InputError(path, f"no dataset {', '.join(missing)}.", _REMEDY, code="patches-dataset")
            shape, coords = handle["img"].shape, np.asarray(handle["coords"], np.float64)
            raw = np.ravel(handle["barcode"][()])
    except OSError as error:
        raise InputError(path, f"no readable h5 ({error}).", _REMEDY, code="patches-unreadable") from error
    square = len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3
    if not square or coords.shape != (shape[0], 2) or len(raw) != shape[0]:
        problem = f"img {shape}, coords {coords.shape}, {len(raw)} barcodes: (N, P, P, 3), (N, 2), N expected."
        raise InputError(path, problem, _REMEDY, code="patches-shape")
    names = [plain_id(v.decode() if isinstance(v, bytes) else str(v)) for v in raw]
    obs_ids = pd.Index(names, dtype=object)
    check_unique(obs_ids, path, "patch")
    return Patches(coords, obs_ids, int(shape[1]))


def check_patches(
    path: Path, slide: Slide, obs_names: pd.Index, places: npt.NDArray[np.float64], mpp: float | None
) -> pd.Index:
    """Check that patches lie on their spots and show what the slide shows there.

    `obs_names`, `places`: spots and their centres (n, 2), column and row, level-0 px. `mpp`: um/px of level 0; None:
    taken from the patches, whose side is 2 x (spot - corner). Ids of the spots that have a patch.
    """
    patches, _, side = locate_patches(path, obs_names, places)
    if mpp is not None and abs(side * mpp / (patches.size_px * PATCH_UM_PER_PX) - 1) > 0.05:
        by_patches = patches.size_px * PATCH_UM_PER_PX / side
        problem = f"patches take {side:.1f} px of the slide, which makes {by_patches:.4f} um/px, not {mpp:.4f}."
        remedy = "correct 'mpp' in the sheet, or set 'patches' to ignore."
        raise InputError(path, problem, remedy, code="patches-scale")
    differences = compare_pixels(path, patches, slide, side)
    upright, best = differences[0], min(differences)
    logger.info(
        "%s: %d patches of %.1f level-0 px, %.1f grey levels off the slide", path, len(patches.obs_ids), side, upright
    )
    turned = best < _TURNED * upright
    if upright > MAX_GREY_LEVELS or turned:
        hint = f", by {best:.0f} when turned: they are turned or mirrored" if turned else ": of another image"
        problem = f"patches and slide {slide.path} differ by {upright:.0f} grey levels in the mean{hint}."
        raise InputError(path, problem, _REMEDY, code="patches-place")
    return patches.obs_ids


def locate_patches(
    path: Path, obs_names: pd.Index, places: npt.NDArray[np.float64]
) -> tuple[Patches, npt.NDArray[np.int64], float]:
    """Find the spot of every patch and check that it lies around it.

    `obs_names`, `places`: spots and their centres (n, 2), column and row, level-0 px. Returns `patches`: where they
    lie; `at`: (len(patches),) position of each patch's spot; `side`: side of a patch, level-0 px: twice the median way
    from corner to spot.
    """
    patches = read_patches(path)
    at = obs_names.get_indexer(patches.obs_ids)
    if (at < 0).any():
        problem = f"{int((at < 0).sum())} patches have no spot in the h5ad, first '{patches.obs_ids[at < 0][0]}'."
        raise InputError(path, problem, _REMEDY, code="patches-spots")
    half = places[at] - patches.corners
    side = 2 * float(np.median(half))
    _check_places(path, half, side, (places[at][:, ::-1] - patches.corners))
    return patches, at, side


def _check_places(path: Path, half: npt.NDArray[np.float64], side: float, swapped: npt.NDArray[np.float64]) -> None:
    off = np.abs(half - side / 2).max(axis=1)
    if side > 0 and (off <= MAX_SHIFT_PX).all():
        return
    exchanged = np.abs(swapped - np.median(swapped)).max() <= MAX_SHIFT_PX
    hint = " With x and y exchanged they fit: the coordinates look swapped." if exchanged else ""
    share = f"{int((off > MAX_SHIFT_PX).sum())} of {len(off)} patches"
    problem = f"{share} are up to {off.max():.0f} px off their spots; coords must be top left corners.{hint}"
    raise InputError(path, problem, _REMEDY, code="patches-pixels")


def compare_pixels(path: Path, patches: Patches, slide: Slide, side: float) -> list[float]:
    """Return how far stored patches are from the slide, as they are and turned.

    Mean absolute difference in grey levels over a few patches, for the eight ways to lay a square down; the first is
    the upright one.
    """
    import h5py
    from PIL import Image

    chosen = np.unique(np.linspace(0, len(patches.corners) - 1, _N_COMPARED).astype(int))
    differences = []
    with h5py.File(path, "r") as handle:
        for index in chosen:
            x, y = np.rint(patches.corners[index]).astype(int)
            width = round(side)
            if x < 0 or y < 0 or x + width > slide.width or y + width > slide.height:
                continue
            tile: UInt8 = np.ascontiguousarray(slide.read(int(x), int(y), width, width))
            small = np.asarray(Image.fromarray(tile).resize((patches.size_px,) * 2, Image.Resampling.BOX), np.float64)
            stored = handle["img"][index]
            laid = [np.rot90(side_up, k) for side_up in (stored, stored[:, ::-1]) for k in range(4)]
            differences.append([np.abs(small - image).mean() for image in laid])
    return [float(value) for value in np.mean(differences, axis=0)] if differences else [0.0]
