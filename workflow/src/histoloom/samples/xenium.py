"""Cells of a Xenium bundle (Onboard Analysis 1 to 4), placed on an H&E of the same section.

An observation is a cell; its place is the centroid in level-0 px of the H&E. The bundle's um are those of the
morphology image (0.2125 um/px, stated in ``experiment.xenium``). Control probes and codewords are no genes: dropped and
counted. A cell has no array coordinates: ``array_row`` and ``array_col`` are its y and x in steps of ``pitch_um``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.samples import geometry
from histoloom.samples.alignment import read_alignment, slide_mpp, to_slide
from histoloom.samples.counts import Counts, read_10x_h5
from histoloom.samples.reader import Reader, assemble, join, named_files, need, pictured, positions_at
from histoloom.samples.tables import as_numbers, as_text, check_unique, need_columns, read_json
from histoloom.slides import open_slide
from histoloom.text_tables import read_text_table

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

PITCH_UM = 10.0
PIXEL_SIZE_UM = 0.2125
MAX_OUTSIDE = 0.05
"""Share of cells that may lie outside the H&E (cut off by its frame); more stops the section."""

_MIN_TISSUE, _MARGIN = 0.5, 0.25
_REMEDY = "fetch it again."


class XeniumReader(Reader):
    """Xenium bundles; the sheet names the bundle's folder, the H&E and its alignment."""

    has_array: ClassVar[bool] = False
    on_grid: ClassVar[bool] = False
    unit: ClassVar[str] = "cell"
    # The step in which places are rounded for `array_row` and `array_col`.
    measures: ClassVar[Mapping[str, str]] = {"pitch_um": f"{PITCH_UM:g}"}

    @classmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return roles counts, cells, experiment and, with an H&E (unless `images: false`), image and alignment."""
        bundle = need(row, "bundle")
        files = {
            "counts": join(root, f"{bundle}/cell_feature_matrix.h5"),
            "cells": join(root, f"{bundle}/{row.get('cells') or 'cells.parquet'}"),
            "experiment": join(root, f"{bundle}/experiment.xenium"),
        }
        with_slide = ["image", "alignment"] if row.get("image") and pictured(spec) else []
        return {**files, **named_files(row, spec, root, with_slide)}

    @classmethod
    def polygons(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return the bundle's boundary tables: cells, nuclei; none where the cohort says ``outlines: false``."""
        if not spec.get("outlines", True):
            return {}
        bundle = need(row, "bundle")
        kinds = {"cells": "cell", "nuclei": "nucleus"}
        return {kind: join(root, f"{bundle}/{name}_boundaries.parquet") for kind, name in kinds.items()}

    @classmethod
    def read(cls, files: Mapping[str, Path], row: Mapping[str, str], spec: Mapping[str, Any]) -> AnnData:
        """Read the cells that have counts and a centroid, and place them on the H&E."""
        counts = read_10x_h5(Path(files["counts"]))
        cells = read_cells(Path(files["cells"]))
        facts = read_experiment(Path(files["experiment"]))
        counts, cells, dropped = _join(counts, cells, files)
        um = cells[["x_centroid", "y_centroid"]].to_numpy(np.float64)
        places, stated = _place(um, files, facts["pixel_size"])
        inside = stated.pop("inside")
        dropped |= {"outside_slide": int((~inside).sum()), "control_feature": sum(counts.other_features.values())}
        if not inside.all():
            counts, cells, places, um = counts.rows(inside), cells[inside], places[inside], um[inside]
        step = float(row.get("pitch_um") or PITCH_UM)
        areas = {f"{name}_um2": cells[name].to_numpy() for name in ("cell_area", "nucleus_area") if name in cells}
        section = assemble(counts, positions_at(np.floor(um[:, ::-1] / step), places, **areas), dropped)
        stated["facts"] = {**facts, "controls": dict(counts.other_features)}
        stated["spot_diameter_um"] = _diameter(cells)
        section.uns["stated"] = stated
        return section


