"""Predictions over a new slide: the picture and the table that a user opens first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.obs_keys import section_keys
from histoloom.report.style import crop, figure, frame_of, save, scale_bar, show_map
from histoloom.report.thumbnails import read_thumbnail


def read_slide_predictions(
    predictions: Path, cohort: str, sample: str
) -> tuple[pd.DataFrame, np.ndarray, dict[str, Any]]:
    """Return one section's predictions.

    Parameters
    ----------
    predictions
        h5ad of an apply experiment (or of held-out observations).
    cohort, sample
        The section.

    Returns
    -------
    values
        (n, types), index = obs_id.
    xy
        (n, 2) centres (x, y), level-0 px.
    facts
        ``tile_level0_px``, ``mpp`` and ``units``, where known.

    Raises
    ------
    InputError
        If the section was not predicted.
    """
    import anndata

    data = anndata.read_h5ad(predictions)
    at = ((data.obs["cohort"].astype(str) == cohort) & (data.obs["sample"].astype(str) == sample)).to_numpy()
    if not at.any():
        known = sorted(set(section_keys(data.obs)))
        raise InputError(predictions, f"holds no prediction of {cohort}/{sample}.", f"it has: {', '.join(known)}.")
    values = np.asarray(data.X[at], dtype=np.float64)
    frame = pd.DataFrame(
        values, index=pd.Index(data.obs["obs_id"].astype(str)[at], name="obs_id"), columns=list(data.var_names)
    )
    metadata = read_metadata(predictions)
    facts: dict[str, Any] = {"units": metadata.get("units", "")}
    for section in metadata.get("sections") or []:
        if (section["cohort"], section["sample"]) == (cohort, sample):
            facts.update(section)
    return frame, np.asarray(data.obsm["spatial"], dtype=np.float64)[at], facts


def write_slide_table(*, predictions: Path, cohort: str, sample: str, out: Path) -> None:
    """Write a section's predictions as tsv: obs_id, x, y (centre, level-0 px), one column per type.

    Parameters
    ----------
    predictions, cohort, sample
        See `read_slide_predictions`.
    out
        tsv.
    """
    values, xy, _ = read_slide_predictions(predictions, cohort, sample)
    table = values.reset_index()
    table.insert(1, "x", xy[:, 0])
    table.insert(2, "y", xy[:, 1])
    table.to_csv(out, sep="\t", index=False, float_format="%.6g", lineterminator="\n")


def draw_apply(
    *,
    predictions: Path,
    cohort: str,
    sample: str,
    section: Path,
    out: Path,
    types: Sequence[str] | None = None,
    most: int = 11,
) -> None:
    """Draw the slide and the predicted abundance of its types.

    Parameters
    ----------
    predictions, cohort, sample
        See `read_slide_predictions`.
    section
        The section's artefact, for its picture.
    out
        png.
    types
        Types to draw; None: those that vary most over the slide, `most` at most.
    most
        See `types`.
    """
    values, xy, facts = read_slide_predictions(predictions, cohort, sample)
    thumbnail = read_thumbnail(section)
    spread = values.std(axis=0).sort_values(ascending=False, kind="stable")
    chosen = list(types) if types else list(spread.index[:most])
    missing = [name for name in chosen if name not in values]
    if missing:
        raise InputError(predictions, f"has no type '{missing[0]}'.", f"use: {', '.join(values.columns)}.")
    side = float(facts.get("pitch_px") or facts.get("tile_level0_px") or _grid_side(xy))
    frame = frame_of(xy, side, thumbnail.image, thumbnail.scale)
    aspect = (frame[3] - frame[2]) / (frame[1] - frame[0])
    columns = min(4, len(chosen) + 1)
    lines = -(-(len(chosen) + 1) // columns)
    with figure(2.9 * columns, lines * (2.3 * aspect + 0.35) + 0.5) as fig:
        axes = fig.subplots(lines, columns, squeeze=False).ravel()
        axes[0].imshow(thumbnail.image)
        axes[0].set_title("slide", fontsize=9)
        axes[0].set_axis_off()
        crop(axes[0], frame)
        if thumbnail.um_per_px:
            scale_bar(axes[0], 1000, thumbnail.um_per_px)
        for ax, name in zip(axes[1:], chosen, strict=False):
            shown = values[name].to_numpy()
            high = float(np.quantile(shown, 0.99))
            limits = (0.0, high if high > 0 else 1.0)  # no cells is the lower end; linear models go below
            drawn = show_map(ax, thumbnail.image, thumbnail.scale, xy, shown, side, limits)
            crop(ax, frame)
            ax.set_title(f"{name} (mean {shown.mean():.2g})", fontsize=9)
            fig.colorbar(
                drawn, ax=ax, shrink=0.75, pad=0.01, extend="both" if shown.min() < 0 else "max"
            ).outline.set_visible(False)
        for ax in axes[len(chosen) + 1 :]:
            ax.set_axis_off()
        more = values.shape[1] - len(chosen)
        fig.suptitle(
            f"{sample} ({cohort}): predicted abundance, {facts['units'] or 'units of the labels'}, {len(values)} tiles"
            + (f"; {more} more types in the table" if more > 0 else "")
            + ". No expression was measured here: nothing says how right this is.",
            x=0.01, ha="left", fontsize=9.5,
        )  # fmt: skip
        save(fig, out)


def _grid_side(xy: np.ndarray) -> float:
    """Return the distance of neighbouring centres, level-0 px."""
    from scipy.spatial import cKDTree

    return float(np.median(cKDTree(xy).query(xy, k=2)[0][:, 1])) if len(xy) > 1 else 200.0
