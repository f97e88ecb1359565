"""A user's own sections: counts, positions and an image, in the formats people have."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoloom.errors import InputError
from histoloom.samples.counts import Counts, StoredSection, read_counts, read_h5ad
from histoloom.samples.reader import MAX_UNMATCHED, Reader, join_counts_and_positions, named_files
from histoloom.samples.tables import read_positions, tidy_positions

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

CELL_UM = 10.0
"""Pitch and diameter of free places, where the sheet gives none: about a cell's."""

logger = logging.getLogger(__name__)


class FilesReader(Reader):
    """Sections described by a sheet with paths; see `histoloom.samples.counts` and `...tables` for the formats."""

    @classmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return roles counts, image (unless `images: false`) and, where the sheet names it, positions."""
        needed = ["counts", "image", *([] if row.get("counts", "").endswith(".h5ad") else ["positions"])]
        return named_files(row, spec, root, needed, "positions")

    @classmethod
    def read(cls, files: Mapping[str, Path], row: Mapping[str, str], spec: Mapping[str, Any]) -> AnnData:
        """Read counts and positions and join them by id.

        An h5ad may hold the positions itself: obs array_row, array_col (in_tissue, region) and obsm["spatial"]. Without
        array coordinates the places are free, as those of cells are.
        """
        path, layer = Path(files["counts"]), row.get("counts_layer", "")
        places_file = Path(files.get("positions", path))
        if path.name.lower().endswith(".h5ad"):
            stored = read_h5ad(path, layer, row.get("library_id", ""))
            counts = stored.counts
            given = "positions" in files
            places = (
                read_positions(places_file, array_optional=True)
                if given
                else positions_of(stored, path, array_optional=True)
            )
        else:
            counts, places = read_counts(path, layer), read_positions(places_file, array_optional=True)
        counts = as_spots_by_genes(counts, places, path)
        limit = spec.get("max_unmatched", MAX_UNMATCHED)
        section = join_counts_and_positions(counts, places, path, places_file, max_unmatched=limit)
        if places.attrs["free"]:
            section.uns["stated"] = {"free": True, "unit": "cell", "pitch_um": CELL_UM, "spot_diameter_um": CELL_UM}
        return section


def positions_of(stored: StoredSection, path: Path, *, array_optional: bool = False) -> pd.DataFrame:
    """Return the positions that an h5ad holds, as `histoloom.samples.tables.read_positions` does."""
    if stored.spatial is None or not (array_optional or {"array_row", "array_col"} <= set(stored.obs)):
        problem = (
            "no positions: obsm['spatial'] (full-resolution px) is needed, and obs array_row, array_col of arrays."
        )
        raise InputError(path, problem, "fill 'positions' in the sheet.", code="h5ad-positions")
    table = stored.obs[[c for c in ("array_row", "array_col", "in_tissue", "region") if c in stored.obs]].copy()
    table["pixel_x"], table["pixel_y"] = stored.spatial.T
    table["obs_id"] = stored.obs.index.astype(str)
    return tidy_positions(table, path, array_optional=array_optional)


def as_spots_by_genes(counts: Counts, places: pd.DataFrame, path: Path) -> Counts:
    """Turn a genes x spots matrix over, when its column names are the spots and its row names are not."""
    if counts.obs_ids.isin(places.index).any() or not counts.genes.isin(places.index).any():
        return counts
    logger.info("%s: columns are spots, rows are genes; turned over", path)
    return replace(counts, matrix=counts.matrix.T.tocsr(), obs_ids=counts.genes, genes=counts.obs_ids)
