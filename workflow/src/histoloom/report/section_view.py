"""A section's picture with values of its observations on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histoloom.artefacts import read_elements
from histoloom.errors import InputError
from histoloom.report.style import SEQUENTIAL
from histoloom.samples.section import open_section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle


@dataclass(frozen=True)
class SectionView:
    """The picture of a section, image (h, w, 3) uint8, and squares on it: centres `xy` (n, 2) and `side`, level-0 px.

    `scale` is px of the image per level-0 px; `um_per_px` of the image is None where the slide's mpp is not known.
    """

    image: np.ndarray
    scale: float
    um_per_px: float | None
    xy: np.ndarray
    side: float

    @property
    def frame(self) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of what is shown, px of the image: the squares and a margin."""
        low, high = self.xy.min(axis=0) * self.scale, self.xy.max(axis=0) * self.scale
        margin = 0.06 * float((high - low).max()) + self.side * self.scale
        left, top = np.maximum(low - margin, 0)
        right, bottom = np.minimum(high + margin, (self.image.shape[1], self.image.shape[0]))
        return float(left), float(right), float(top), float(bottom)

    @property
    def aspect(self) -> float:
        left, right, top, bottom = self.frame
        return (bottom - top) / (right - left)

    def crop(self, ax: Axes) -> None:
        """Show only the frame, y downwards."""
        left, right, top, bottom = self.frame
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)

    def show(self, ax: Axes, values: np.ndarray, limits: tuple[float, float]) -> Any:
        """Draw values (n,) as squares over the picture, and return them for a colour bar."""
        from matplotlib.collections import PatchCollection

        grey = self.image[..., :3].mean(axis=2)
        # A pale picture: tissue is seen, colours stay readable.
        ax.imshow(255 - 0.5 * (255 - grey), cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
        drawn = PatchCollection(
            self._squares(self.xy), cmap=SEQUENTIAL, alpha=0.85, linewidth=0, array=values, clim=limits
        )
        ax.add_collection(drawn)
        ax.set_aspect("equal")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        self.crop(ax)
        return drawn

    def outline(self, ax: Axes, chosen: np.ndarray) -> None:
        """Draw the outlines of some squares, (n,) bool, in red."""
        from matplotlib.collections import PatchCollection

        ax.add_collection(PatchCollection(self._squares(self.xy[chosen]), fc="none", ec="#D00000", linewidth=0.5))

    def _squares(self, xy: np.ndarray) -> list[Rectangle]:
        from matplotlib.patches import Rectangle

        side = self.side * self.scale
        return [Rectangle((x - side / 2, y - side / 2), side, side) for x, y in xy * self.scale]

    def scale_bar(self, ax: Axes) -> None:
        """Draw a bar at the lower left, where the scale is known: of 1 mm, or of 100 um in a small section."""
        if not self.um_per_px:
            return
        left, right, top, bottom = self.frame
        um = 1000 if 2000 / self.um_per_px <= right - left else 100
        length, x = um / self.um_per_px, left + 0.03 * (right - left)
        y = bottom - 0.03 * (bottom - top)
        ax.plot([x, x + length], [y, y], color="black", linewidth=2, solid_capstyle="butt")
        text = "1 mm" if um == 1000 else "100 µm"
        ax.text(x + length / 2, y - 0.015 * (bottom - top), text, ha="center", va="bottom", fontsize=7,
                bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5})  # fmt: skip


def view_section(path: Path, xy: np.ndarray, side: float | None = None) -> SectionView:
    """Read the picture that lies in a section's artefact; side None: squares that nearly touch their neighbours."""
    from scipy.spatial import cKDTree

    section = open_section(path)
    image, key = section.picture("hires"), f"uns/spatial/{section.sample}/scalefactors/tissue_hires_scalef"
    if image is None:
        problem = "holds no picture of the section."
        raise InputError(path, problem, "remove it, so that it is made anew.", code="report-no-picture")
    scale, mpp = float(read_elements(path, [key])[key]), section.metadata.get("mpp")
    if side is None:
        side = 0.9 * float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1])) if len(xy) > 1 else 200.0
    return SectionView(image, scale, float(mpp) / scale if mpp else None, xy, side)


def find_section(samples: Sequence[Path], cohort: str, sample: str) -> Path:
    """Return the artefact of a section among several."""
    for path in samples:
        section = open_section(path)
        if (section.cohort, section.sample) == (cohort, sample):
            return path
    problem = "its section artefact is not among those given."
    raise InputError(f"{cohort}/{sample}", problem, "give the sections that were predicted.", code="report-no-section")
