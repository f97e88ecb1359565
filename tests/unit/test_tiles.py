"""Tiles: where their centres lie, what the border and glass do to them, and the table that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiles_inputs import save

from histoloom.slides import Slide, open_slide
from histoloom.tiles import TileSpec, read_tiles
from histoloom.tiles.cut import leaves


def position_image(width: int, height: int) -> np.ndarray:
    """Every px says where it is: R = x mod 256, G = y mod 256, B = 16 * (x // 256) + y // 256."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 256, y % 256, 16 * (x // 256) + y // 256], axis=2).astype(np.uint8)


def decode(px: np.ndarray) -> tuple[int, int]:
    r, g, b = (int(v) for v in px)
    return 256 * (b // 16) + r, 256 * (b % 16) + g


@pytest.fixture(scope="module")
def barcode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(position_image(700, 530), tmp_path_factory.mktemp("slides") / "barcode.png")


@pytest.mark.parametrize("size", [224, 63, 16])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.5, 0.5), (0.25, 0.75), (0.49, 0.51), (0.999, 0.001)])
def test_unscaled_tile_is_the_exact_crop_within_half_a_px(
    barcode: Path, size: int, offset: tuple[float, float]
) -> None:
    centres = np.array([[301.0, 207.0], [450.0, 300.0], [202.0, 399.0]]) + offset
    with open_slide(barcode) as slide:
        tiles = list(read_tiles(slide, centres, float(size), size))
    for tile, centre in zip(tiles, centres, strict=True):
        assert tile.shape == (size, size, 3)
        assert tile.dtype == np.uint8
        left, top = decode(tile[0, 0])
        assert decode(tile[-1, -1]) == (left + size - 1, top + size - 1)
        assert np.abs(np.array([left, top]) + size / 2 - centre).max() <= 0.5


class Ramp(Slide):
    """A slide without a file: brightness is a known, smooth function of the place (px i has its centre at i + 0.5)."""

    def __init__(self, width: int, height: int, factor: int = 1) -> None:
        self.path, self.width, self.height, self.mpp = Path("ramp"), width, height, None
        y, x = np.mgrid[:height, :width] + 0.5
        self.pixels = np.stack([x / 4, y / 4, 0 * x], axis=2)
        self.read_levels: list[int] = []

    def _read(self, x: int, y: int, w: int, h: int) -> np.ndarray:
        self.read_levels.append(0)
        return np.round(self.pixels[y : y + h, x : x + w]).astype(np.uint8)

    def thumbnail(self, max_px: int) -> np.ndarray:
        raise NotImplementedError


