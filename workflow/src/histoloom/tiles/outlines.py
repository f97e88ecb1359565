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
_CELL, _NUCLEUS, _TILE = "#F0E442", "#D55E00", "#FFFFFF"
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
    facts, of_tiles = read_metadata(sample), read_metadata(tiles)
    frame = pd.read_parquet(tiles)
    kept = frame[frame["kept"]]
    rings, cores = largest_outlines(cells), largest_outlines(nuclei)
    count_outlined(cells, list(frame["obs_id"]), rings)
    kept = kept[kept["obs_id"].isin(rings.keys())]
    if kept.empty:
        problem = "keeps no tile of a cell that has an outline."
        raise InputError(tiles, problem, "look at the picture of the tiles.", code="tiles-no-outline")
    shares = {"cell": share_inside(kept, rings), "nucleus": share_inside(kept, cores)}
    logger.info("%s: centres inside their own outline: %s", sample, shares)
    with open_slide(slide) as image:
        side = max(WINDOW_UM / facts["mpp"], 2 * of_tiles["size_level0_px"])
        window = densest_window(kept[["x", "y"]].to_numpy(), image, side)
        _draw(image, kept, rings, cores, of_tiles, window, _title(facts, of_tiles, shares), out)


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


def _title(facts: Mapping[str, Any], of_tiles: Mapping[str, Any], shares: Mapping[str, float]) -> str:
    known = {name: share for name, share in shares.items() if np.isfinite(share)}
    summary = ", ".join(f"{100 * share:.1f} % in its own {name}" for name, share in known.items())
    size = f"tiles of {of_tiles['size_level0_px'] * facts['mpp']:.0f} µm"
    return f"{facts['cohort']} / {facts['sample']}   patient {facts['patient']}\n{size}; tile centre: {summary}"


def _draw(
    slide: Slide,
    kept: pd.DataFrame,
    rings: Rings,
    cores: Rings,
    of_tiles: Mapping[str, Any],
    window: Window,
    title: str,
    out: Path,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    side = float(of_tiles["size_level0_px"])
    inside = kept[window.holds(kept[["x", "y"]].to_numpy())]
    # Tiles that the window shows whole, where there are some.
    whole_tile = Window(window.left + side / 2, window.top + side / 2, max(0.0, window.side - side))
    fitting = inside[whole_tile.holds(inside[["x", "y"]].to_numpy())]
    inside = fitting if len(fitting) else inside
    chosen = inside.iloc[np.unique(np.linspace(0, len(inside) - 1, _EXAMPLES).round().astype(int))]
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
    shown = list(kept["obs_id"][window.holds(kept[["x", "y"]].to_numpy())])
    _add_rings(near, [rings[name] for name in shown], _CELL)
    _add_rings(near, [cores[name] for name in shown if name in cores], _NUCLEUS)
    for x, y in chosen[["x", "y"]].to_numpy(np.float64):
        corner = (x - side / 2, y - side / 2)
        near.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=_TILE, linewidth=1.6))
        near.plot(x, y, "+", color=_TILE, markersize=7, markeredgewidth=1.6)
    _legend(near)
    for axes in (whole, near):
        axes.set_axis_off()
    _show_tiles(below, slide, chosen, rings, cores, of_tiles)
    figure.suptitle(title, fontsize=10)
    figure.savefig(out, format="jpeg", pil_kwargs={"quality": 85, "subsampling": 0})


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


def _add_rings(axes: Any, rings: list[npt.NDArray[np.float64]], colour: str) -> None:
    from matplotlib.collections import LineCollection

    axes.add_collection(LineCollection(rings, colors=colour, linewidths=1.1), autolim=False)


def _legend(axes: Any) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], color=c, lw=2, label=n) for c, n in ((_CELL, "cell"), (_NUCLEUS, "nucleus"))]
    marks.append(Line2D([], [], color=_TILE, lw=2, marker="+", label="tile and its centre"))
    axes.legend(handles=marks, loc="lower right", fontsize=7, facecolor="#666666", labelcolor="white", framealpha=0.9)


def _show_tiles(
    figure: Any, slide: Slide, chosen: pd.DataFrame, rings: Rings, cores: Rings, of_tiles: Mapping[str, Any]
) -> None:
    tiles, side = TileSpec.from_dict(of_tiles["spec"]), float(of_tiles["size_level0_px"])
    centres = chosen[["x", "y"]].to_numpy(np.float64)
    pixels = read_tiles(slide, centres, side, tiles.size_px, pad=tiles.pad)
    panels = np.atleast_1d(figure.subplots(1, _EXAMPLES))
    # Fewer tiles than panels: the others stay empty.
    for axes, tile, name, centre in zip(panels, pixels, chosen["obs_id"], centres, strict=False):
        axes.imshow(tile, extent=(0, side, side, 0), interpolation="antialiased")
        for outlines_of_kind, colour in ((rings, _CELL), (cores, _NUCLEUS)):
            if name in outlines_of_kind:
                _add_rings(axes, [outlines_of_kind[name] - (centre - side / 2)], colour)
        axes.set_title(str(name), fontsize=7)
    for axes in figure.axes:
        axes.set_axis_off()
