"""A sample as SpatialData zarr, where the package spatialdata is installed.

The zarr holds the table (counts, obs), the spots or cells as circles or outlines, and the two thumbnails as images, all
in one coordinate system ``global``: level-0 px of the slide. The slide itself stays where it is.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError

logger = logging.getLogger(__name__)

INSTALL = "install spatialdata beside histoloom (pip install spatialdata), or use the sample's h5ad and QuPath GeoJSON."


def write_spatialdata(*, sample: Path, out: Path, cells: Path | None = None) -> None:
    """Write a SpatialData zarr store.

    Parameters
    ----------
    sample
        A canonical sample.
    out
        Folder to write; must not exist.
    cells
        Outlines of cells (`histoloom.samples.polygons.write_polygons`), instead of circles.

    Raises
    ------
    InputError
        If spatialdata is not installed, the file is no sample, or `out` exists.
    """
    try:
        import geopandas
        import spatialdata
        from spatialdata.models import Image2DModel, ShapesModel, TableModel
        from spatialdata.transformations import Identity, Scale
    except ImportError as error:
        raise InputError("SpatialData export", f"needs the package '{error.name}'.", INSTALL) from error
    import anndata

    facts = read_metadata(sample)
    if "mpp" not in facts or "sample" not in facts:
        raise InputError(sample, "is no sample of histoloom.", "give a file of results/samples/.")
    if out.exists():
        raise InputError(out, "exists already.", "remove it, or give another name.")
    section = anndata.read_h5ad(sample)
    name = facts["sample"]
    shapes = _shapes(section, facts, cells, geopandas, ShapesModel, Identity())
    if len(shapes) != section.n_obs:
        section = section[section.obs_names.isin(shapes.index)].copy()
    images = {}
    thumbnails = section.uns["spatial"][name]
    for level in ("hires", "lowres"):
        scale = float(thumbnails["scalefactors"][f"tissue_{level}_scalef"])
        to_slide = Scale([1 / scale, 1 / scale], axes=("x", "y"))
        pixels = np.moveaxis(np.asarray(thumbnails["images"][level]), 2, 0)
        images[f"{name}_{level}"] = Image2DModel.parse(
            pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations={"global": to_slide}
        )
    unit = f"{name}_{facts.get('unit', 'spot')}s"
    section.obs["region_key"] = unit
    section.obs["region_key"] = section.obs["region_key"].astype("category")
    section.obs["obs_id"] = section.obs_names.astype(str)
    del section.uns["spatial"]
    table = TableModel.parse(section, region=unit, region_key="region_key", instance_key="obs_id")
    store = spatialdata.SpatialData(images=images, shapes={unit: shapes}, tables={"table": table})
    store.write(out)
    logger.info("%s: %s", out, store)


def _shapes(section: Any, facts: Any, cells: Path | None, geopandas: Any, model: Any, identity: Any) -> Any:
    """Return circles around the centres, or the cells' outlines."""
    if cells is None:
        radius = facts["spot_diameter_um"] / facts["mpp"] / 2
        places = np.asarray(section.obsm["spatial"])
        return model.parse(
            places, geometry=0, radius=radius, index=section.obs_names, transformations={"global": identity}
        )
    outlines = geopandas.read_parquet(cells)
    outlines = outlines.drop_duplicates("cell_id").set_index("cell_id")
    names = section.obs_names[section.obs_names.isin(outlines.index)]
    return model.parse(outlines.loc[names, ["geometry"]], transformations={"global": identity})
