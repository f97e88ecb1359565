"""Ink and blur drawn on a picture of tissue: the tiles that hold them are found, no other is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from histoloom.slides import open_slide
from histoloom.tiles.cut import tile_table
from histoloom.tiles.spec import TileSpec

SIDE = 112
CENTRES = np.stack(np.meshgrid(np.arange(8) * SIDE + 56.0, np.arange(8) * SIDE + 56.0), axis=2).reshape(-1, 2)


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """Pink ground with purple nuclei from the stains' densities, 1 um per px, (896, 896, 3)."""
    rng = np.random.default_rng(0)
    nuclei = np.zeros((896, 896))
    nuclei[rng.integers(0, 896, 6000), rng.integers(0, 896, 6000)] = 1
    nuclei = np.minimum(ndimage.gaussian_filter(nuclei, 2.5) * 25, 1)
    haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    density = 0.9 * nuclei[..., None] * haematoxylin + 0.25 * eosin + rng.normal(0, 0.01, (896, 896, 3))
    return np.clip(255 * 10**-density, 0, 255).astype(np.uint8)


def reasons(pixels: np.ndarray, folder: Path, *kinds: str) -> np.ndarray:
    Image.fromarray(pixels).save(folder / "s.png")
    spec = {"size_px": 112, "um_per_px": 1.0, "background": {"artefacts": list(kinds)}}
    with open_slide(folder / "s.png") as slide:
        names = pd.Index([str(i) for i in range(len(CENTRES))])
        return tile_table(slide, names, CENTRES, TileSpec.from_dict(spec), 1.0)["reason"].to_numpy()


@pytest.mark.parametrize("ink", [(30, 60, 170), (20, 120, 60), (25, 25, 28), (190, 25, 35), (230, 200, 30)])
def test_ink_of_any_colour_is_found_where_it_lies(tissue: np.ndarray, tmp_path: Path, ink: tuple[int, ...]) -> None:
    pixels = tissue.copy()
    # The third row of tiles, from its first px to its last.
    pixels[2 * SIDE : 3 * SIDE] = (0.15 * pixels[2 * SIDE : 3 * SIDE] + 0.85 * np.array(ink)).astype(np.uint8)
    assert ((reasons(pixels, tmp_path, "pen") == "pen") == (CENTRES[:, 1] // SIDE == 2)).all()


def test_blur_is_found_where_it_lies(tissue: np.ndarray, tmp_path: Path) -> None:
    pixels = tissue.copy()
    pixels[:, : 2 * SIDE] = ndimage.gaussian_filter(tissue[:, : 2 * SIDE], (6, 6, 0))
    assert ((reasons(pixels, tmp_path, "blur") == "blur") == (CENTRES[:, 0] < 2 * SIDE)).all()


def test_clean_tissue_is_kept_and_nothing_is_looked_for_unasked(tissue: np.ndarray, tmp_path: Path) -> None:
    assert (reasons(tissue, tmp_path, "pen", "blur") == "").all()
    marked = tissue.copy()
    marked[:400] = (30, 60, 170)
    assert (reasons(marked, tmp_path) == "").all()
