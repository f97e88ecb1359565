"""Where spots lie on the slide and how large a pixel is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from histoloom.errors import InputError
from histoloom.limits import PLAUSIBLE_MPP

FloatArray = npt.NDArray[np.float64]
MppSource = Literal["sheet", "alignment", "pitch", "estimated", "embedded"]

MPP_SOURCES: dict[MppSource, str] = {
    "sheet": "sheet",
    "alignment": "alignment",
    "pitch": "array's pitch",
    "estimated": "publisher's estimate",
    "embedded": "slide file",
}
"""Ways to know um/px, the surest first, and their names in sentences."""
MAX_DISAGREEMENT = 0.05
"""Relative difference between two ways to know um/px that stops a section."""

_MAX_RESIDUAL = 0.25
_MIN_SPOTS = 3
_MAX_HEXAGONAL_STRETCH = 0.15


@dataclass(frozen=True)
class Pitch:
    """The array as it lies on the slide.

    `px`: distance of neighbouring spots' centres, level-0 px; `residual`: root mean square distance of the centres from
    the fitted array, as a share of the pitch; `hexagonal`: whether every second array position is empty, as on Visium.
    """

    px: float
    residual: float
    hexagonal: bool


def estimate_pitch(array: npt.ArrayLike, spatial: npt.ArrayLike) -> Pitch | None:
    """Estimate the pitch by regressing centres on array coordinates, which allows any rotation.

    The area of one array cell is the determinant of the fit, so that a pitch that differs slightly in x and y gives the
    geometric mean of both. `array`: (n, 2) array coordinates; `spatial`: (n, 2) centres, level-0 px. None where the
    array coordinates do not span a plane (fewer than three spots, or all in one line).
    """
    grid, centres = np.asarray(array, np.float64), np.asarray(spatial, np.float64)
    design = np.column_stack([grid, np.ones(len(grid))])
    if len(grid) < _MIN_SPOTS or np.linalg.matrix_rank(design - design.mean(axis=0) * [1, 1, 0]) < design.shape[1]:
        return None
    fit, *_ = np.linalg.lstsq(design, centres, rcond=None)
    cell = abs(float(np.linalg.det(fit[:2])))
    if cell == 0:
        return None
    # On a hexagonal array the lines lie sqrt(3)/2 and the positions of a line half a pitch apart.
    lengths = np.linalg.norm(fit[:2], axis=1)
    stretch = float(lengths.max() / lengths.min())
    one_parity = np.unique(grid.sum(axis=1) % 2).size == 1
    hexagonal = bool(one_parity and abs(stretch / np.sqrt(3) - 1) < _MAX_HEXAGONAL_STRETCH)
    # A spot of a hexagonal array takes two array cells and an area of sqrt(3)/2 pitch^2.
    pitch = float(np.sqrt(4 * cell / np.sqrt(3))) if hexagonal else float(np.sqrt(cell))
    off = centres - design @ fit
    return Pitch(pitch, float(np.sqrt((off**2).sum(axis=1).mean())) / pitch, hexagonal)


def check_pitch(pitch: Pitch | None, where: str) -> None:
    """Check that the centres follow the array."""
    if pitch is not None and pitch.residual > _MAX_RESIDUAL:
        size = f"{pitch.residual:.2f} of the pitch of {pitch.px:.1f} px"
        problem = f"pixel positions do not follow the array coordinates: they lie {size} off in the mean."
        remedy = "check that array and pixel columns belong to the same spots."
        raise InputError(where, problem, remedy, code="pitch-residual")


def decide_mpp(
    *,
    sheet: float | None,
    pitch: float | None = None,
    embedded: float | None,
    sheet_decides: bool,
    where: str,
    alignment: float | None = None,
    estimated: float | None = None,
) -> tuple[float, MppSource]:
    """Choose um/px: the sheet's, else the alignment's, the array pitch's, an estimate's, the one in the slide file.

    `sheet`, `pitch`, `embedded`: um/px of level 0 by the sheet, by pitch_um over the pitch in px, and by the slide's
    metadata; None where unknown. `alignment`, `estimated`: um/px by the registration of the slide to an image of known
    pixel size, and as a publisher estimated it. `sheet_decides`: the sheet's value stands even where another disagrees
    by more than 5 % (sheet column ``mpp_decides`` = yes).
    """
    ways = (sheet, alignment, pitch, estimated, embedded)
    known = {name: value for name, value in zip(MPP_SOURCES, ways, strict=True) if value is not None}
    if not known:
        problem = "um per pixel is unknown: neither the sheet's 'mpp' nor the slide file nor an array pitch states it."
        remedy = "fill 'mpp' (or 'pitch_um', where the spots lie on an array)."
        raise InputError(where, problem, remedy, code="mpp-unknown")
    source = next(iter(known))
    chosen = known[source]
    if not PLAUSIBLE_MPP[0] <= chosen <= PLAUSIBLE_MPP[1]:
        limits = f"{PLAUSIBLE_MPP[0]:g} to {PLAUSIBLE_MPP[1]:g}"
        problem = f"{chosen:g} um per pixel ({source}) is none that a slide could have ({limits})."
        remedy = "give level 0's um per pixel (about 0.25 at 40x) in 'mpp', the array's spacing in um in 'pitch_um'."
        raise InputError(where, problem, remedy, code="mpp-implausible")
    for other, value in known.items():
        if abs(value / chosen - 1) > MAX_DISAGREEMENT and not (sheet_decides and source == "sheet"):
            apart = f"{100 * abs(value / chosen - 1):.0f} % apart, more than {100 * MAX_DISAGREEMENT:.0f} %"
            both = f"{chosen:.4g} by the {MPP_SOURCES[source]} but {value:.4g} by the {MPP_SOURCES[other]}"
            remedy = "correct 'mpp' or 'pitch_um', or fill 'mpp' and set 'mpp_decides' to yes if you know it is right."
            raise InputError(where, f"um per pixel is {both}: {apart}.", remedy, code="mpp-disagrees")
    return chosen, source


def grid_of(places: FloatArray, where: str) -> npt.NDArray[np.int64]:
    """Find row and column numbers of places that lie on an axis-parallel square grid.

    `places`: (n, 2) centres, column and row, level-0 px. Returns (n, 2): grid row (counted from the top) and grid
    column (from the left).
    """
    numbers = np.empty(places.shape, np.int64)
    steps = np.concatenate([np.diff(np.unique(np.round(places[:, axis], 1))) for axis in (0, 1)])
    steps = steps[steps > 1]
    step = float(np.median(steps)) if steps.size else 1.0
    for axis in (0, 1):
        at = (places[:, axis] - places[:, axis].min()) / step
        numbers[:, 1 - axis] = np.rint(at)
        if np.abs(at - np.rint(at)).max() > _MAX_RESIDUAL:
            off = f"{np.abs(at - np.rint(at)).max():.2f} of the step of {step:.1f} px"
            problem = f"the places lie on no square grid: they are up to {off} off."
            raise InputError(where, problem, "give array_row and array_col.", code="no-square-grid")
    return numbers


def outside(spatial: FloatArray, width: int, height: int) -> npt.NDArray[np.bool_]:
    """Tell which centres lie outside a slide of `width` x `height` px."""
    inside = (spatial >= 0).all(axis=1) & (spatial[:, 0] < width) & (spatial[:, 1] < height)
    return ~inside


def tissue_share(spatial: FloatArray, mask: npt.NDArray[np.bool_], scale: float) -> float:
    """Return the share of centres that lie on tissue; one outside the mask lies on none.

    `spatial`: (n, 2) centres, level-0 px; `mask`: (h, w) tissue of the thumbnail; `scale`: thumbnail px per level-0 px.
    """
    at = np.floor(spatial * scale).astype(np.int64)
    inside = (at >= 0).all(axis=1) & (at[:, 0] < mask.shape[1]) & (at[:, 1] < mask.shape[0])
    return float(mask[at[inside, 1], at[inside, 0]].sum() / max(1, len(at)))


def tissue_mask(thumbnail: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return where a thumbnail (h, w, 3) shows tissue: smoothed saturation above Otsu's threshold.

    Coarse on purpose: it only has to tell a section from the same section turned over.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu

    pixels = thumbnail.astype(np.float32)
    top = pixels.max(axis=2)
    saturation = (top - pixels.min(axis=2)) / np.maximum(top, 1)
    smooth = gaussian_filter(saturation, max(1.0, max(thumbnail.shape) / 200))
    if np.ptp(smooth) == 0:
        return np.zeros(smooth.shape, bool)
    return smooth > threshold_otsu(smooth)
