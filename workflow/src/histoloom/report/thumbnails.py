"""A section's picture and facts, read from its artefact without its counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoloom.artefacts import read_elements
from histoloom.errors import InputError
from histoloom.samples.section import open_section


@dataclass(frozen=True)
class Thumbnail:
    """The picture of a section: image (h, w, 3) uint8, thumbnail px per level-0 px, and the section's metadata."""

    image: np.ndarray
    scale: float
    metadata: Mapping[str, Any]

    @property
    def um_per_px(self) -> float | None:
        """Return um per px of the thumbnail, None where the slide's mpp is not known."""
        mpp = self.metadata.get("mpp")
        return float(mpp) / self.scale if mpp else None


def read_thumbnail(path: str | Path) -> Thumbnail:
    """Read the picture that lies in a section's artefact."""
    section = open_section(path)
    image, key = section.picture("hires"), f"uns/spatial/{section.sample}/scalefactors/tissue_hires_scalef"
    if image is None:
        problem = "holds no picture of the section."
        raise InputError(path, problem, "remove it, so that it is made anew.", code="report-no-picture")
    return Thumbnail(image, float(read_elements(path, [key])[key]), section.metadata)


def find_section(samples: Sequence[str | Path], cohort: str, sample: str) -> Path:
    """Return the artefact of a section among several."""
    for path in map(Path, samples):
        section = open_section(path)
        if (section.cohort, section.sample) == (cohort, sample):
            return path
    problem = "its section artefact is not among those given."
    raise InputError(f"{cohort}/{sample}", problem, "give the sections that were predicted.", code="report-no-section")
