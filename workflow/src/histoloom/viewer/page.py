"""A view as one HTML file that needs no network: Bokeh draws the panels, `page.js` serves the controls.

The file holds Bokeh's own JavaScript, the picture as a JPEG, and the values as 16-bit numbers between the least and the
largest of each type and layer, so that a number read from it is exact to 1/65,000 of that range.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from histoloom.report.style import PALETTE
from histoloom.viewer.view import FLAGS, View, binned

if TYPE_CHECKING:
    from bokeh.model import Model

HERE = Path(__file__).parent
MOST_POINTS = 50_000
PICTURE_PX = 2000
FRAME_PX = 520
MARGIN_PX = 90
"""Room for the colour scale next to a panel."""
UNKNOWN = 65535
SCALES = {"viridis": "Viridis256", "cividis": "Cividis256", "greys": "Greys256"}
"""Colour scales that colour-blind readers can tell apart, by what the page calls them."""
PANELS: Mapping[str, str] = {
    "slide": "H&E",
    "prediction": "prediction",
    "labels": "labels",
    "difference": "prediction − labels",
    "spread": "standard deviation over the models of all folds and seeds",
}


def write_page(view: View, out: Path, most_points: int = MOST_POINTS, picture_px: int = PICTURE_PX) -> None:
    from bokeh.embed import file_html
    from bokeh.resources import INLINE
    from jinja2 import Environment

    view = binned(view, most_points)
    document, names, width = _document(view, picture_px)
    template = Environment(autoescape=False).from_string((HERE / "page.html").read_text())
    facts = json.dumps(_facts(view, names), ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
    variables = {
        "style": (HERE / "page.css").read_text(),
        "script": (HERE / "page.js").read_text(),
        "heading": html.escape(view.title),
        "note": html.escape(view.note),
        "panels": names,
        "width": width + MARGIN_PX,
        "facts": facts,
        "scales": list(SCALES),
        "columns": [name for name in FLAGS if name in view.columns],
        "flags": FLAGS,
        "arrays": {name: _encoded(values) for name, values in _arrays(view).items()},
    }
    page = file_html(document, INLINE, html.escape(view.title), template=template, template_variables=variables)
    out.write_text(page, encoding="utf-8")


def _panels(view: View) -> list[str]:
    names = ["slide", *(name for name in ("prediction", "labels") if name in view.layers)]
    if {"prediction", "labels"} <= view.layers.keys():
        names.append("difference")
    elif "spread" in view.layers:
        names.append("spread")
    return names if view.picture is not None else names[1:]


def _document(view: View, picture_px: int) -> tuple[Any, list[str], int]:
    """Return Bokeh's document, linked panels over one source that the page's script fills, their names and width."""
    from bokeh import palettes
    from bokeh.document import Document
    from bokeh.events import DocumentReady
    from bokeh.models import ColumnDataSource, CustomJS, LinearColorMapper, Range1d

    names, unit = _panels(view), view.mpp or 1.0
    left, right, top, bottom = _frame(view)
    aspect = (bottom - top) / (right - left)
    width = int(min(FRAME_PX, FRAME_PX * 1.15 / aspect))
    ranges = (Range1d(left * unit, right * unit), Range1d(bottom * unit, top * unit))
    # The script fills the columns before anything is drawn.
    columns = ["x", "y", "id", "alpha", "tissue", "flags", "cells", "r", *view.layers, "difference"]
    source = ColumnDataSource({name: [] for name in columns})
    different = palettes.interp_palette(palettes.RdBu11, 256)
    mappers = {
        name: LinearColorMapper(palette=different if name == "difference" else palettes.Viridis256,
                                low=0, high=1, nan_color="#FFFFFF00")
        for name in names if name != "slide"
    }  # fmt: skip
    picture = None if view.picture is None else ColumnDataSource({"url": [_jpeg(view.picture, picture_px)]})
    document, figures = Document(), []
    for name in names:
        figures.append(_figure(view, name, source, mappers.get(name), ranges, (width, int(width * aspect)), picture))
        document.add_root(figures[-1])
    scales = {name: getattr(palettes, palette) for name, palette in SCALES.items()}
    scales["greys"] = scales["greys"][::-1]  # more is darker
    args = {"source": source, "mappers": mappers, "figures": dict(zip(names, figures, strict=True)), "scales": scales}
    document.js_on_event(DocumentReady, CustomJS(args=args, code="startViewer(source, mappers, figures, scales)"))
    return document, names, width


def _figure(
    view: View,
    name: str,
    source: Any,
    mapper: Any,
    ranges: tuple[Any, Any],
    size: tuple[int, int],
    picture: Any,
) -> Model:
    from bokeh.models import ColorBar, Metric, ScaleBar
    from bokeh.plotting import figure

    unit = view.mpp or 1.0
    plot = figure(
        name=name, x_range=ranges[0], y_range=ranges[1], frame_width=size[0], frame_height=size[1],
        tools="pan,wheel_zoom,box_zoom,reset", active_scroll="wheel_zoom", title=PANELS[name],
        toolbar_location="above", match_aspect=True,
    )  # fmt: skip
    plot.axis.visible = plot.grid.visible = False
    plot.toolbar.logo = None
    if picture is not None and view.picture is not None:
        height, width = view.picture.shape[:2]
        plot.image_url(
            url="url", source=picture, x=0, y=0, w=width / view.scale * unit, h=height / view.scale * unit,
            anchor="top_left", global_alpha=1.0 if name == "slide" else 0.6,
        )  # fmt: skip
    if mapper is None:
        colours: dict[str, Any] = {"fill_color": None, "line_color": "#000000", "line_alpha": 0.0}
    else:
        colours = {"fill_color": {"field": name, "transform": mapper}, "fill_alpha": {"field": "alpha"},
                   "line_color": "#000000", "line_alpha": 0.0}  # fmt: skip
    tiles: Any
    if view.round:
        tiles = plot.circle("x", "y", radius=view.side * unit / 2, source=source, **colours)
    else:
        tiles = plot.rect("x", "y", width=view.side * unit, height=view.side * unit, source=source, **colours)
    tiles.name = "tiles"
    tiles.nonselection_glyph = tiles.selection_glyph = None
    if mapper is not None:
        bar = ColorBar(color_mapper=mapper, height=size[1] - 40, width=12, title=view.units, name="scale")
        plot.add_layout(bar, "right")
        plot.min_border_right = 75  # numbers of another type may be longer than those that were measured at first
    if view.mpp:
        plot.add_layout(
            ScaleBar(range=ranges[0], unit="µm", dimensional=Metric(base_unit="m"), orientation="horizontal",
                     location="bottom_left", background_fill_alpha=0.7, bar_length=0.2)
        )  # fmt: skip
    plot.add_tools(_hover(view, tiles))
    return plot


def _hover(view: View, tiles: Any) -> Any:
    from bokeh.models import HoverTool

    rows = [("", "@id"), *((PANELS[name], f"@{name}{{0.[0000]}}") for name in view.layers)]
    if {"prediction", "labels"} <= view.layers.keys():
        rows.append((PANELS["difference"], "@difference{0.[0000]}"))
    if view.held_out:
        rows.append(("held-out r of this type", "@r"))
    if "tissue_fraction" in view.columns:
        rows.append(("tissue under the tile", "@tissue{0 %}"))
    if "cells" in view.columns:
        rows.append(("cells here", "@cells"))
    return HoverTool(renderers=[tiles], tooltips=[*rows, ("", "@flags")])


def _frame(view: View) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom of what is shown, level-0 px."""
    low, high = view.xy.min(axis=0), view.xy.max(axis=0)
    margin = 0.04 * float((high - low).max()) + view.side
    (left, top), (right, bottom) = low - margin, high + margin
    return float(left), float(right), float(top), float(bottom)