class SimulatedXeniumReader(XeniumReader):
    """Simulated runs: a bundle's layout, and what each cell is next to it."""

    @classmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return roles counts, cells, experiment, image, alignment and truth (classes)."""
        files = super().files(_simulated(row), spec, root)
        return {**files, "truth": join(root, f"truth/{need(row, 'sample')}_classes.csv")}

    @classmethod
    def polygons(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return the boundary tables of cells and nuclei."""
        return super().polygons(_simulated(row), spec, root)

    @classmethod
    def tables(cls, spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return nothing: no labels are published for simulated runs."""
        return {}


def _simulated(row: Mapping[str, str]) -> dict[str, str]:
    sample = need(row, "sample")
    picture = {"image": f"{sample}_he_image.ome.tif", "alignment": f"{sample}_he_imagealignment.csv"}
    return {**row, "bundle": f"{sample}_outs", **picture}


def read_experiment(path: Path) -> dict[str, Any]:
    """Read what ``experiment.xenium`` says of the run: pixel_size (um), version, panel, number of cells."""
    stated = read_json(path, _REMEDY, "xenium-experiment")
    size = stated.get("pixel_size", PIXEL_SIZE_UM)
    if not isinstance(size, int | float) or not 0 < size < 10:
        raise InputError(path, f"pixel_size is {size!r}; um per pixel expected.", _REMEDY, code="xenium-pixel-size")
    kept = ("run_name", "region_name", "panel_name", "num_cells", "analysis_sw_version")
    return {"pixel_size": float(size), **{key: stated[key] for key in kept if key in stated}}


def read_cells(path: Path) -> pd.DataFrame:
    """Read ``cells.parquet`` or ``cells.csv.gz``.

    Index cell id as text (published as text, number or bytes); x_centroid, y_centroid um; the other columns as
    published.
    """
    if not path.is_file():
        raise InputError(path, "the table of cells is missing.", "put it there.", code="xenium-cells-missing")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else read_text_table(path)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(path, f"no readable table ({error}).", _REMEDY, code="xenium-cells-unreadable") from error
    need_columns(table, ("cell_id", "x_centroid", "y_centroid"), path, _REMEDY, "xenium-cells-columns")
    table.index = pd.Index(as_text(table["cell_id"].to_numpy()), dtype=object)
    check_unique(table.index, path, "cell")
    for column in {"x_centroid", "y_centroid", "cell_area", "nucleus_area"} & set(table):
        table[column] = as_numbers(table[column])
    bad = ~np.isfinite(table[["x_centroid", "y_centroid"]].to_numpy(np.float64)).all(axis=1)
    if bad.any():
        problem = f"cell '{table.index[bad][0]}' has no centroid ({int(bad.sum())} such)."
        raise InputError(path, problem, _REMEDY, code="xenium-centroid")
    return table.drop(columns="cell_id")


def _join(
    counts: Counts, cells: pd.DataFrame, files: Mapping[str, Path]
) -> tuple[Counts, pd.DataFrame, dict[str, int]]:
    shared = counts.obs_ids.isin(cells.index)
    if not shared.any():
        problem = f"no id is in {files['cells']}: {', '.join(counts.obs_ids[:3])} against {', '.join(cells.index[:3])}."
        raise InputError(files["counts"], problem, "take both files from one bundle.", code="xenium-cell-ids")
    dropped = {
        "cell_without_counts": int((~cells.index.isin(counts.obs_ids)).sum()),
        "counts_without_cell": int((~shared).sum()),
    }
    counts = counts if shared.all() else counts.rows(shared)
    return counts, cells.loc[counts.obs_ids], dropped


def _place(
    um: npt.NDArray[np.float64], files: Mapping[str, Path], pixel_size: float
) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """Map centroids to the slide; without one to the morphology image."""
    if "image" not in files:
        return um / pixel_size, {"mpp": {"alignment": pixel_size}, "inside": np.ones(len(um), bool)}
    matrix = read_alignment(Path(files["alignment"]))
    places = to_slide(um, matrix, pixel_size)
    inside = check_alignment(places, to_slide(um, np.asarray(np.linalg.inv(matrix), np.float64), pixel_size), files)
    return places, {"mpp": {"alignment": slide_mpp(matrix, pixel_size)}, "inside": inside}


def check_alignment(
    places: npt.NDArray[np.float64], turned: npt.NDArray[np.float64], files: Mapping[str, Path]
) -> npt.NDArray[np.bool_]:
    """Check that cells lie on the slide and on its tissue.

    `places`, `turned`: (n, 2), column and row on the H&E by the alignment, and by its inverse. Which cells lie on the
    slide.
    """
    with open_slide(files["image"]) as slide:
        thumbnail = slide.thumbnail(600)
        width, height = slide.width, slide.height
    inside = ~geometry.outside(places, width, height)
    inverse_inside = ~geometry.outside(turned, width, height)
    mask, scale = geometry.tissue_mask(thumbnail), max(thumbnail.shape) / max(width, height)
    share, inverse_share = (geometry.tissue_share(xy, mask, scale) for xy in (places, turned))
    logger.info("%.3f of the cells lie on the slide, %.2f on its tissue", inside.mean(), share)
    better = inverse_inside.mean() >= inside.mean() and inverse_share > share
    by_inverse = f" By its inverse {100 * inverse_inside.mean():.0f} % would lie on it: the matrix looks inverted."
    on_glass = better and share < _MIN_TISSUE <= inverse_share and inverse_share - share > _MARGIN
    if (~inside).sum() > MAX_OUTSIDE * len(inside) or on_glass:
        size = f"{width} x {height} px, {100 * share:.0f} % of all lie on its tissue"
        problem = f"{int((~inside).sum())} of {len(inside)} cells lie outside the slide {files['image']} of {size}."
        problem += by_inverse if better else ""
        remedy = "give this H&E's alignment csv as published (it maps H&E pixels to morphology pixels)."
        raise InputError(files["alignment"], problem, remedy, code="xenium-alignment")
    return inside


def _diameter(cells: pd.DataFrame) -> float:
    """Return the diameter of the disc that has the median cell's area, um; 10 where areas are not published."""
    area = float(np.nanmedian(cells["cell_area"])) if "cell_area" in cells else float("nan")
    return float(2 * np.sqrt(area / np.pi)) if np.isfinite(area) and area > 0 else PITCH_UM
