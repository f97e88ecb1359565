"""Predictions over a new slide: the picture and the table that a user opens first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.exports.geojson import offset_of, write_predictions
from histoloom.metrics.held_out import Scores
from histoloom.obs_keys import section_keys
from histoloom.report.section_view import SectionView, view_section
from histoloom.report.style import PALETTE, drawing, heading, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch


def read_slide_predictions(
    predictions: Path, cohort: str, sample: str
) -> tuple[pd.DataFrame, np.ndarray, dict[str, Any]]:
    """Return a section's predictions (n, types) by obs_id, centres (n, 2) in level-0 px, and facts.

    Facts are ``units`` and, where known, ``size_level0_px``, ``pitch_px``, ``mpp``, ``spread`` (n, types) over models,
    ``unlike`` (n,): tiles unlike those of training, ``tissue`` (tissue_fraction and edge by obs_id), and ``negative``:
    what became of values below 0.
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
    shared = metadata.get("shared_patients") or []
    if "spread" in data.layers:
        facts["spread"] = np.asarray(data.layers["spread"][at], np.float64)
    if "unlike_training" in data.obs:
        facts["unlike"] = data.obs["unlike_training"].to_numpy(bool)[at]
    if {"tissue_fraction", "edge"} <= set(data.obs):
        facts["tissue"] = data.obs.loc[at, ["tissue_fraction", "edge"]].astype(float).set_axis(frame.index)
    facts["negative"] = metadata.get("negative") or {}
    for section in metadata.get("sections") or []:
        if (section["cohort"], section["sample"]) == (cohort, sample):
            facts.update(section)
            facts["in_training"] = section.get("patient") in shared
    return frame, np.asarray(data.obsm["spatial"], dtype=np.float64)[at], facts


def report_slide(
    *,
    predictions: Path,
    section: Path,
    cohort: str,
    sample: str,
    out: Mapping[str, Path],
    crop: bool = True,
    held_out: Scores | None = None,
) -> None:
    """Write a section's predictions as ``table`` and as squares for QuPath, ``geojson``, and draw them as ``figure``.

    The tsv has obs_id, ``x [px]``, ``y [px]`` (centre, level-0 px), a column per type with its units, ``<type> sd``
    (over the models of all folds and seeds) and, where known, tissue_fraction, edge and unlike_training (0 or 1);
    squares have the side of the grid, else of a tile, and the same numbers. ``types`` is a table of the types with
    their correlation on held-out sections (`held_out`). `crop`: see `histoloom.exports.geojson`.
    """
    values, xy, facts = read_slide_predictions(predictions, cohort, sample)
    unit = f" [{facts['units']}]" if facts["units"] else ""
    numbers = values.add_suffix(unit)
    if "spread" in facts:
        spread = pd.DataFrame(facts["spread"], values.index, values.columns).add_suffix(f" sd{unit}")
        numbers = numbers.join(spread.dropna(axis=1, how="all"))
    if "tissue" in facts:
        numbers = numbers.join(facts["tissue"])
    if "unlike" in facts:
        numbers["unlike_training"] = facts["unlike"].astype(int)
    table = numbers.reset_index()
    table.insert(1, "x [px]", xy[:, 0])
    table.insert(2, "y [px]", xy[:, 1])
    table.to_csv(out["table"], sep="\t", index=False, float_format="%.6g", lineterminator="\n")
    if "types" in out:
        describe_types(values, facts["units"], held_out or {}).to_csv(
            out["types"], sep="\t", index=False, float_format="%.4g", lineterminator="\n"
        )
    side = facts.get("pitch_px") or facts.get("size_level0_px")
    if not side:
        problem = f"does not state the tile's side for {cohort}/{sample}."
        raise InputError(predictions, problem, "remove it, so that it is made anew.", code="report-no-side")
    offset = offset_of(read_metadata(section), crop)
    write_predictions(values=values, measured=numbers, centres=xy, side=float(side), out=out["geojson"], offset=offset)
    view = view_section(section, xy, float(side))
    units, unlike = facts["units"] or "units of the labels", facts.get("unlike")
    name, in_training = f"{sample} ({cohort})", bool(facts.get("in_training"))
    draw_slide(values, view, name, units, out["figure"], unlike=unlike, in_training=in_training)


