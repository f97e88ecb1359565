"""The picture of a section: what was read, on the slide it was read for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histoloom.artefacts import KEY
from histoloom.samples.geometry import MPP_SOURCES

if TYPE_CHECKING:
    from anndata import AnnData

_SIDE_IN = 6.0
_DPI = 100
_BAR_SHARE = 0.25
_NICE = (1, 2, 5)
_MANY = 20_000
"""Above this many observations each is smaller than a pixel of the picture: their mean per pixel is drawn."""


def draw_section(section: AnnData, out: Path, dropped_places: np.ndarray | None = None) -> None:
    """Draw a section's slide and its observations, coloured by depth.

    `dropped_places`: (k, 2) places without counts, level-0 px.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    metadata = json.loads(section.uns[KEY])
    entry = section.uns["spatial"][metadata["sample"]]
    image, scale = entry["images"]["hires"], entry["scalefactors"]["tissue_hires_scalef"]
    height, width = image.shape[:2]
    panel = (_SIDE_IN * min(1.0, width / height), _SIDE_IN * min(1.0, height / width))
    # Places are set by hand and the image is reduced beforehand: a layout engine draws the figure twice, and matplotlib
    # resamples images slowly.
    size = (2 * panel[0] + 1.3, panel[1] + 0.8)
    figure = Figure(figsize=size, dpi=_DPI)
    FigureCanvasAgg(figure)
    pixels = (round(panel[0] * _DPI), round(panel[1] * _DPI))
    reduced = Image.fromarray(image).resize(pixels, Image.Resampling.BOX) if pixels[0] < width else image
    lefts = (0.1, panel[0] + 0.2)
    bottom, wide, high = 0.1 / size[1], panel[0] / size[0], panel[1] / size[1]
    slide, spots = (figure.add_axes((x / size[0], bottom, wide, high)) for x in lefts)
    for axes in (slide, spots):
        axes.imshow(reduced, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
        axes.set_axis_off()
        axes.autoscale(False)
    _draw_scale_bar(slide, width, height, metadata["mpp"] / scale)
    _draw_spots(figure, spots, section, metadata, scale, np.empty((0, 2)) if dropped_places is None else dropped_places)
    figure.suptitle(_title(section, metadata), fontsize=10)
    figure.savefig(out, format="jpeg", pil_kwargs={"quality": 60, "optimize": True, "progressive": True})


def _draw_spots(
    figure: Any, axes: Any, section: AnnData, metadata: dict[str, Any], scale: float, dropped_places: np.ndarray
) -> None:
    from matplotlib.lines import Line2D

    centres, box = np.asarray(section.obsm["spatial"]) * scale, axes.get_position()
    # Markers are measured in points.
    points_per_px = 72 * box.width * figure.get_figwidth() / np.ptp(axes.get_xlim())
    size = (metadata["spot_diameter_um"] / metadata["mpp"] * scale * points_per_px) ** 2
    if section.n_vars == 0:
        axes.scatter(*centres.T, size, marker="s", facecolors="none", edgecolors="#1f4e9c", linewidths=0.3)
        return
    in_tissue, counts = section.obs["in_tissue"].to_numpy(), section.obs["n_counts"].to_numpy()
    seen = in_tissue & (counts > 0)
    depth = np.log10(counts[seen])
    if len(centres) > _MANY:
        shown = _draw_means(axes, centres[seen], depth)
    else:
        shown = axes.scatter(*centres[seen].T, size, c=depth, cmap="viridis", linewidths=0)
    cax = figure.add_axes((box.x1 + 0.01, box.y0 + 0.15 * box.height, 0.015, 0.7 * box.height))
    bar = figure.colorbar(shown, cax=cax)
    bar.set_label(f"UMI per {metadata.get('unit', 'spot')}, log10", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    marks = []
    for places, colour, name in (
        (centres[in_tissue & (counts == 0)], "#d62728", "no UMI, kept"),
        (centres[~in_tissue], "#7f7f7f", "not in tissue"),
        (dropped_places * scale, "#ff7f0e", "no row in the counts, dropped"),
    ):
        if len(places):
            axes.scatter(*places.T, size, facecolors="none", edgecolors=colour, linewidths=1.2)
            label = f"{name}: {len(places)}"
            marks.append(Line2D([], [], marker="o", ls="", mfc="none", mec=colour, mew=1.2, label=label))
    if marks:
        axes.legend(handles=marks, loc="lower right", fontsize=7, framealpha=0.9)


def _draw_means(axes: Any, centres: np.ndarray, values: np.ndarray) -> Any:
    """Draw the mean of the values in squares of a few pixels of the thumbnail; empty ones are transparent."""
    from scipy.stats import binned_statistic_2d

    x0, x1 = axes.get_xlim()
    y0, y1 = sorted(axes.get_ylim())
    bins = (int(y1 - y0) // 4, int(x1 - x0) // 4)
    mean = binned_statistic_2d(centres[:, 1], centres[:, 0], values, "mean", bins, [[y0, y1], [x0, x1]]).statistic
    return axes.imshow(mean, cmap="viridis", extent=(x0, x1, y1, y0), interpolation="nearest")


def _draw_scale_bar(axes: Any, width: int, height: int, um_per_px: float) -> None:
    wanted = _BAR_SHARE * width * um_per_px
    step = 10.0 ** np.floor(np.log10(wanted))
    length = max(n * step for n in _NICE if n * step <= wanted)
    x, y = 0.04 * width, 0.96 * height
    axes.plot([x, x + length / um_per_px], [y, y], color="black", lw=3, solid_capstyle="butt")
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    axes.text(x + length / um_per_px / 2, y - 0.012 * height, text, ha="center", va="bottom", fontsize=8)


def _title(section: AnnData, metadata: dict[str, Any]) -> str:
    qc_flag = f"  [{metadata['qc_flag']}]" if metadata["qc_flag"] else ""
    first = f"{metadata['cohort']} / {metadata['sample']}   patient {metadata['patient']}{qc_flag}"
    pixels = f"{metadata['slide_width']} x {metadata['slide_height']} px"
    size = f"{pixels} at {metadata['mpp']:.3f} µm/px (by the {MPP_SOURCES[metadata['mpp_source']]})"
    if section.n_vars == 0:
        return f"{first}\n{size}, {section.n_obs:,} places, no expression"
    depth = np.median(section.obs["n_counts"].to_numpy()[section.obs["in_tissue"].to_numpy()])
    units = f"{metadata.get('unit', 'spot')}s"
    return f"{first}\n{size}, {metadata['n_in_tissue']:,} {units} in tissue, median {depth:,.0f} UMI"
