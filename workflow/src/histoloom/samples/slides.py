"""Slides without expression: the places are a square grid, and a trained model says what lies there.

In the sample ``array_row`` counts the grid's rows from the top and ``array_col`` its columns from the left; the id is
``<array_row>x<array_col>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.samples.canonical import cell_number
from histoloom.samples.counts import Counts
from histoloom.samples.geometry import decide_mpp
from histoloom.samples.reader import Reader, assemble, join, need, positions_at, whole_ids
from histoloom.slides import open_slide

if TYPE_CHECKING:
    from anndata import AnnData

DEFAULT_GRID_UM = 112.0


class SlidesReader(Reader):
    """Slides named by a sheet; the places are the centres of squares of ``grid_um`` that lie wholly on the slide."""

    spec_keys = ("grid_um",)
    has_array = False

    @classmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return role image."""
        return {"image": join(root, need(row, "image"))}

    @classmethod
    def implied(cls, row: Mapping[str, str], spec: Mapping[str, Any]) -> dict[str, str]:
        """Return the grid's spacing as pitch and diameter."""
        grid = f"{float(spec.get('grid_um', DEFAULT_GRID_UM)):g}"
        return {"pitch_um": grid, "spot_diameter_um": grid}

    @classmethod
    def read(cls, files: Mapping[str, Path], row: Mapping[str, str], spec: Mapping[str, Any]) -> AnnData:
        """Lay the grid over the slide."""
        from scipy.sparse import csr_matrix

        where = f"sheet row '{row['sample']}'"
        grid_um = float(spec.get("grid_um", DEFAULT_GRID_UM))
        with open_slide(files["image"]) as slide:
            sheet, decides = cell_number(row, "mpp", where), row.get("mpp_decides") == "yes"
            mpp, _ = decide_mpp(sheet=sheet, embedded=slide.mpp, sheet_decides=decides, where=where)
            step = grid_um / mpp
            rows, columns = int(slide.height // step), int(slide.width // step)
        if rows == 0 or columns == 0:
            problem = f"{slide.width} x {slide.height} px at {mpp:g} um/px are less than a square of {grid_um:g} um."
            remedy = "correct 'mpp' in the sheet or 'grid_um' in the config."
            raise InputError(files["image"], problem, remedy, code="slide-too-small")
        grid = np.indices((rows, columns)).reshape(2, -1).T
        ids = whole_ids(pd.DataFrame(grid))
        counts = Counts(csr_matrix((len(ids), 0), dtype=np.int32), ids, pd.Index([], dtype=object))
        return assemble(counts, positions_at(grid, (grid[:, ::-1] + 0.5) * step), {})
