"""Pen and blur drawn on real sections, and how many of their tiles are found.

``python tests/bench/bench_artefacts.py [FOLDER]``, with her2st below it. A tile has an artefact where half of it does. Ink covers the
tissue at 85 %, blur is a Gaussian of 6 um. Tiles without any px of it tell how many are called so without cause. Thresholds were chosen
on B4 and C2.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy import ndimage

from histoloom.slides import open_slide
from histoloom.tiles.artefacts import KINDS
from histoloom.tiles.cut import tile_table
from histoloom.tiles.spec import TileSpec

MPP = 0.687
TILE_UM = 112.0
INKS = {"blue": (30, 60, 170), "green": (20, 120, 60), "black": (25, 25, 28), "red": (190, 25, 35)}


def stroke(tissue: np.ndarray, width_um: float, rng: np.random.Generator) -> np.ndarray:
    """Return a mask: a bent line between three places on tissue."""
    rows, columns = np.nonzero(tissue)
    points = [(int(columns[i]), int(rows[i])) for i in rng.choice(len(rows), 3, replace=False)]
    image = Image.new("1", tissue.shape[::-1])
    ImageDraw.Draw(image).line(points, fill=1, width=round(width_um / MPP), joint="curve")
    return np.asarray(image)


def draw(pixels: np.ndarray, tissue: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture with artefacts of a kind, and the mask of their px."""
    rng, made, where = np.random.default_rng(0), pixels.copy(), np.zeros(tissue.shape, bool)
    if kind == "pen":
        for ink in INKS.values():
            line = stroke(tissue, 250, rng)
            made[line] = (0.15 * made[line] + 0.85 * np.array(ink)).astype(np.uint8)
            where |= line
    else:
        rows, columns = np.nonzero(tissue)
        at, reach = rng.integers(len(rows)), round(900 / MPP)
        low = np.maximum(np.array([rows[at], columns[at]]) - reach, 0)
        box = np.s_[low[0] : rows[at] + reach, low[1] : columns[at] + reach]
        made[box] = np.stack([ndimage.gaussian_filter(pixels[box][..., c], 6 / MPP) for c in range(3)], 2)
        where[box] = True
    return made, where


def measure(pixels: np.ndarray, kind: str) -> tuple[int, int, int, int]:
    """Return tiles with artefacts, of them found, tiles without any, of them called so."""
    side = TILE_UM / MPP
    grid = np.indices((int(pixels.shape[0] // side), int(pixels.shape[1] // side))).reshape(2, -1).T[:, ::-1]
    centres = (grid + 0.5) * side
    tissue = pixels.min(axis=2) < 190
    made, drawn = draw(pixels, tissue, kind)

    def share(mask: np.ndarray) -> np.ndarray:
        half = side / 2
        return np.array([mask[int(y - half) : int(y + half), int(x - half) : int(x + half)].mean() for x, y in centres])

    on_tissue, shares = share(tissue) > 0.5, share(drawn)
    tiles = TileSpec.from_dict({"size_px": 224, "um_per_px": 0.5, "background": {"artefacts": [kind]}})
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(made).save(Path(folder) / "s.png", compress_level=1)
        with open_slide(Path(folder) / "s.png") as slide:
            names = pd.Index([str(i) for i in range(len(centres))])
            called = (tile_table(slide, names, centres, tiles, MPP)["reason"] == kind).to_numpy()
    has, clean = on_tissue & (shares > 0.5), on_tissue & (shares == 0)
    return int(has.sum()), int((has & called).sum()), int(clean.sum()), int((clean & called).sum())


def main() -> None:
    """Print shares found and called for nothing."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
    Image.MAX_IMAGE_PIXELS = None
    pictures = {path.parent.name: path for path in sorted(root.glob("her2st/data/ST-imgs/*/*/*.jpg"))}
    for name, path in pictures.items():
        pixels = np.asarray(Image.open(path).convert("RGB"))
        rows, columns = np.nonzero(pixels[::8, ::8].min(axis=2) < 170)
        pixels = pixels[8 * rows.min() : 8 * rows.max(), 8 * columns.min() : 8 * columns.max()]
        for kind in KINDS:
            has, found, clean, called = measure(pixels, kind)
            print(
                f"{name:<4} {kind:<5} found {found:>4} of {has:>4}   called without cause {called:>3} of {clean:>5}",
                flush=True,
            )


if __name__ == "__main__":
    main()