class RampPyramid(Ramp):
    level_downsamples = (1.0, 2.0, 4.0)

    @property
    def level_dimensions(self) -> list[tuple[int, int]]:
        return [(self.width // f, self.height // f) for f in (1, 2, 4)]

    def read_level(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        f = 2**level
        assert x >= 0
        assert x + w <= self.width // f
        self.read_levels.append(level)
        blocks = self.pixels.reshape(self.height // f, f, self.width // f, f, 3).mean(axis=(1, 3))
        return np.round(blocks[y : y + h, x : x + w]).astype(np.uint8)


@pytest.mark.parametrize("side", [90.3, 224.0 / 1.37, 224.0 * 1.6, 500.0, 831.7])
def test_scaled_tile_is_centred_to_a_fraction_of_a_px(side: float) -> None:
    centres = np.array([[500.0, 501.0], [497.25, 520.5], [512.9, 480.1]])
    tiles = list(read_tiles(Ramp(1000, 1000), centres, side, 64))
    for tile, (x, y) in zip(tiles, centres, strict=True):
        # The mean of a linear ramp over a square is its value at the middle; px round to 1/4 of a ramp's step of 4 px.
        assert tile[..., 0].mean() * 4 == pytest.approx(x, abs=0.5)
        assert tile[..., 1].mean() * 4 == pytest.approx(y, abs=0.5)
        # ... and its span is the square's.
        steps = np.diff(tile[:, :, 0].astype(float).mean(axis=0)).mean() * 4
        assert steps == pytest.approx(side / 64, rel=0.02)


def test_half_a_px_moves_a_scaled_tile() -> None:
    one, other = read_tiles(Ramp(1000, 1000), [[500.0, 500.0], [502.0, 500.0]], 100.4, 32)
    assert other[..., 0].mean() * 4 - one[..., 0].mean() * 4 == pytest.approx(2.0, abs=0.3)


def test_scaled_tile_equals_resampling_the_whole_slide() -> None:
    """What lies around the crop must reach the kernel: no seam at the tile's edge."""
    rng = np.random.default_rng(0)
    slide = Ramp(320, 320)
    slide.pixels = rng.integers(0, 255, (320, 320, 3)).astype(float)
    (tile,) = read_tiles(slide, [[160.0, 150.0]], 96.0, 32)
    whole = Image.fromarray(slide.pixels.astype(np.uint8)).resize(
        (32, 32), Image.Resampling.LANCZOS, box=(112.0, 102.0, 208.0, 198.0)
    )
    assert np.abs(tile.astype(int) - np.asarray(whole).astype(int)).max() <= 1


def test_reduction_is_antialiased() -> None:
    """A checkerboard finer than the tile's px becomes grey, not noise."""
    slide = Ramp(400, 400)
    y, x = np.mgrid[:400, :400]
    slide.pixels = np.repeat(((x + y) % 2 * 255)[..., None], 3, axis=2).astype(float)
    (tile,) = read_tiles(slide, [[200.3, 199.6]], 301.0, 64)
    assert np.abs(tile.astype(int) - 127).max() <= 6


@pytest.mark.parametrize(("side", "level"), [(64 * 1.9, 0), (64 * 2.0, 1), (64 * 3.9, 1), (64 * 4.5, 2)])
def test_pyramid_level_is_used_from_twofold_on_and_agrees(side: float, level: int) -> None:
    flat, pyramid = Ramp(1000, 1000), RampPyramid(1000, 1000)
    centres = [[500.25, 473.0], [333.3, 612.7], [200.0, 200.0]]
    for one, other in zip(read_tiles(flat, centres, side, 64), read_tiles(pyramid, centres, side, 64), strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
    assert set(pyramid.read_levels) == {level}


def test_order_and_company_do_not_matter(barcode: Path) -> None:
    rng = np.random.default_rng(1)
    centres = rng.uniform(120, 400, (12, 2))
    order = rng.permutation(12)
    with open_slide(barcode) as slide:
        for side in (64.0, 100.0):
            straight = list(read_tiles(slide, centres, side, 64))
            mixed = list(read_tiles(slide, centres[order], side, 64))
            for i, tile in zip(order, mixed, strict=True):
                np.testing.assert_array_equal(tile, straight[i])


@pytest.mark.parametrize("bad", [[[np.nan, 3.0]], [[1.0, 2.0, 3.0]], [1.0, 2.0]])
def test_centres_that_are_none_are_refused(barcode: Path, bad: Any) -> None:
    with open_slide(barcode) as slide, pytest.raises(ValueError, match="finite"):
        next(read_tiles(slide, bad, 64, 64))


def test_padding_white_and_mirror(barcode: Path) -> None:
    full = position_image(700, 530)
    with open_slide(barcode) as slide:
        (white,) = read_tiles(slide, [[5.0, 525.0]], 32, 32)
        (mirror,) = read_tiles(slide, [[5.0, 525.0]], 32, 32, pad="reflect")
        (beyond,) = read_tiles(slide, [[-100.0, 20.0]], 32, 32)
    assert (white[:, :11] == 255).all()
    assert (white[21:] == 255).all()
    np.testing.assert_array_equal(white[:21, 11:], full[509:530, :21])
    around = np.pad(full, ((20, 20), (20, 20), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(mirror, around[509 + 20 : 541 + 20, -11 + 20 : 21 + 20])
    assert (beyond == 255).all()


def test_scaled_tile_at_the_edge_takes_no_white_from_outside() -> None:
    slide = Ramp(300, 300)
    slide.pixels[:] = 100.0
    for pad in ("white", "reflect"):
        (tile,) = read_tiles(slide, [[60.0, 240.0]], 120.0, 64, pad=pad)  # type: ignore[arg-type]
        assert (tile == 100).all()


@pytest.mark.parametrize(("side", "size"), [(64.0, 64), (63.0, 63), (100.3, 64)])
def test_kept_tiles_can_be_read_and_the_border_is_tight(side: float, size: int) -> None:
    slide = Ramp(400, 300)
    half = side / 2
    inside = np.array([[half - 0.49, 150.0], [400.49 - half, 150.0], [200.0, half], [200.0, 300 - half]])
    beyond = np.array([[half - 1.01, 150.0], [401.01 - half, 150.0], [200.0, half - 1.01], [200.0, 301.01 - half]])
    assert not leaves(inside, side, size, 400, 300).any()
    assert leaves(beyond, side, size, 400, 300).all()
    list(read_tiles(slide, inside, side, size))


@pytest.mark.parametrize(
    ("spec", "mpp", "side", "effective"),
    [
        ({}, 0.69, 224.0, 0.69),
        ({}, 0.92, 224.0, 0.92),
        ({"um_per_px": 0.5}, 0.69, 112 / 0.69, 0.5),
        ({"um_per_px": 0.5}, 0.25, 448.0, 0.5),
    ],
)
def test_field_of_view(spec: dict[str, Any], mpp: float, side: float, effective: float) -> None:
    tiles = TileSpec.from_dict(spec)
    assert tiles.size_level0_px(mpp) == pytest.approx(side)
    assert tiles.effective_um_per_px(mpp) == effective


@pytest.mark.parametrize("mpp", [0.27, 0.46, 0.92])
def test_a_disc_of_20_um_measures_the_same_in_um_tiles(mpp: float) -> None:
    slide = Ramp(1500, 1500)
    y, x = np.mgrid[:1500, :1500] + 0.5
    disc = np.hypot(x - 750, y - 750) * mpp <= 10
    slide.pixels = np.where(disc, 0.0, 255.0)[..., None].repeat(3, axis=2)
    area = {}
    for um_per_px in ("native", 0.5):
        tiles = TileSpec.from_dict({"size_px": 128, "um_per_px": um_per_px})
        (tile,) = read_tiles(slide, [[750.0, 750.0]], tiles.size_level0_px(mpp), 128)
        area[um_per_px] = (tile[..., 0] < 128).sum()
    assert area[0.5] * 0.25 == pytest.approx(np.pi * 100, rel=0.03)
    assert area["native"] * mpp**2 == pytest.approx(np.pi * 100, rel=0.03)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_grey_rgba_and_palette_slides_give_rgb_tiles(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(position_image(200, 200)).convert(mode)
    image.save(tmp_path / "x.png")
    with open_slide(tmp_path / "x.png") as slide:
        for side in (64.0, 90.0):
            (tile,) = read_tiles(slide, [[100.0, 100.0]], side, 64)
            assert tile.shape == (64, 64, 3)
            assert tile.dtype == np.uint8


@pytest.mark.parametrize("um_per_px", ["native", 0.5])
def test_pyramidal_tiff_and_plain_file_give_the_same_tiles(tmp_path: Path, um_per_px: Any) -> None:
    import tifffile

    y, x = np.mgrid[:512, :768]
    pixels = np.stack([128 + 100 * np.sin(x / 20), 128 + 100 * np.cos(y / 15), (x + y) / 6], axis=2).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "p.tif") as tif:
        options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "resolutionunit": "CENTIMETER"}
        tif.write(pixels, resolution=(40000, 40000), **options)
        half = pixels.reshape(256, 2, 384, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
        tif.write(half, subfiletype=1, resolution=(20000, 20000), **options)
    plain = save(pixels, tmp_path / "p.png")
    tiles = TileSpec.from_dict({"size_px": 64, "um_per_px": um_per_px})
    centres = [[300.4, 200.6], [150.0, 333.0]]
    with open_slide(tmp_path / "p.tif") as one, open_slide(plain) as other:
        assert one.mpp == pytest.approx(0.25, rel=1e-3)
        side = tiles.size_level0_px(0.25)
        for a, b in zip(read_tiles(one, centres, side, 64), read_tiles(other, centres, side, 64), strict=True):
            assert np.abs(a.astype(int) - b.astype(int)).max() <= (0 if um_per_px == "native" else 2)
