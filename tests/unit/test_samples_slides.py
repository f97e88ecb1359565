"""The slide reader, and slides without expression."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import tifffile
from PIL import Image

from error_codes import has_code
from histoloom import kinds
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.samples import read_section
from histoloom.samples.slides import SlidesReader
from histoloom.slides import open_slide
from histoloom.slides.files import RasterSlide, WholeSlide

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (700, 1100, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray = PIXELS) -> Path:
    if path.suffix == ".tif":
        tifffile.imwrite(
            path, pixels, tile=(256, 256), photometric="rgb", resolution=(20_000, 20_000), resolutionunit="CENTIMETER"
        )
    else:
        Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(("name", "kind"), [("a.png", RasterSlide), ("a.bmp", RasterSlide), ("a.tif", WholeSlide)])
def test_pixels_come_as_they_are_stored(tmp_path: Path, name: str, kind: type) -> None:
    with open_slide(save(tmp_path / name)) as slide:
        assert isinstance(slide, kind)
        assert (slide.width, slide.height) == (1100, 700)
        for x, y, w, h in ((0, 0, 1, 1), (3, 5, 40, 20), (1000, 600, 100, 100), (0, 0, 1100, 700)):
            found = slide.read(x, y, w, h)
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, PIXELS[y : y + h, x : x + w])


@pytest.mark.parametrize("box", [(-1, 0, 9, 9), (0, -1, 9, 9), (1095, 0, 9, 9), (0, 695, 9, 9), (0, 0, 0, 9)])
def test_outside_is_refused_and_not_padded(tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    with open_slide(save(tmp_path / "a.png")) as slide, pytest.raises(ValueError, match="not inside"):
        slide.read(*box)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_thumbnail_is_the_same_picture(tmp_path: Path, name: str) -> None:
    smooth = np.asarray(Image.fromarray(RNG.integers(0, 255, (7, 11, 3), dtype=np.uint8)).resize((2200, 1400)))
    with open_slide(save(tmp_path / name, smooth)) as slide:
        small = slide.thumbnail(110)
        assert small.shape == (70, 110, 3)
        expected = smooth.reshape(70, 20, 110, 20, 3).mean((1, 3))
        assert np.abs(small.astype(float) - expected).mean() < 3
        assert slide.thumbnail(9999).shape == smooth.shape


def test_mpp_that_a_microscope_could_have(tmp_path: Path) -> None:
    with open_slide(save(tmp_path / "a.tif")) as slide:
        assert slide.mpp == pytest.approx(0.5)
    for dpi, expected in ((72, None), (300, None), (50_800, 0.5)):
        Image.fromarray(PIXELS).save(tmp_path / "d.jpg", dpi=(dpi, dpi))
        with open_slide(tmp_path / "d.jpg") as slide:
            assert slide.mpp == (pytest.approx(expected) if expected else None)


def test_transparency_is_glass(tmp_path: Path) -> None:
    rgba = np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], np.uint8)])
    rgba[:, :500, 3] = 255
    with open_slide(save(tmp_path / "a.png", rgba)) as slide:
        whole = slide.read(0, 0, 1100, 700)
    np.testing.assert_array_equal(whole[:, :500], PIXELS[:, :500])
    assert (whole[:, 500:] == 255).all()


def test_large_pictures_are_not_bombs(tmp_path: Path) -> None:
    Image.new("1", (14_000, 14_000)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        assert slide.width * slide.height > 2 * 89_478_485


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "slide-missing"), (b"", "slide-empty"), (b"no picture at all", "image-format")],
)
def test_no_slide(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, check=has_code(code), match=r"a\.jpg") as caught:
        open_slide(path)
    assert "exclude" in caught.value.remedy


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_cut_short(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for use in (lambda s: s.read(0, 0, 9, 9), lambda s: s.thumbnail(100)):
        with pytest.raises(InputError, check=has_code("image-damaged")), open_slide(path) as slide:
            use(slide)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(InputError, check=has_code("image-not-8-bit")):
        open_slide(tmp_path / "a.png")


def grid(tmp_path: Path, name: str = "a.tif", **row: str) -> anndata.AnnData:
    full = {"sample": "N1", "patient": "Q", "image": name, **row}
    files = {role: Path(p) for role, p in SlidesReader.files(full, {}, tmp_path).items()}
    out = tmp_path / "N1.h5ad"
    read_section(
        source="slides", cohort="new", row=full, spec={"grid_um": 60}, files=files, out=out, picture=tmp_path / "N1.png"
    )
    return anndata.read_h5ad(out)


def test_a_grid_of_whole_squares(tmp_path: Path) -> None:
    assert kinds.load("sources", "slides") is SlidesReader
    save(tmp_path / "a.tif")
    section = grid(tmp_path)
    # 60 um at 0.5 um/px = 120 px: 5 rows of 700 px, 9 columns of 1100 px.
    assert section.shape == (45, 0)
    assert section.obs_names[0] == "0x0"
    assert section.obs_names[-1] == "4x8"
    np.testing.assert_allclose(section["0x0"].obsm["spatial"], [[60, 60]])
    np.testing.assert_allclose(section["4x8"].obsm["spatial"], [[8.5 * 120, 4.5 * 120]])
    facts = read_metadata(tmp_path / "N1.h5ad")
    assert facts["mpp_source"] == "embedded"
    assert facts["pitch_um"] == facts["spot_diameter_um"] == 60
    assert facts["pitch_px"] == pytest.approx(120)
    assert (tmp_path / "N1.png").stat().st_size > 0


def test_slides_need_a_pixel_size(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(InputError, check=has_code("mpp-unknown")):
        grid(tmp_path, "a.png")
    assert grid(tmp_path, "a.png", mpp="0.5").n_obs == 45
    save(tmp_path / "a.tif")
    with pytest.raises(InputError, check=has_code("mpp-disagrees"), match=r"0\.25 .*0\.5 "):
        grid(tmp_path, mpp="0.25")
    with pytest.raises(InputError, check=has_code("slide-too-small")):
        grid(tmp_path, "a.png", mpp="0.05")
