"""How figures look: a palette that colour-blind readers can tell apart, one way to save, the same bytes every time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F")
"""Okabe and Ito's colours, black replaced by grey."""
HATCHES = ("", "///", "...", "xxx", "\\\\\\")
SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"
DPI = 150
_RC: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "histoloom",
}


def colour(index: int) -> dict[str, Any]:
    """Return the face of the index-th model: a colour, and beyond the palette a hatch."""
    return {"facecolor": PALETTE[index % len(PALETTE)], "hatch": HATCHES[(index // len(PALETTE)) % len(HATCHES)]}


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of a size in inches, drawn without a display and without global state."""
    import matplotlib
    from matplotlib.figure import Figure as NewFigure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # A user's matplotlibrc must not change a figure's bytes.
        warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)
        matplotlib.rcdefaults()
        for name, value in _RC.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        yield NewFigure(figsize=(width, height), layout="constrained")


def save(fig: Figure, out: Path, *, photograph: bool = False) -> None:
    """Write a png without a writer's name or date; photographs with 256 colours, at a third of their size."""
    if not photograph:
        fig.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    fig.set_dpi(DPI)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(256, dither=Image.Dither.NONE).save(
        out, format="png", optimize=True
    )


def jitter(n: int, width: float) -> np.ndarray:
    """Return n offsets spread evenly over a width around zero: points stay apart and stay where they are."""
    return np.zeros(1) if n == 1 else np.linspace(-width / 2, width / 2, n)


def note(ax: Axes, text: str) -> None:
    """Write what there is to say where nothing could be drawn."""
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color="#555555", wrap=True)
    ax.set_axis_off()


def short_names(names: Sequence[str], most: int = 22) -> list[str]:
    """Return names cut to a length, with an ellipsis."""
    return [name if len(name) <= most else name[: most - 1] + "…" for name in names]


def show_map(
    ax: Axes, background: Any, scale: float, xy: np.ndarray, values: np.ndarray, size_px: float, limits: Any
) -> Any:
    """Draw values (n,) of observations as squares over a thumbnail (h, w, 3), and return them for a colour bar.

    `xy` (n, 2) are centres and `size_px` the side of a square, level-0 px; `scale` is thumbnail px per level-0 px.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    side = size_px * scale
    if background is not None:
        grey = np.asarray(background)[..., :3].mean(axis=2)
        # A pale picture: tissue is seen, colours stay readable.
        ax.imshow(255 - 0.5 * (255 - grey), cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    squares = [Rectangle((x * scale - side / 2, y * scale - side / 2), side, side) for x, y in xy]
    drawn = PatchCollection(squares, cmap=SEQUENTIAL, alpha=0.85, linewidth=0)
    drawn.set_array(values)
    drawn.set_clim(*limits)
    ax.add_collection(drawn)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return drawn


def side_of(xy: np.ndarray) -> float:
    """Return the side of a square that nearly touches its neighbours, in the units of the centres (n, 2)."""
    from scipy.spatial import cKDTree

    return 0.9 * float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1])) if len(xy) > 1 else 200.0


def frame_of(xy: np.ndarray, side: float, image: np.ndarray, scale: float) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom of what a map shows, thumbnail px: the observations and a margin.

    Parameters are those of `show_map`; the frame stays inside the image.
    """
    low, high = xy.min(axis=0) * scale, xy.max(axis=0) * scale
    margin = 0.06 * float((high - low).max()) + side * scale
    left, top = np.maximum(low - margin, 0)
    right, bottom = np.minimum(high + margin, (image.shape[1], image.shape[0]))
    return float(left), float(right), float(top), float(bottom)


def crop(ax: Axes, frame: tuple[float, float, float, float]) -> None:
    """Show only a frame (from `frame_of`), y downwards."""
    left, right, top, bottom = frame
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)


def scale_bar(ax: Axes, um: float, um_per_px: float) -> None:
    """Draw a bar of a length in um at the lower left; `um_per_px` is of the axes' own pixels."""
    length = um / um_per_px
    (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    x, y = left + 0.03 * (right - left), top - 0.03 * (top - bottom)
    ax.plot([x, x + length], [y, y], color="black", linewidth=2, solid_capstyle="butt")
    text = f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"
    ax.text(
        x + length / 2,
        y - 0.015 * (top - bottom),
        text,
        ha="center",
        va="bottom",
        fontsize=7,
        bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5},
    )
