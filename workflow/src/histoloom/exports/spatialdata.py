"""A sample as SpatialData zarr, where the package spatialdata is installed.

The zarr holds the table (counts or predictions, obs), the spots or cells as circles or outlines, and the thumbnails as
images, all in one coordinate system ``global``: level-0 px of the slide. A slide that states a scanned area (MRXS,
SCN) has a second one, ``cropped``, which begins at that area's corner, as QuPath shows it. The slide itself stays where
it is.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.samples.polygons import count_outlined
from histoloom.samples.spatialdata import need_spatialdata

logger = logging.getLogger(__name__)


def write_spatialdata(*, sample: Path, out: Path, cells: Path | None = None, nuclei: Path | None = None) -> None:
    """Write a SpatialData zarr store, a folder that must not exist.

    With outlines (`histoloom.samples.polygons.write_polygons`) cells are no circles, and those without one are left
    out; nuclei are shapes of their own, indexed by cell.
    """
    need_spatialdata("SpatialData export")
    import anndata
    import geopandas
    import spatialdata
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale, Sequence, Translation

    facts = read_metadata(sample)
    if "mpp" not in facts or "sample" not in facts:
        raise InputError(sample, "is no section.", "give a file of results/samples/.", code="export-no-section")
    if out.exists():
        raise InputError(out, "exists already.", "remove it, or give another name.", code="export-exists")
    section = anndata.read_h5ad(sample)
    name = facts["sample"]
    frames: dict[str, Any] = {"global": Identity()}
    if "slide_bounds" in facts:
        frames["cropped"] = Translation([-float(at) for at in facts["slide_bounds"]], axes=("x", "y"))
    if cells is None:
        shapes = _circles(section, facts, ShapesModel, frames)
    else:
        shapes = _outlines(section, cells, geopandas, ShapesModel, frames)
        section = section[section.obs_names.isin(shapes.index)].copy()
    more = {f"{name}_nuclei": _outlines(section, nuclei, geopandas, ShapesModel, frames)} if nuclei else {}
    images = {}
    thumbnails = section.uns["spatial"][name]
    for level in thumbnails["images"]:
        scale = float(thumbnails["scalefactors"][f"tissue_{level}_scalef"])
        to_slide = Scale([1 / scale, 1 / scale], axes=("x", "y"))
        placed = {system: Sequence([to_slide, frame]) for system, frame in frames.items()}
        pixels = np.moveaxis(np.asarray(thumbnails["images"][level]), 2, 0)
        images[f"{name}_{level}"] = Image2DModel.parse(
            pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations=placed
        )
    unit = f"{name}_{facts.get('unit', 'spot')}s"
    section.obs["region_key"] = unit
    section.obs["region_key"] = section.obs["region_key"].astype("category")
    section.obs["obs_id"] = section.obs_names.astype(str)
    del section.uns["spatial"]
    table = TableModel.parse(section, region=unit, region_key="region_key", instance_key="obs_id")
    store = spatialdata.SpatialData(images=images, shapes={unit: shapes, **more}, tables={"table": table})
    store.write(out)
    logger.info("%s: %s", out, store)


def _circles(section: Any, facts: Any, model: Any, frames: dict[str, Any]) -> Any:
    """Return circles of the spots' size around the centres."""
    radius = facts["spot_diameter_um"] / facts["mpp"] / 2
    places = np.asarray(section.obsm["spatial"])
    return model.parse(places, geometry=0, radius=radius, index=section.obs_names, transformations=frames)


def _outlines(section: Any, path: Path, geopandas: Any, model: Any, frames: dict[str, Any]) -> Any:
    """Return outlines in the cells' order; of several nuclei of a cell the largest."""
    outlines = geopandas.read_parquet(path)
    outlines = outlines.iloc[np.argsort(-outlines.geometry.area.to_numpy(), kind="stable")].drop_duplicates("cell_id")
    outlines = outlines.set_index("cell_id")
    count_outlined(path, section.obs_names, outlines.index)
    names = section.obs_names[section.obs_names.isin(outlines.index)]
    return model.parse(outlines.loc[names, ["geometry"]], transformations=frames)
