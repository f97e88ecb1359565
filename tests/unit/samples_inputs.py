"""A tiny section in her2st's layout, for the tests of samples."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

WIDTH, HEIGHT, PITCH, SPOT_UM, PITCH_UM = 520, 400, 40.0, 100, 200
TISSUE_X, TISSUE_Y = (60, 500), (40, 170)


@dataclass
class Raw:
    """What a section's files hold; change it, then write it."""

    counts: pd.DataFrame
    spots: pd.DataFrame
    image: np.ndarray
    regions: pd.DataFrame | None = None
    row: dict[str, str] = field(default_factory=lambda: {"sample": "S1", "patient": "P1", "image": "img/S1.png"})

    def write(self, root: Path) -> Path:
        for folder in ("data/ST-cnts", "data/ST-spotfiles", "img"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        # Without the time that gzip would write: a sample's identity goes by these bytes.
        packed = gzip.compress(self.counts.to_csv(sep="\t", na_rep="nan").encode(), mtime=0)
        (root / "data/ST-cnts/S1.tsv.gz").write_bytes(packed)
        self.spots.to_csv(root / "data/ST-spotfiles/S1_selection.tsv", sep="\t", index=False)
        Image.fromarray(self.image).save(root / self.row["image"])
        if self.regions is not None:
            self.regions.to_csv(root / "regions.tsv", sep="\t", index=False)
            self.row["regions"] = "regions.tsv"
        return root


def tiny(seed: int = 0) -> Raw:
    """A 10 x 3 array on a strip of tissue in a slide that is wider than high, 0.2 of a pitch jittered.

    Pitch 40 px of 200 um: 5 um/px. Turned over, most spots lie on glass.
    """
    rng = np.random.default_rng(seed)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(4, 14), np.arange(7, 10), indexing="ij"))
    jitter = rng.uniform(-0.05, 0.05, (len(x), 2)) * PITCH
    spots = pd.DataFrame({"x": x, "y": y, "new_x": x + 0.1, "new_y": y - 0.1})
    spots["pixel_x"] = 80 + (x - 4) * PITCH + jitter[:, 0]
    spots["pixel_y"] = 65 + (y - 7) * PITCH + jitter[:, 1]
    spots["selected"] = 1
    spots = spots.sample(frac=1, random_state=1)
    ids = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    values = rng.poisson(2.0, (len(ids), 12))
    values[:, 5] = 0
    values[3] = 0
    counts = pd.DataFrame(values, index=ids, columns=[f"G{i}" for i in range(12)]).iloc[:-1]
    image = np.full((HEIGHT, WIDTH, 3), (238, 236, 240), np.uint8)
    image[slice(*TISSUE_Y), slice(*TISSUE_X)] = (180, 90, 160)
    return Raw(counts, spots, image)


def files_of(reader: Any, row: dict[str, str], root: Path) -> dict[str, Path]:
    return {role: Path(path) for role, path in reader.files(row, {}, root).items()}
