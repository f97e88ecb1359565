"""How figures look: a palette that colour-blind readers can tell apart, one way to save, the same bytes every time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F")
"""Okabe and Ito's colours, black replaced by grey."""
HATCHES = ("", "///", "...", "xxx", "\\\\\\")
SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"
DPI, PHOTOGRAPH_DPI = 150, 115
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


def save(fig: Figure, out: Path) -> None:
    """Write a figure as png, or as jpg where it shows tissue."""
    from PIL import Image as pillow

    photograph, buffer = out.suffix == ".jpg", io.BytesIO()
    fig.savefig(buffer, format="png", dpi=PHOTOGRAPH_DPI if photograph else DPI)
    with out.open("wb") as handle:
        write_picture(pillow.open(buffer).convert("RGB"), handle, photograph=photograph)


def write_picture(image: Image.Image, out: IO[bytes], *, photograph: bool) -> None:
    """Write a picture small and without a writer's name or date: a report holds dozens of them."""
    from PIL import Image as pillow

    if photograph:
        image.save(out, format="jpeg", quality=60, optimize=True, progressive=True)
    else:
        # The method with the smallest largest error: rare colours (a point, the end of a scale) stay what they are.
        palette = image.quantize(256, method=pillow.Quantize.MAXCOVERAGE, dither=pillow.Dither.NONE)
        palette.save(out, format="png", optimize=True)


@contextmanager
def drawing(out: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a `figure` that is saved at the end of its block."""
    with figure(width, height) as fig:
        yield fig
        save(fig, out)


def heading(fig: Figure, text: str, size: float = 9.5) -> None:
    """Write a figure's title at its upper left."""
    fig.suptitle(text, x=0.01, ha="left", fontsize=size)


def grid(ax: Axes, axis: Literal["x", "y"]) -> None:
    """Draw pale lines behind everything."""
    ax.grid(axis=axis, color="#E6E6E6", lw=0.6)
    ax.set_axisbelow(True)


def legend(fig: Figure, axes: Iterable[Axes], **options: Any) -> None:
    """Name each label of some axes once."""
    named = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(named.values(), named.keys(), **{"frameon": False, **options})


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