def _jpeg(pixels: npt.NDArray[np.uint8], most_px: int) -> str:
    from PIL import Image

    image = Image.fromarray(pixels[..., :3])
    image.thumbnail((most_px, most_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)  # it is looked at closely
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _facts(view: View, panels: Sequence[str]) -> dict[str, Any]:
    """Return what the page's script needs to know besides numbers."""
    return {
        "units": view.units,
        "unit": view.mpp or 1.0,
        "side": view.side,
        "types": list(view.types),
        "ids": list(view.ids),
        "layers": list(view.layers),
        "ranges": {name: [_number(v) for v in _limits(values).ravel()] for name, values in view.layers.items()},
        "heldOut": {name: dict(values) for name, values in view.held_out.items()},
        "panels": list(panels),
        "titles": dict(PANELS),
        "flags": {name: FLAGS[name] for name in FLAGS if name in view.columns},
        "colours": list(PALETTE),
        "round": view.round,
        "corner": [float(value) for value in view.corner],
    }


def _number(value: float) -> float | None:
    return float(f"{value:.8g}") if np.isfinite(value) else None


def _limits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return (T, 2) least and largest value of each type; zeros for one that is unknown everywhere."""
    known = np.isfinite(values)
    low = np.where(known, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(known, values, -np.inf).max(axis=0, initial=-np.inf)
    limits = np.stack([low, high], axis=1).astype(np.float64)
    return np.where(np.isfinite(limits), limits, 0.0)


def _arrays(view: View) -> dict[str, npt.NDArray[Any]]:
    """Return the page's numbers: centres as float32, values type by type as uint16, facts of observations."""
    arrays: dict[str, npt.NDArray[Any]] = {"xy": np.ascontiguousarray(view.xy.T, "<f4")}
    for name, values in view.layers.items():
        limits = _limits(values)
        span = np.where(limits[:, 1] > limits[:, 0], limits[:, 1] - limits[:, 0], 1.0)
        scaled = np.rint((values - limits[:, 0]) / span * (UNKNOWN - 1))
        arrays[f"layer-{name}"] = np.ascontiguousarray(np.where(np.isfinite(values), scaled, UNKNOWN).T.astype("<u2"))
    for name, column in view.columns.items():
        arrays[f"column-{name}"] = np.asarray(column).astype("<f4")
    return arrays


def _encoded(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()