def describe_types(values: pd.DataFrame, units: str, held_out: Scores) -> pd.DataFrame:
    """Return the types of predictions (n, types), the best-tested first: how far to trust each, and what it looks like.

    Columns are type, units, held_out_r (NaN where it is not known), mean, q99 and share_most_abundant (of tiles).
    """
    best = values.idxmax(axis=1).value_counts(normalize=True)
    table = pd.DataFrame(
        {
            "type": values.columns,
            "units": units,
            "held_out_r": [held_out.get(str(name), {}).get("mean", np.nan) for name in values.columns],
            "mean": values.mean().to_numpy(),
            "q99": values.quantile(0.99).to_numpy(),
            "share_most_abundant": best.reindex(values.columns, fill_value=0.0).to_numpy(),
        }
    )
    return table.sort_values("held_out_r", ascending=False, kind="stable", na_position="last")


def draw_slide(
    values: pd.DataFrame,
    view: SectionView,
    name: str,
    units: str,
    out: Path,
    *,
    unlike: npt.NDArray[np.bool_] | None = None,
    in_training: bool = False,
    most: int = 10,
) -> None:
    """Draw the slide, the most abundant type of each tile, and the `most` types that vary most.

    Tiles `unlike` training (n,) are marked on the slide.
    """
    chosen = values.std(axis=0).sort_values(ascending=False, kind="stable").index[:most]
    columns = min(4, len(chosen) + 2)
    lines = -(-(len(chosen) + 2) // columns)
    with drawing(out, 3.1 * columns, lines * (2.3 * view.aspect + 0.4) + 0.7) as fig:
        axes = fig.subplots(lines, columns, squeeze=False).ravel()
        for ax in axes:
            ax.set_axis_off()
        axes[0].imshow(view.image)
        title = "slide"
        if unlike is not None:
            title += f"; {unlike.mean():.0%} of tiles are unlike training" + (" (red)" if unlike.any() else "")
            view.outline(axes[0], unlike)
        axes[0].set_title(title, fontsize=9)
        view.crop(axes[0])
        view.scale_bar(axes[0])
        handles = _dominant(axes[1], values, view)
        title = "most abundant type"
        fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, title=title)
        for ax, column in zip(axes[2:], chosen, strict=False):
            shown = values[column].to_numpy()
            high = float(np.quantile(shown, 0.99))
            # No cells is the lower end; linear models go below.
            drawn = view.show(ax, shown, (0.0, high if high > 0 else 1.0))
            negative = (shown < 0).mean()
            ax.set_title(column + (f" ({negative:.0%} below 0)" if negative else ""), fontsize=9)
            bar = fig.colorbar(drawn, ax=ax, shrink=0.75, pad=0.01, extend="both" if negative else "max")
            bar.outline.set_visible(False)
            bar.set_label(units, fontsize=7)
        more = values.shape[1] - len(chosen)
        heading(
            fig,
            f"{name}: predicted {units}, {len(values)} tiles"
            + (f"; {more} more types in the table" if more > 0 else "")
            + "\nNothing was measured on this slide: how far to trust it stands with the experiment it was trained in."
            + (
                "\nThe model was trained on this patient: agreement with it says nothing of new patients."
                if in_training
                else ""
            ),
        )


def _dominant(ax: Axes, values: pd.DataFrame, view: SectionView) -> list[Patch]:
    """Draw the most abundant type of each tile, and return the legend; the six most frequent have a colour."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    dominant = values.idxmax(axis=1)
    frequent = list(dominant.value_counts().index[:6])
    codes = dominant.map({name: i for i, name in enumerate(frequent)}).fillna(len(frequent)).to_numpy()
    tones = [*PALETTE[: len(frequent)], "#BBBBBB"]
    view.show(ax, codes, (-0.5, len(frequent) + 0.5)).set_cmap(ListedColormap(tones))
    names = short_names([str(name) for name in frequent], 18)
    handles = [Patch(color=tone, label=name) for tone, name in zip(tones, names, strict=False)]
    if (codes == len(frequent)).any():
        handles.append(Patch(color=tones[-1], label="other"))
    ax.set_title("most abundant type", fontsize=9)
    return handles
