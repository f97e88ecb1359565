"""Small files that would unpack to any size are refused before memory is asked for."""

from __future__ import annotations

import gzip
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from error_codes import has_code
from histoloom import limits, text_tables
from histoloom.errors import InputError
from histoloom.slides import open_slide
from histoloom.text_tables import read_text_table


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A process that may take 1 GB more than it has: what is refused too late ends in a MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def png(path: Path, width: int, height: int) -> Path:
    """Write a PNG of one bit per px, all 0, packed to about a thousandth."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    line = bytes(1 + -(-width // 8))
    rows = min(height, 2000)
    packed = b"".join(packer.compress(line) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    ("width", "height", "code"),
    [(50_000, 50_000, "image-too-large"), (2**31 - 1, 1, "image-too-large"), (1, 2**31 - 1, "image-too-large"),
     (30_000, 30_000, "image-ratio"), (2**21, 1, "slide-too-large")],
)  # fmt: skip
@pytest.mark.usefixtures("little_memory")
def test_pictures_that_unpack_to_any_size(tmp_path: Path, width: int, height: int, code: str) -> None:
    path = png(tmp_path / "s.png", width, height)
    with pytest.raises(InputError, check=has_code(code)):
        open_slide(path)


def test_a_large_empty_picture_of_a_plausible_size_is_read(tmp_path: Path) -> None:
    Image.new("L", (9000, 9000), 255).save(tmp_path / "s.png")
    with open_slide(tmp_path / "s.png") as slide:
        assert (slide.width, slide.height) == (9000, 9000)


@pytest.mark.usefixtures("little_memory")
def test_a_tiff_that_states_absurd_sides(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((64, 64, 3), np.uint8), photometric="rgb", tile=(64, 64))
    raw = bytearray((tmp_path / "s.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "s.tif") as handle:
        places = [handle.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
        kinds = [int(handle.pages[0].tags[name].dtype) for name in ("ImageWidth", "ImageLength")]
    for place, kind in zip(places, kinds, strict=True):
        size = {3: "<H", 4: "<I"}[kind]
        raw[place : place + struct.calcsize(size)] = struct.pack(size, 2**16 - 1 if size == "<H" else 2**30)
        # A 16-bit tag can be made a 32-bit one: its value has four bytes.
        raw[place - 6 : place - 4] = struct.pack("<H", 4)
        raw[place : place + 4] = struct.pack("<I", 2**30)
    (tmp_path / "s.tif").write_bytes(raw)
    with pytest.raises(InputError) as error, open_slide(tmp_path / "s.tif") as slide:
        slide.thumbnail(600)
    assert "s.tif" in error.value.where


def test_a_packed_table_that_unpacks_to_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tables, "FREE_TABLE_BYTES", 2**20)
    path = tmp_path / "c.tsv.gz"
    path.write_bytes(gzip.compress(b"\ta\tb\n" + b"x\t0\t0\n" * 400_000, 9))
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, check=has_code("table-too-large")):
        read_text_table(path)


@pytest.mark.usefixtures("little_memory")
def test_a_packed_table_stops_before_memory_is_full(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "c.tsv.gz", "wb", 9) as handle:
        for _ in range(20):
            handle.write(bytes(1 << 24))
    with pytest.raises(InputError, check=has_code("table-too-large")):
        read_text_table(tmp_path / "c.tsv.gz")


def test_a_table_larger_than_any(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv"
    with path.open("wb") as handle:
        handle.truncate(limits.MAX_TABLE_BYTES + 1)
    with pytest.raises(InputError, check=has_code("table-too-large")):
        read_text_table(path)
