"""A picture that says whether cells, their outlines, their tiles and the pixels belong together.

The whole section with a window, the window with outlines and a few tiles, and tiles as an encoder sees them with the
outlines laid over them. A wrong alignment shows at once: nuclei lie next to their outlines.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.samples.polygons import count_outlined, largest_outlines
from histoloom.slides import Slide, open_slide
from histoloom.tiles.reading import read_tiles
from histoloom.tiles.spec import TileSpec

logger = logging.getLogger(__name__)

WINDOW_UM = 120.0
"""Least side of the window, um: some ten cells across."""
_EXAMPLES, _CHECKED, _CANDIDATES = 6, 5000, 2000
_OVERVIEW_PX, _WINDOW_PX, _DPI = 900, 1600, 130
_COLOURS, _TILE = {"cell": "#F0E442", "nucleus": "#D55E00"}, "#FFFFFF"
Rings = Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Window:
    """A square of the slide, level-0 px."""

    left: float
    top: float
    side: float

    def holds(self, places: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Tell which places (n, 2) lie inside."""
        low = np.array([self.left, self.top])
        within = np.asarray((places >= low) & (places < low + self.side))
        return np.asarray(within[:, 0] & within[:, 1])


def draw_outlines(*, sample: Path, slide: Path, tiles: Path, cells: Path, nuclei: Path, out: Path) -> None:
    """Draw tiles on the outlines of a section's cells and nuclei.

    `cells`, `nuclei`: its outlines (`histoloom.samples.polygons`).
    """
    facts, of_tiles, frame = read_metadata(sample), read_metadata(tiles), pd.read_parquet(tiles)
    outlines = {"cell": largest_outlines(cells), "nucleus": largest_outlines(nuclei)}
    count_outlined(cells, list(frame["obs_id"]), outlines["cell"])
    kept = frame[frame["kept"] & frame["obs_id"].isin(outlines["cell"].keys())]
    if kept.empty:
        problem = "keeps no tile of a cell that has an outline."
        raise InputError(tiles, problem, "look at the picture of the tiles.", code="tiles-no-outline")
    shares = {kind: share_inside(kept, rings) for kind, rings in outlines.items()}
    logger.info("%s: centres inside their own outline: %s", sample, shares)
    with open_slide(slide) as image:
        side = max(WINDOW_UM / facts["mpp"], 2 * of_tiles["size_level0_px"])
        figure = _draw(image, kept, outlines, of_tiles, densest_window(kept[["x", "y"]].to_numpy(), image, side))
    known = [f"{100 * share:.1f} % in its own {kind}" for kind, share in shares.items() if np.isfinite(share)]
    size = f"tiles of {of_tiles['size_level0_px'] * facts['mpp']:.0f} µm; tile centre: {', '.join(known)}"
    title = f"{facts['cohort']} / {facts['sample']}   patient {facts['patient']}\n{size}"
    figure.suptitle(title, fontsize=10)
    figure.savefig(out, format="jpeg", pil_kwargs={"quality": 85, "subsampling": 0})


