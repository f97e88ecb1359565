"""OME-TIFF slides in every layout that 10x uses, against the pixels that were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.slides.tiff import TiffSlide, needs_tifffile
from raw_layouts import write_ome

IMAGE = np.random.default_rng(0).integers(0, 255, (700, 1100, 3), dtype=np.uint8)


@pytest.mark.parametrize("layout", ["yxs", "syx"])
@pytest.mark.parametrize("compression", [None, "zlib", "jpeg2000"])
def test_every_layout_gives_the_pixels_that_were_written(tmp_path: Path, layout: str, compression: str | None) -> None:
    path = tmp_path / "he.ome.tif"
    lossless = {"compressionargs": {"level": 0}} if compression == "jpeg2000" else {}
    write_ome(path, IMAGE, 0.2738, layout, compression=compression, **lossless)
    assert needs_tifffile(path)
    with TiffSlide(path) as slide:
        assert (slide.width, slide.height) == (1100, 700)
        assert slide.mpp == pytest.approx(0.2738)
        np.testing.assert_array_equal(slide.read(300, 200, 280, 270), IMAGE[200:470, 300:580])
        np.testing.assert_array_equal(slide.read(1000, 650, 100, 50), IMAGE[650:, 1000:])
        assert (slide.level_dimensions, slide.level_downsamples) == ([(1100, 700), (550, 350)], [1, 2])
        np.testing.assert_array_equal(slide.read_level(1, 20, 30, 90, 80), IMAGE[::2, ::2][30:110, 20:110])
        assert slide.thumbnail(275).shape == (175, 275, 3)
        np.testing.assert_array_equal(slide.thumbnail(5000), IMAGE)
        with pytest.raises(ValueError, match="not inside"):
            slide.read(1000, 650, 101, 50)


def test_the_thumbnail_is_the_mean_of_what_it_covers(tmp_path: Path) -> None:
    smooth = np.kron(IMAGE[:35, :55], np.ones((20, 20, 1), np.uint8))
    path = tmp_path / "he.ome.tif"
    write_ome(path, smooth, None, "syx")
    with TiffSlide(path) as slide:
        assert slide.mpp is None
        small = slide.thumbnail(55)
    np.testing.assert_allclose(small.astype(int), IMAGE[:35, :55], atol=2)


def test_transparency_is_dropped_and_fluorescence_refused(tmp_path: Path) -> None:
    path = tmp_path / "he.ome.tif"
    four = np.concatenate([IMAGE, np.full((700, 1100, 1), 255, np.uint8)], axis=2)
    tifffile.imwrite(path, np.moveaxis(four, 2, 0), ome=True, metadata={"axes": "CYX"}, tile=(256, 256))
    with TiffSlide(path) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 64, 64), IMAGE[:64, :64])
    tifffile.imwrite(path, IMAGE[..., 0].astype(np.uint16), ome=True, metadata={"axes": "YX"}, tile=(256, 256))
    with pytest.raises(InputError, check=has_code("tiff-not-rgb"), match="uint16"):
        TiffSlide(path)
    path.write_bytes(path.read_bytes()[:50])
    assert not needs_tifffile(path)
    with pytest.raises(InputError, check=has_code("tiff-unreadable")):
        TiffSlide(path)


def test_what_is_no_ome(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, tile=(256, 256), photometric="rgb")
    (tmp_path / "b.tif").write_bytes(b"no tiff")
    assert not needs_tifffile(tmp_path / "a.tif")
    assert not needs_tifffile(tmp_path / "b.tif")
    assert not needs_tifffile(tmp_path / "c.jpg")
