"""From a Xenium bundle through the canonical sample to tiles that lie on the nuclei."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.samples import read_section
from histoloom.samples.polygons import read_polygons, write_polygons
from histoloom.samples.xenium import XeniumReader, read_experiment
from histoloom.slides import open_slide
from histoloom.tiles import cut_tiles, read_tiles
from histoloom.tiles.outlines import densest_window, draw_outlines, share_inside
from raw_layouts import NUCLEUS, XeniumBundle

SIZE_PX = 32


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[XeniumBundle, dict[str, Path]]:
    """A bundle, its sample, tiles and outlines."""
    bundle, root = XeniumBundle(), tmp_path_factory.mktemp("xenium")
    bundle.write(root)
    files = {role: Path(path) for role, path in XeniumReader.files(bundle.row, {}, root).items()}
    found = {"sample": root / "x.h5ad", "tiles": root / "x.parquet", "slide": files["image"]}
    read_section(
        source="xenium", cohort="x", row=bundle.row, spec={}, files=files, out=found["sample"], picture=root / "x.png"
    )
    spec = {"size_px": SIZE_PX, "um_per_px": "native", "border": "drop", "background": {"method": "none"}}
    cut_tiles(sample=found["sample"], slide=found["slide"], spec=spec, out=found["tiles"], picture=root / "t.png")
    for kind, path in XeniumReader.polygons(bundle.row, {}, root).items():
        found[kind] = root / f"{kind}.parquet"
        write_polygons(
            boundaries=Path(path),
            pixel_size_um=read_experiment(files["experiment"])["pixel_size"],
            alignment=files["alignment"],
            out=found[kind],
            cohort="x",
            sample="X1",
        )
    return bundle, found


def test_tiles_lie_on_the_nuclei(made: Any) -> None:
    _, found = made
    frame = pd.read_parquet(found["tiles"])
    assert frame["kept"].all()
    with open_slide(found["slide"]) as slide:
        pixels = list(read_tiles(slide, frame[["x", "y"]].to_numpy(), SIZE_PX, SIZE_PX))
    middle = SIZE_PX // 2
    for tile in pixels:
        dark = (tile == NUCLEUS).all(axis=2)
        assert dark[middle - 4 : middle + 4, middle - 4 : middle + 4].all()
        # a nucleus has a radius of 8 px: the tile's edge is tissue again
        assert dark.sum() < 0.5 * dark.size


def test_outlines_lie_on_the_nuclei(made: Any) -> None:
    """Inside the outline of a nucleus nearly all pixels are dark; a ring around it is not."""
    from skimage.draw import polygon

    bundle, found = made
    dark = (bundle.image == NUCLEUS).all(axis=2)
    inside = np.zeros(dark.shape, bool)
    for _, ring in read_polygons(found["nuclei"]):
        inside[polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, dark.shape)] = True
    assert dark[inside].mean() > 0.97
    # an octagon of 7.3 px in a disc of 8 px
    assert inside[dark].mean() > 0.7
    moved = np.roll(inside, 17, axis=1)
    assert dark[moved].mean() < 0.3


def test_the_picture_says_where_the_centres_lie(made: Any, tmp_path: Path) -> None:
    _, found = made
    frame = pd.read_parquet(found["tiles"])
    rings = dict(read_polygons(found["cells"]))
    assert share_inside(frame, rings) == 1.0
    assert share_inside(frame.assign(x=frame["x"] + 25), rings) == 0.0
    half = frame.assign(x=frame["x"] + np.where(np.arange(len(frame)) % 2, 25, 0))
    assert share_inside(half, rings) == pytest.approx(113 / 225)
    assert np.isnan(share_inside(frame, {}))
    one, two = tmp_path / "1.png", tmp_path / "2.png"
    for out in (one, two):
        draw_outlines(**found, out=out)
    assert one.read_bytes() == two.read_bytes()
    image = np.asarray(Image.open(one).convert("RGB")).reshape(-1, 3)
    for colour in ((240, 228, 66), (213, 94, 0), (255, 255, 255)):
        assert (np.abs(image.astype(int) - colour).max(axis=1) < 30).sum() > 300, colour
    folder = os.environ.get("HISTOLOOM_PICTURES")
    if folder:
        shutil.copy(one, Path(folder) / "xenium_tiles_on_nuclei.png")


def test_outlines_of_another_bundle_are_refused(made: Any, tmp_path: Path) -> None:
    _, found = made
    other = XeniumBundle()
    other.ids = other.cells["cell_id"] = np.array([f"other-{i}" for i in range(225)])
    other.write(tmp_path)
    write_polygons(
        boundaries=tmp_path / "run_outs/cell_boundaries.parquet",
        pixel_size_um=read_experiment(tmp_path / "run_outs/experiment.xenium")["pixel_size"],
        alignment=tmp_path / other.row["alignment"],
        out=tmp_path / "o.parquet",
        cohort="x",
        sample="X1",
    )
    with pytest.raises(InputError, check=has_code("outlines-of-another"), match="225"):
        draw_outlines(**{**found, "cells": tmp_path / "o.parquet"}, out=tmp_path / "o.png")


def test_the_window_is_where_cells_are_many_and_stays_on_the_slide(made: Any) -> None:
    rng = np.random.default_rng(0)
    with open_slide(made[1]["slide"]) as slide:
        places = np.vstack([rng.uniform(0, 700, (40, 2)), rng.normal([880, 40], 8, (60, 2))])
        window = densest_window(places, slide, 200.0)
        assert (window.left, window.top, window.side) == (700.0, 0.0, 200.0)
        assert window.holds(places)[40:].mean() > 0.9
        assert densest_window(places, slide, 5000.0).side == 700.0
