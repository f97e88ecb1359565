"""A small picture of a view, for the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histoloom.report.style import PHOTOGRAPH_DPI, SEQUENTIAL, drawing, note
from histoloom.viewer.view import View

WIDTH_PX = 640


def draw_thumbnail(view: View, out: Path) -> None:
    """Draw the slide and the type that varies most next to each other."""
    name = "prediction" if "prediction" in view.layers else "labels"
    values = view.layers[name]
    best = int(np.nan_to_num(np.nanstd(values, axis=0)).argmax())
    low, high = view.xy.min(axis=0), view.xy.max(axis=0)
    (width, height), margin = np.maximum(high - low, 1), view.side
    with drawing(out, WIDTH_PX / PHOTOGRAPH_DPI, WIDTH_PX / PHOTOGRAPH_DPI / 2 * min(height / width, 1.5) + 0.3) as fig:
        for ax, title in zip(fig.subplots(1, 2), ("H&E", f"{view.types[best]}, {name}"), strict=True):
            if view.picture is not None:
                size = [s / view.scale for s in view.picture.shape[1::-1]]
                ax.imshow(view.picture[..., :3], extent=(0, size[0], size[1], 0), interpolation="bilinear")
            elif title == "H&E":
                note(ax, "no picture of\nthis section")
            if title != "H&E":
                known = values[:, best][np.isfinite(values[:, best])]
                limit = float(np.quantile(known, 0.99)) if len(known) else 1.0
                points = 72 * WIDTH_PX / PHOTOGRAPH_DPI / 2 * view.side / (width + 2 * margin)
                shape = {"s": points**2, "marker": "o" if view.round else "s", "linewidths": 0}
                ax.scatter(*view.xy.T, c=values[:, best], cmap=SEQUENTIAL, vmin=0, vmax=limit or 1.0, **shape)
            ax.set(xlim=(low[0] - margin, high[0] + margin), ylim=(high[1] + margin, low[1] - margin), aspect="equal")
            ax.set_axis_off()
            ax.set_title(title, fontsize=6)
