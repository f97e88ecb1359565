"""Count nuclei under the spots of a section."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import identities_of, write_parquet
from histoloom.errors import InputError
from histoloom.identity import make_identity
from histoloom.nuclei.find import find_nuclei, reduced
from histoloom.samples.section import open_section
from histoloom.slides import Slide, open_slide

logger = logging.getLogger(__name__)

_MARGIN_UM = 15.0


def count_spot(slide: Slide, x: float, y: float, diameter_um: float, mpp: float) -> tuple[int, float] | None:
    """Return nuclei with their centre under a spot's disc, and their area in um2; None where the disc leaves the slide.

    `x`, `y`: centre, level-0 px; `mpp`: um per level-0 px.
    """
    radius, reach = diameter_um / 2 / mpp, (diameter_um / 2 + _MARGIN_UM) / mpp
    if min(x, y) < radius or x + radius > slide.width or y + radius > slide.height:
        return None
    left, top = max(0, int(x - reach)), max(0, int(y - reach))
    right, bottom = min(slide.width, int(x + reach) + 1), min(slide.height, int(y + reach) + 1)
    tile, scale = reduced(slide.read(left, top, right - left, bottom - top), mpp)
    nuclei = find_nuclei(tile, mpp * scale)
    inside = np.hypot(nuclei[:, 0] * scale + left - x, nuclei[:, 1] * scale + top - y) <= radius
    return int(inside.sum()), float(nuclei[inside, 2].sum())


def count_nuclei(*, spec: Mapping[str, Any], sample: Path, slide: Path, out: Path) -> None:
    """Write the nuclei under each spot of a section.

    `spec`: ``disc_um``: diameter of the disc; null: the section's spot diameter. `out`: parquet: obs_id, nuclei (NaN
    where the disc leaves the slide), nuclei_area_um2; metadata: cohort, sample, patient, qc_flag, mpp, disc_um,
    ``median``.
    """
    section = open_section(sample)
    metadata = section.metadata
    mpp = float(metadata.get("mpp") or "nan")
    disc = float(spec.get("disc_um") or metadata.get("spot_diameter_um") or "nan")
    if not (mpp > 0 and disc > 0):
        problem = "its um per px or spot diameter is not known."
        raise InputError(sample, problem, "fill mpp and spot_diameter_um in the sheet.", code="nuclei-scale")
    with open_slide(slide) as picture:
        counts = [count_spot(picture, float(x), float(y), disc, mpp) for x, y in section.spatial]
    table = pd.DataFrame(
        {
            "obs_id": list(section.obs.index),
            "nuclei": [np.nan if item is None else float(item[0]) for item in counts],
            "nuclei_area_um2": [np.nan if item is None else item[1] for item in counts],
        }
    )
    median = float(table["nuclei"].median())
    logger.info("%s: median of %.0f nuclei under %d spots of %g um", metadata.get("sample"), median, len(table), disc)
    facts = {key: metadata.get(key) for key in ("cohort", "sample", "patient", "qc_flag", "mpp")}
    identity = make_identity("nuclei", {"spec": dict(spec)}, identities_of({"sample": sample, "slide": slide}))
    write_parquet(table, out, {**facts, "disc_um": disc, "median": median, "identity": identity})
