"""The picture of a section's tiles: squares on the slide, and a few tiles as an encoder will see them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.slides import Slide
from histoloom.tiles.reading import read_tiles
from histoloom.tiles.spec import TileSpec

COLOURS = {"": (0, 114, 178), "border": (230, 159, 0), "background": (213, 94, 0), "outside": (0, 0, 0),
           "pen": (0, 158, 115), "blur": (204, 121, 167)}  # fmt: skip
"""Outline by reason; Okabe and Ito's palette, distinct for colour-blind readers."""

_SLIDE_PX, _EXAMPLE_PX, _EXAMPLES, _MARGIN, _LINE = 1000, 120, 6, 12, 16


def draw_tiles(
    slide: Slide, frame: pd.DataFrame, tiles: TileSpec, side: float, metadata: Mapping[str, Any], out: Path
) -> None:
    """Draw the squares over the slide, with examples of kept and dropped tiles below.

    `side`: side of the square, level-0 px.
    """
    from PIL import Image, ImageDraw

    overview = _overview(slide, frame, side)
    dropped = frame[~frame["kept"] & (frame["reason"] != "outside")]
    parts = {"kept, by tissue fraction": frame[frame["kept"]], "dropped": dropped}
    rows = {label: _examples(part) for label, part in parts.items() if len(part)}
    strip = _EXAMPLES * (_EXAMPLE_PX + _MARGIN) + _MARGIN
    width = max(overview.width + 2 * _MARGIN, strip)
    text, example = _LINE + _MARGIN // 2, _EXAMPLE_PX + 2 * _LINE + _MARGIN
    height = 2 * text + overview.height + _MARGIN + len(rows) * example + _MARGIN
    canvas = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN // 2), _headline(metadata), fill=(0, 0, 0))
    _legend(draw, metadata, text)
    canvas.paste(overview, (_MARGIN, 2 * text))
    top = 2 * text + overview.height + _MARGIN
    for label, chosen in rows.items():
        draw.text((_MARGIN, top), label, fill=(0, 0, 0))
        _draw_examples(canvas, slide, chosen, tiles, side, top + _LINE)
        top += example
    canvas.save(out, format="PNG")


def _overview(slide: Slide, frame: pd.DataFrame, side: float) -> Any:
    from PIL import Image, ImageDraw

    pixels = slide.thumbnail(_SLIDE_PX)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    scale_x, scale_y = pixels.shape[1] / slide.width, pixels.shape[0] / slide.height
    for row in frame[np.isfinite(frame["x"]) & np.isfinite(frame["y"])].itertuples():
        corners = [(row.x + way * side / 2, row.y + way * side / 2) for way in (-1, 1)]
        draw.rectangle([(round(x * scale_x), round(y * scale_y)) for x, y in corners], outline=COLOURS[row.reason])
    return image


def _examples(frame: pd.DataFrame) -> pd.DataFrame:
    ordered = frame.sort_values(["tissue_fraction", "obs_id"], kind="stable")
    take: npt.NDArray[np.int64] = np.unique(np.linspace(0, len(ordered) - 1, _EXAMPLES).round().astype(int))
    return ordered.iloc[take]


def _draw_examples(canvas: Any, slide: Slide, chosen: pd.DataFrame, tiles: TileSpec, side: float, top: int) -> None:
    from PIL import Image, ImageDraw

    draw = ImageDraw.Draw(canvas)
    pixels = read_tiles(slide, chosen[["x", "y"]].to_numpy(), side, tiles.size_px, pad=tiles.pad)
    for i, (tile, row) in enumerate(zip(pixels, chosen.itertuples(), strict=True)):
        left = _MARGIN + i * (_EXAMPLE_PX + _MARGIN)
        small = Image.fromarray(tile).resize((_EXAMPLE_PX, _EXAMPLE_PX), Image.Resampling.BOX)
        canvas.paste(small, (left, top))
        frame = (left - 1, top - 1, left + _EXAMPLE_PX, top + _EXAMPLE_PX)
        draw.rectangle(frame, outline=COLOURS[str(row.reason)])
        words = f"{row.obs_id} {row.tissue_fraction:.2f} {row.reason}"
        draw.text((left, top + _EXAMPLE_PX + 2), words, fill=(0, 0, 0))


def _headline(metadata: Mapping[str, Any]) -> str:
    side = metadata["size_level0_px"]
    return (
        f"{metadata['cohort']} / {metadata['sample']} (patient {metadata['patient']}): {metadata['n_kept']} of "
        f"{metadata['n_obs']} tiles kept; {side:.1f} px = {side * metadata['mpp']:.0f} um "
        f"at {metadata['mpp']:.3f} um/px"
    )


def _legend(draw: Any, metadata: Mapping[str, Any], top: int) -> None:
    left = _MARGIN
    for reason, colour in COLOURS.items():
        count = metadata["n_kept"] if reason == "" else metadata[f"n_{reason}"]
        words = f"{reason or 'kept'}: {count}"
        draw.rectangle((left, top + 3, left + 9, top + 12), outline=colour, width=2)
        draw.text((left + 14, top + 1), words, fill=(0, 0, 0))
        left += 14 + 8 * len(words) + _MARGIN
