"""From a Xenium bundle through the canonical sample to tiles that lie on the nuclei."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from histoloom.samples import read_section
from histoloom.samples.polygons import read_polygons, write_polygons
from histoloom.samples.xenium import XeniumReader
from histoloom.slides import open_slide
from histoloom.tiles import cut_tiles, read_tiles
from raw_layouts import NUCLEUS, PIXEL_UM, XeniumBundle

SIZE_PX = 32


def test_tiles_lie_on_the_nuclei(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    root = bundle.write(tmp_path)
    files = {role: Path(path) for role, path in XeniumReader.files(bundle.row, {}, root).items()}
    sample, tiles = tmp_path / "x.h5ad", tmp_path / "x.parquet"
    read_section(
        source="xenium", cohort="x", row=bundle.row, spec={}, files=files, out=sample, picture=tmp_path / "x.png"
    )
    spec = {"size_px": SIZE_PX, "um_per_px": "native", "border": "drop", "background": {"method": "none"}}
    cut_tiles(sample=sample, slide=files["image"], spec=spec, out=tiles, picture=tmp_path / "tiles.png")
    frame = pd.read_parquet(tiles)
    assert frame["kept"].all()
    centres = frame[["x", "y"]].to_numpy()
    with open_slide(files["image"]) as slide:
        pixels = list(read_tiles(slide, centres, SIZE_PX, SIZE_PX))
    middle = SIZE_PX // 2
    for tile in pixels:
        dark = (tile == NUCLEUS).all(axis=2)
        assert dark[middle - 4 : middle + 4, middle - 4 : middle + 4].all()
        # a nucleus has a radius of 8 px: the tile's edge is tissue again
        assert dark.sum() < 0.5 * dark.size
    picture = overlay(bundle, root, centres)
    folder = os.environ.get("HISTOLOOM_PICTURES")
    if folder:
        picture.save(Path(folder) / "xenium_tiles_on_nuclei.png")
        Image.open(tmp_path / "x.png").save(Path(folder) / "xenium_sample.png")
        Image.open(tmp_path / "tiles.png").save(Path(folder) / "xenium_tiles.png")


def overlay(bundle: XeniumBundle, root: Path, centres: np.ndarray) -> Image.Image:
    """Draw every third tile (white) and all outlines (cells yellow, nuclei red) on the slide."""
    scale = 2
    picture = Image.fromarray(bundle.image).resize((bundle.image.shape[1] * scale, bundle.image.shape[0] * scale))
    draw = ImageDraw.Draw(picture)
    for kind, colour in (("cells", (255, 210, 0)), ("nuclei", (255, 40, 40))):
        out = root / f"{kind}.parquet"
        write_polygons(
            boundaries=Path(XeniumReader.polygons(bundle.row, root)[kind]),
            out=out,
            cohort="x",
            sample="X1",
            alignment=root / bundle.row["alignment"],
            pixel_size_um=PIXEL_UM,
        )
        for _, ring in read_polygons(out):
            draw.line([tuple(v * scale) for v in ring], fill=colour, width=2)
    for x, y in centres[::3]:
        box = [
            (x - SIZE_PX / 2) * scale,
            (y - SIZE_PX / 2) * scale,
            (x + SIZE_PX / 2) * scale,
            (y + SIZE_PX / 2) * scale,
        ]
        draw.rectangle(box, outline=(255, 255, 255), width=2)
    return picture
