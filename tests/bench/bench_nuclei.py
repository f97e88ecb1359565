"""How well are nuclei found on real tiles, and which settings would be chosen without the tile that is scored?

``python tests/bench/bench_nuclei.py FOLDER [--choose]``: FOLDER holds images/*.png and labels/*.csv (x, y, class), tiles of
NuCLS at about 0.25 um/px. A found nucleus is right within 6 um of a marked one. ``--choose`` takes some minutes.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow" / "src"))

from histoloom.nuclei import find

UM_PER_PX, REACH_UM = 0.25, 6.0
NAMES = ("COUNT_CONTRAST", "LEAST_AREA_UM2", "APART_UM")
CHOICES = ((0.04, 0.06, 0.08, 0.10), (6.0, 10.0, 14.0), (1.5, 2.0, 3.0))
Counts = tuple[int, int, int]


def matched(found: np.ndarray, marked: np.ndarray) -> int:
    """Return how many found nuclei can be given a marked one of their own."""
    if not len(found) or not len(marked):
        return 0
    distance = np.hypot(*(found[:, None] - marked[None]).transpose(2, 0, 1)) * UM_PER_PX
    rows, columns = linear_sum_assignment(np.where(distance <= REACH_UM, distance, 1e3))
    return int((distance[rows, columns] <= REACH_UM).sum())


def count(tiles: list[tuple[np.ndarray, np.ndarray]], settings: tuple[float, ...]) -> list[Counts]:
    """Return matched, found and marked nuclei of each tile."""
    for name, value in zip(NAMES, settings, strict=True):
        setattr(find, name, value)
    found = [find.find_nuclei(tile, UM_PER_PX)[:, :2] for tile, _ in tiles]
    return [(matched(f, marked), len(f), len(marked)) for f, (_, marked) in zip(found, tiles, strict=True)]


def f1(counts: list[Counts]) -> float:
    """Return F1 over the nuclei of all tiles."""
    right, found, marked = np.sum(counts, axis=0)
    return float(2 * right / (found + marked))


def told(name: str, counts: list[Counts]) -> None:
    """Print the measures."""
    right, found, marked = np.sum(counts, axis=0)
    r = np.corrcoef([c[1] for c in counts], [c[2] for c in counts])[0, 1]
    print(
        f"{name}: F1 {f1(counts):.3f}, recall {right / marked:.3f}, precision {right / found:.3f}, r of counts {r:.3f}"
    )


def main() -> None:
    """Score the settings as they are, and those chosen without each tile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--choose", action="store_true")
    chosen = parser.parse_args()
    paths = sorted((chosen.folder / "images").glob("*.png"))
    tiles = [
        (
            np.asarray(Image.open(path).convert("RGB")),
            np.loadtxt(chosen.folder / "labels" / f"{path.stem}.csv", delimiter=",", ndmin=2)[:, :2],
        )
        for path in paths
    ]
    told("as it is", count(tiles, tuple(getattr(find, name) for name in NAMES)))
    if not chosen.choose:
        return
    by_settings = {settings: count(tiles, settings) for settings in itertools.product(*CHOICES)}
    held_out = []
    for i, path in enumerate(paths):
        best = max(by_settings, key=lambda s: f1([c for j, c in enumerate(by_settings[s]) if j != i]))
        held_out.append(by_settings[best][i])
        print(f"without {path.stem}: {dict(zip(NAMES, best, strict=True))}")
    told("tiles left out", held_out)


if __name__ == "__main__":
    main()
