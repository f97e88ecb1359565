"""The stage `tiles`: one table per section and tile spec, with every observation and whether its tile counts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import identity_of, write_parquet
from histoloom.errors import InputError
from histoloom.identity import make_identity, sha256_file
from histoloom.samples.section import open_section
from histoloom.slides import BlankSlide, Slide, open_slide
from histoloom.tiles import artefacts
from histoloom.tiles.background import tissue_fraction
from histoloom.tiles.picture import draw_tiles
from histoloom.tiles.reading import corner, needs_scaling
from histoloom.tiles.spec import TileSpec

logger = logging.getLogger(__name__)

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

REASONS = ("outside", "border", "background", *artefacts.KINDS)
"""Why a tile is dropped; the first that holds is given."""


def cut_tiles(*, sample: Path, slide: Path | None, spec: Mapping[str, Any], out: Path, picture: Path) -> None:
    """Decide for every observation of a section whether its tile counts.

    Without a slide there is no tissue to see: tiles are squares around places, for models that read no pixel.
    `out`: parquet to write: obs_id, x, y (centre, level-0 px), tissue_fraction, kept, reason.
    """
    tiles, section = TileSpec.from_dict(spec), open_section(sample)
    facts = section.metadata
    mpp = float(facts["mpp"])
    side = tiles.size_level0_px(mpp)
    if slide is None and tiles.background.method != "none":
        problem = f"has no slide that background.method {tiles.background.method} could look at."
        raise InputError(sample, problem, "write `background: {method: none}`, or give the slide.", "tiles-no-slide")
    with open_slide(slide) if slide else BlankSlide.around(section.spatial) as image:
        check_slide(image, facts, sample)
        frame = tile_table(image, section.obs.index, section.spatial, tiles, mpp)
        seen = facts.get("slide_sha256") or (sha256_file(slide) if slide else "none")
        inputs = {"sample": identity_of(sample), "slide": seen}
        metadata = _metadata(frame, tiles, facts, side, inputs)
        dropped = ", ".join(f"{metadata[f'n_{reason}']} {reason}" for reason in REASONS)
        text = "%s: kept %d of %d tiles (dropped: %s); square of %.2f level-0 px = %.1f um"
        logger.info(text, sample, metadata["n_kept"], len(frame), dropped, side, side * mpp)
        if metadata["n_kept"] == 0:
            most = f"tissue fraction at most {max(metadata['tissue_fraction_quartiles'], default=0):.3f}"
            problem = f"no tile of sample '{facts['sample']}' is kept ({len(frame)} observations: {dropped}; {most})."
            remedy = (
                "fix the coordinates (outside), use `border: pad` (border), lower background.min_tissue or choose "
                "another background.method (background), shorten background.artefacts (pen, blur), or give the section "
                "a reason in the sheet's 'exclude' column."
            )
            raise InputError(sample, problem, remedy, code="tiles-none-kept")
        draw_tiles(image, frame, tiles, side, metadata, picture)
    write_parquet(frame, out, metadata)


def check_slide(image: Slide, facts: Mapping[str, Any], sample: Path) -> None:
    """Check that a slide has the size that the section's coordinates refer to."""
    expected = (facts.get("slide_width"), facts.get("slide_height"))
    if None not in expected and expected != (image.width, image.height):
        size = f"{image.width} x {image.height} px"
        problem = f"is {size}, but {sample} was made with {expected[0]} x {expected[1]} px."
        raise InputError(image.path, problem, "it has changed: make the section again.", code="tiles-slide-size")


def tile_table(
    image: Slide, obs_ids: pd.Index, centres: npt.NDArray[np.float64], tiles: TileSpec, mpp: float
) -> pd.DataFrame:
    """Return the table of tiles.

    `obs_ids`, `centres`: ids (n,) and centres (n, 2) in level-0 px; `mpp`: um per level-0 px.
    """
    side = tiles.size_level0_px(mpp)
    share = tissue_fraction(image, centres, side, mpp, tiles.background)
    reason = np.full(len(centres), "", dtype=object)
    for kind, share_of_kind in artefacts.shares(image, centres, side, mpp, tiles.background, share).items():
        reason[share_of_kind > tiles.background.max_artefact] = kind
    if tiles.background.method != "none":
        reason[share < np.float32(tiles.background.min_tissue)] = "background"
    if tiles.border == "drop":
        reason[leaves(np.nan_to_num(centres), side, tiles.size_px, image.width, image.height)] = "border"
    reason[outside(centres, image.width, image.height)] = "outside"
    return pd.DataFrame(
        {
            "obs_id": obs_ids.astype(str).to_numpy(dtype=object),
            "x": centres[:, 0],
            "y": centres[:, 1],
            "tissue_fraction": share,
            "kept": reason == "",
            "reason": reason,
        }
    )


def _metadata(
    frame: pd.DataFrame, tiles: TileSpec, facts: Mapping[str, Any], side: float, inputs: Mapping[str, str]
) -> dict[str, Any]:
    mpp = float(facts["mpp"])
    params = {"spec": tiles.as_dict(), "mpp": mpp}
    quartiles = np.quantile(frame["tissue_fraction"], [0, 0.25, 0.5, 0.75, 1]) if len(frame) else ()
    return {
        **params,
        **{key: facts[key] for key in ("cohort", "sample", "patient")},
        "size_level0_px": side,
        "um_per_px": tiles.effective_um_per_px(mpp),
        "n_obs": len(frame),
        "n_kept": int(frame["kept"].sum()),
        **{f"n_{reason}": int((frame["reason"] == reason).sum()) for reason in REASONS},
        "tissue_fraction_quartiles": [round(float(quartile), 4) for quartile in quartiles],
        "identity": make_identity("tiles", params, inputs),
    }


def leaves(centres: Float, size_level0_px: float, size_px: int, width: int, height: int) -> Bool:
    """Tell for each square whether it leaves the slide by half a px or more.

    Half a px is what rounding an unscaled tile to whole px may cost; a scaled one is treated alike. `centres`: (n, 2),
    x and y, level-0 px; `size_level0_px`, `size_px`: side of the square in level-0 px, and of the tile; `width`,
    `height`: size of the slide, px.
    """
    low = np.asarray(centres, np.float64) - size_level0_px / 2
    if not needs_scaling(size_level0_px, size_px):
        first = corner(centres, size_px)
        beyond: Bool = (first < 0) | (first + size_px > np.array([width, height]))
    else:
        beyond = (low < -0.5) | (low + size_level0_px > np.array([width, height]) + 0.5)
    either: Bool = beyond[:, 0] | beyond[:, 1]
    return either


def outside(centres: Float, width: int, height: int) -> Bool:
    """Tell for each centre whether it is no point of the slide (NaN included)."""
    x, y = np.asarray(centres, np.float64).T
    return ~((x >= 0) & (x <= width) & (y >= 0) & (y <= height))
