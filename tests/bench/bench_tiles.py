"""Tile reading against the raw reader, same slide, same run: `python tests/bench/bench_tiles.py [SLIDE]`.

Prints tiles/s and the ratio to the baseline, both with the copy into a batch that every encoder needs. native: the baseline
is Slide.read of the same squares. scaled: Slide.read of whole px and Pillow's LANCZOS, without sub-pixel frame, kernel ring or
pyramid; what precision costs (and a pyramid gains) is in the ratio.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow" / "src"))

from histoloom.slides import Slide, open_slide
from histoloom.tiles import read_tiles

SIZE, TILES, ROUNDS = 224, 150, 4
WANTED = 0.9


def make_slides(folder: Path, side: int = 6000) -> dict[str, Path]:
    """Write the same noisy picture as a JPEG and as a pyramidal JPEG TIFF."""
    import tifffile
    from PIL import Image

    rng = np.random.default_rng(0)
    small = rng.integers(100, 240, (side // 8, side // 8, 3)).astype(np.uint8)
    picture = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    picture.save(folder / "plain.jpg", quality=85)
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(folder / "pyramid.tif", bigtiff=False) as tif:
        for level in range(4):
            pixels = np.asarray(picture.reduce(2**level))
            dots = 40000 / 2**level
            tif.write(pixels, subfiletype=int(level > 0), resolution=(dots, dots), **options)
    return {"plain JPEG": folder / "plain.jpg", "pyramidal TIFF": folder / "pyramid.tif"}


def seconds(*works: Callable[[], None]) -> list[float]:
    """Return the best of several rounds of each, in turn: a busy machine disturbs all alike."""
    best = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def raw(slide: Slide, centres: np.ndarray, side: float, batch: np.ndarray) -> None:
    from PIL import Image

    whole = round(side)
    for i, (x, y) in enumerate((centres - side / 2).astype(int).tolist()):
        pixels = slide.read(x, y, whole, whole)
        if whole != SIZE:
            pixels = np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.LANCZOS))
        batch[i] = pixels


def ours(slide: Slide, centres: np.ndarray, side: float, batch: np.ndarray) -> None:
    for i, tile in enumerate(read_tiles(slide, centres, side, SIZE)):
        batch[i] = tile


def compare(name: str, path: Path, side: float) -> float:
    """Print and return tiles/s of read_tiles over tiles/s of the baseline."""
    with open_slide(path) as slide:
        margin = side / 2 + 40
        rng = np.random.default_rng(1)
        centres = rng.uniform(margin, min(slide.width, slide.height) - margin, (TILES, 2))
        slide.read(0, 0, 8, 8)  # the decode of a plain picture is not counted
        batch = np.zeros((TILES, SIZE, SIZE, 3), np.uint8)
        base, mine = seconds(lambda: raw(slide, centres, side, batch), lambda: ours(slide, centres, side, batch))
    ratio = base / mine
    print(
        f"{name:15s} {side:6.1f} -> {SIZE} px: {TILES / mine:7.0f} tiles/s, raw {TILES / base:7.0f}/s, ratio {ratio:.2f}"
    )
    return ratio


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        slides = {Path(p).name: Path(p) for p in sys.argv[1:]} or make_slides(Path(folder))
        native = [compare(name, path, 224.0) for name, path in slides.items()]
        for name, path in slides.items():
            for side in (112 / 0.69, 448.0, 1000.3):
                compare(name, path, side)
        print(f"native, least ratio {min(native):.2f} (wanted: at least {WANTED})")


if __name__ == "__main__":
    main()
