"""A section's picture and facts, read from its artefact without its counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError


@dataclass(frozen=True)
class Thumbnail:
    """The picture of a section.

    Attributes
    ----------
    image
        (h, w, 3) uint8.
    scale
        Thumbnail px per level-0 px.
    metadata
        Of the section.
    """

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
    import h5py

    metadata = read_metadata(path)
    with h5py.File(path, "r") as handle:
        group = handle.get(f"uns/spatial/{metadata.get('sample')}")
        if group is None:
            raise InputError(
                path,
                "holds no picture of the section.",
                "remove it, so that it is made anew.",
                code="report-no-picture",
            )
        image = np.asarray(group["images/hires"])
        scale = float(group["scalefactors/tissue_hires_scalef"][()])
    return Thumbnail(image, scale, metadata)


def find_section(samples: Sequence[str | Path], cohort: str, sample: str) -> Path:
    """Return the artefact of a section among several."""
    for path in map(Path, samples):
        metadata = read_metadata(path)
        if (metadata.get("cohort"), metadata.get("sample")) == (cohort, sample):
            return path
    raise InputError(
        f"{cohort}/{sample}",
        "its section artefact is not among those given.",
        "give the sections that were predicted.",
        code="report-no-section",
    )