def share_inside(frame: pd.DataFrame, rings: Rings) -> float:
    """Return the share of tile centres that lie inside their own cell's outline; of those that have one.

    `rings`: closed outlines by cell, (k, 2). 0 to 1; NaN where no cell has an outline.
    """
    known = frame[frame["obs_id"].isin(rings.keys())]
    known = known.iloc[:: max(1, len(known) // _CHECKED)]
    outlines = np.array([shapely.Polygon(rings[name]) for name in known["obs_id"]], dtype=object)
    inside = shapely.contains_xy(outlines, known["x"], known["y"])
    return float(np.mean(inside)) if len(known) else float("nan")


def densest_window(places: npt.NDArray[np.float64], slide: Slide, side: float) -> Window:
    """Return the window around the place that has most others near it, moved to lie on the slide."""
    from scipy.spatial import cKDTree

    side = min(side, float(slide.width), float(slide.height))
    candidates = places[:: max(1, len(places) // _CANDIDATES)]
    near = cKDTree(places).query_ball_point(candidates, side / 2, p=np.inf, return_length=True)
    corner = candidates[int(np.argmax(near))] - side / 2
    left, top = np.clip(corner, 0, [slide.width - side, slide.height - side])
    return Window(float(left), float(top), float(side))


def _draw(
    slide: Slide, kept: pd.DataFrame, outlines: Mapping[str, Rings], of_tiles: Mapping[str, Any], window: Window
) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    side, centres = float(of_tiles["size_level0_px"]), kept[["x", "y"]].to_numpy(np.float64)
    inside = window.holds(centres)
    # Tiles that the window shows whole, where there are some.
    whole_tile = Window(window.left + side / 2, window.top + side / 2, max(0.0, window.side - side)).holds(centres)
    rows = np.flatnonzero(whole_tile if whole_tile.any() else inside)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _EXAMPLES).round().astype(int))]
    figure = Figure(figsize=(11, 8), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 1, height_ratios=[3, 1])
    above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    whole, near = above.subplots(1, 2)
    extent = (0, slide.width, slide.height, 0)
    whole.imshow(slide.thumbnail(_OVERVIEW_PX), extent=extent, interpolation="antialiased")
    box = Rectangle((window.left, window.top), window.side, window.side, fill=False, edgecolor="black", linewidth=1.5)
    whole.add_patch(box)
    whole.set_title(f"{len(kept):,} kept cells; the box is shown on the right", fontsize=9)
    _show_window(near, slide, window)
    for kind, rings in outlines.items():
        _add_rings(near, [rings[name] for name in kept["obs_id"][inside] if name in rings], kind)
    for x, y in centres[rows]:
        near.add_patch(Rectangle((x - side / 2, y - side / 2), side, side, fill=False, edgecolor=_TILE, linewidth=1.6))
    near.plot(*centres[rows].T, "+", color=_TILE, markersize=7, markeredgewidth=1.6, label="tile and its centre")
    near.legend(loc="lower right", fontsize=7, facecolor="#666666", labelcolor="white", framealpha=0.9)
    tiles = TileSpec.from_dict(of_tiles["spec"])
    pixels = read_tiles(slide, centres[rows], side, tiles.size_px, pad=tiles.pad)
    # Fewer tiles than panels: the others stay empty.
    panels = zip(below.subplots(1, _EXAMPLES), pixels, kept["obs_id"].iloc[rows], centres[rows], strict=False)
    for axes, tile, name, centre in panels:
        axes.imshow(tile, extent=(0, side, side, 0), interpolation="antialiased")
        for kind, rings in outlines.items():
            _add_rings(axes, [rings[name] - (centre - side / 2)] if name in rings else [], kind)
        axes.set_title(str(name), fontsize=7)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


def _show_window(axes: Any, slide: Slide, window: Window) -> None:
    """Show the slide's pixels of a window in level-0 px."""
    from PIL import Image

    left, top = int(window.left), int(window.top)
    right = min(slide.width, int(np.ceil(window.left + window.side)))
    bottom = min(slide.height, int(np.ceil(window.top + window.side)))
    pixels = Image.fromarray(np.ascontiguousarray(slide.read(left, top, right - left, bottom - top)))
    pixels.thumbnail((_WINDOW_PX, _WINDOW_PX))
    axes.imshow(np.asarray(pixels), extent=(left, right, bottom, top), interpolation="antialiased")
    axes.set_xlim(window.left, window.left + window.side)
    axes.set_ylim(window.top + window.side, window.top)


def _add_rings(axes: Any, rings: list[npt.NDArray[np.float64]], kind: str) -> None:
    from matplotlib.collections import LineCollection

    lines = LineCollection(rings, colors=_COLOURS[kind], linewidths=1.1, label=kind)
    axes.add_collection(lines, autolim=False)
