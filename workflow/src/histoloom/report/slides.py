"""Predictions over a new slide: the picture and the table that a user opens first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.exports.geojson import write_predictions
from histoloom.obs_keys import section_keys
from histoloom.report.maps import type_columns
from histoloom.report.style import PALETTE, crop, figure, frame_of, save, scale_bar, short_names, show_map, side_of
from histoloom.report.thumbnails import Thumbnail, read_thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch


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
        where = f"holds no prediction of {cohort}/{sample}."
        raise InputError(predictions, where, f"it has: {', '.join(known)}.", code="report-no-section")
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
    """Write a section's predictions as tsv: obs_id, x, y (centre, level-0 px), one column per type."""
    values, xy, _ = read_slide_predictions(predictions, cohort, sample)
    table = values.reset_index()
    table.insert(1, "x", xy[:, 0])
    table.insert(2, "y", xy[:, 1])
    table.to_csv(out, sep="\t", index=False, float_format="%.6g", lineterminator="\n")


def write_slide_geojson(
    *, predictions: Path, cohort: str, sample: str, out: Path, side_px: float | None = None
) -> None:
    """Write a section's predictions for QuPath, as squares of `side_px`; None: the grid's pitch, else the tile's side.

    Raises
    ------
    InputError
        If no side is known.
    """
    values, xy, facts = read_slide_predictions(predictions, cohort, sample)
    side = side_px or facts.get("pitch_px") or facts.get("tile_level0_px")
    if not side:
        where = f"does not state the tile's side for {cohort}/{sample}."
        raise InputError(predictions, where, "give side_px.", code="report-no-side")
    write_predictions(values=values, centres=xy, side=float(side), out=out)


def draw_slide(
    *,
    predictions: Path,
    cohort: str,
    sample: str,
    section: Path,
    out: Path,
    types: Sequence[str] | None = None,
    most: int = 10,
) -> None:
    """Draw the slide, the most abundant type of each tile, and `types`; None: the `most` that vary most."""
    values, xy, facts = read_slide_predictions(predictions, cohort, sample)
    thumbnail = read_thumbnail(section)
    spread = values.std(axis=0).sort_values(ascending=False, kind="stable")
    chosen = list(types) if types else list(spread.index[:most])
    type_columns(predictions, list(values.columns), chosen)
    side = float(facts.get("pitch_px") or facts.get("tile_level0_px") or side_of(xy))
    frame = frame_of(xy, side, thumbnail.image, thumbnail.scale)
    aspect = (frame[3] - frame[2]) / (frame[1] - frame[0])
    columns = min(4, len(chosen) + 2)
    lines = -(-(len(chosen) + 2) // columns)
    units = facts["units"] or "units of the labels"
    with figure(3.1 * columns, lines * (2.3 * aspect + 0.4) + 0.7) as fig:
        axes = fig.subplots(lines, columns, squeeze=False).ravel()
        for ax in axes:
            ax.set_axis_off()
        axes[0].imshow(thumbnail.image)
        axes[0].set_title("slide", fontsize=9)
        crop(axes[0], frame)
        if thumbnail.um_per_px:
            scale_bar(axes[0], 1000, thumbnail.um_per_px)
        handles = _dominant(axes[1], values, xy, thumbnail, side)
        fig.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, title="most abundant type"
        )
        crop(axes[1], frame)
        for ax, name in zip(axes[2:], chosen, strict=False):
            shown = values[name].to_numpy()
            high = float(np.quantile(shown, 0.99))
            limits = (0.0, high if high > 0 else 1.0)  # no cells is the lower end; linear models go below
            drawn = show_map(ax, thumbnail.image, thumbnail.scale, xy, shown, side, limits)
            crop(ax, frame)
            negative = (shown < 0).mean()
            ax.set_title(name + (f" ({negative:.0%} below 0)" if negative else ""), fontsize=9)
            bar = fig.colorbar(drawn, ax=ax, shrink=0.75, pad=0.01, extend="both" if negative else "max")
            bar.outline.set_visible(False)
            bar.set_label(units, fontsize=7)
        more = values.shape[1] - len(chosen)
        fig.suptitle(
            f"{sample} ({cohort}): predicted {units}, {len(values)} tiles"
            + (f"; {more} more types in the table" if more > 0 else "")
            + "\nNothing was measured on this slide: how far to trust it stands with the experiment it was trained in.",
            x=0.01, ha="left", fontsize=9.5,
        )  # fmt: skip
        save(fig, out)


def _dominant(ax: Axes, values: pd.DataFrame, xy: np.ndarray, thumbnail: Thumbnail, side: float) -> list[Patch]:
    """Draw the most abundant type of each tile, and return the legend; the six most frequent have a colour."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    dominant = values.idxmax(axis=1)
    frequent = list(dominant.value_counts().index[:6])
    codes = dominant.map({name: i for i, name in enumerate(frequent)}).fillna(len(frequent)).to_numpy()
    tones = [*PALETTE[: len(frequent)], "#BBBBBB"]
    drawn = show_map(ax, thumbnail.image, thumbnail.scale, xy, codes, side, (-0.5, len(frequent) + 0.5))
    drawn.set_cmap(ListedColormap(tones))
    names = short_names([str(name) for name in frequent], 18)
    handles = [Patch(color=tone, label=name) for tone, name in zip(tones, names, strict=False)]
    if (codes == len(frequent)).any():
        handles.append(Patch(color=tones[-1], label="other"))
    ax.set_title("most abundant type", fontsize=9)
    return handles


def report_slide(*, predictions: Path, section: Path, cohort: str, sample: str, out: Mapping[str, Path]) -> None:
    """Write a slide's predictions as ``table`` (tsv) and ``geojson``, and draw them as ``figure``."""
    which: dict[str, Any] = {"predictions": predictions, "cohort": cohort, "sample": sample}
    write_slide_table(**which, out=out["table"])
    write_slide_geojson(**which, out=out["geojson"])
    draw_slide(**which, section=section, out=out["figure"])
