"""her2st in the layout of its GitHub repository (Andersson et al. 2021, 10.1038/s41467-021-26271-2).

Counts are spots x genes, ids ``<x>x<y>`` of integer array coordinates. Spot files hold 33 rows more than the counts
over the 36 sections; only their ``pixel_x``, ``pixel_y`` belong to the JPG. In the sample ``array_row`` is the first
number of the id (x, runs along the image's columns) and ``array_col`` the second (y, along its rows).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from histoloom.samples.counts import read_counts
from histoloom.samples.reader import (
    ST_ARRAY,
    Reader,
    add_regions,
    join,
    join_counts_and_positions,
    named_files,
    need,
    whole_ids,
)
from histoloom.samples.tables import as_numbers, check_unique, need_columns, read_positions
from histoloom.text_tables import read_text_table

if TYPE_CHECKING:
    from anndata import AnnData


class Her2stReader(Reader):
    """Sections of her2st, from the files of github.com/almaan/her2st."""

    measures = ST_ARRAY

    @classmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return roles counts, spots, image (unless `images: false`) and, where the sheet names one, regions."""
        sample = need(row, "sample")
        return {
            "counts": join(root, f"data/ST-cnts/{sample}.tsv.gz"),
            "spots": join(root, f"data/ST-spotfiles/{sample}_selection.tsv"),
            **named_files(row, spec, root, ["image"], "regions"),
        }

    @classmethod
    def tables(cls, spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return the published stereoscope proportions: 8 major and 22 minor types."""
        return {f"stereoscope_{level}": join(root, f"res/ST-deconv/props/{level}.zip") for level in ("major", "minor")}

    @classmethod
    def read(cls, files: Mapping[str, Path], row: Mapping[str, str], spec: Mapping[str, Any]) -> AnnData:
        """Read counts, positions and the pathologist's regions of a section."""
        counts, positions = read_counts(Path(files["counts"])), read_positions(Path(files["spots"]))
        section = join_counts_and_positions(counts, positions, Path(files["counts"]), Path(files["spots"]))
        if "regions" in files:
            add_regions(section, *read_regions(Path(files["regions"])), "region_without_counts")
        return section


class SimulatedReader(Her2stReader):
    """Simulated sections: her2st's layout, and the ground truth next to it."""

    @classmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return roles counts, spots, image, regions and truth."""
        sample = need(row, "sample")
        filled = {
            **row,
            "image": row.get("image") or f"data/ST-imgs/{sample}/{sample}_HE.jpg",
            "regions": row.get("regions") or f"data/ST-pat/lbl/{sample}_labeled_coordinates.tsv",
        }
        return {**super().files(filled, spec, root), "truth": join(root, f"truth/{sample}_abundance.tsv")}

    @classmethod
    def tables(cls, spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return nothing: no labels are published for simulated sections."""
        return {}


def read_regions(path: Path) -> tuple[pd.Series, int]:
    """Read a pathologist's table.

    Its x, y are the spot file's new_x, new_y, which round to the array coordinates; its pixel columns belong to another
    frame. Returns label by spot id; rows left out because they have no coordinates (G2 has 8, F1 has 1).
    """
    table = read_text_table(path)
    remedy = "give the table as published, or leave 'regions' empty."
    need_columns(table, ("x", "y", "label"), path, remedy, "her2st-regions-columns")
    xy = table[["x", "y"]].apply(as_numbers)
    placed = xy.notna().all(axis=1)
    regions = pd.Series(table.loc[placed, "label"].to_numpy(), index=whole_ids(xy[placed]))
    check_unique(regions.index, path, "spot")
    return regions, int((~placed).sum())
