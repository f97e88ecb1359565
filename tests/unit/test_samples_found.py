"""What files say about a section: pixel sizes by rank, pictures of many cells."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from PIL import Image

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.samples import read_section
from histoloom.samples.geometry import decide_mpp, grid_of
from histoloom.samples.hest import HestReader
from histoloom.samples.qc import draw_section
from raw_layouts import HestSample


def test_the_rank_of_pixel_sizes() -> None:
    known = {"sheet": 0.5, "alignment": 0.501, "pitch": 0.502, "estimated": 0.503, "embedded": 0.504}
    for rank, name in enumerate(known):
        rest = {k: (v if i >= rank else None) for i, (k, v) in enumerate(known.items())}
        value, source = decide_mpp(**rest, sheet_decides=False, where="row")
        assert (value, source) == (known[name], name)
    with pytest.raises(InputError, check=has_code("mpp-disagrees"), match=r"0\.5 .*0\.6 .*20 %"):
        decide_mpp(sheet=None, alignment=0.5, pitch=None, estimated=0.6, embedded=None, sheet_decides=True, where="row")


def test_grid_numbers() -> None:
    rows, columns = (a.ravel() for a in np.indices((5, 7)))
    kept = np.setdiff1d(np.arange(35), [2, 9, 16, 17, 33])
    places = np.column_stack([30 + columns * 365.24, 11 + rows * 365.24])[kept]
    np.testing.assert_array_equal(grid_of(places, "x"), np.column_stack([rows, columns])[kept])
    with pytest.raises(InputError, check=has_code("no-square-grid")):
        grid_of(places + np.random.default_rng(0).uniform(-150, 150, places.shape), "x")


def test_many_cells_are_drawn_as_means_where_they_lie(tmp_path: Path) -> None:
    sample = HestSample("Xenium")
    out = tmp_path / "out.h5ad"
    files = {role: Path(path) for role, path in HestReader.files(sample.row, {}, sample.write(tmp_path)).items()}
    read_section(source="hest", cohort="h", row=sample.row, spec={}, files=files, out=out, picture=tmp_path / "a.png")
    section = anndata.read_h5ad(out)
    many = section[np.zeros(30_000, int)].copy()
    many.uns = section.uns
    rng = np.random.default_rng(0)
    # all in the upper left ninth of the slide
    size = np.array([section.uns["spatial"]["H1"]["images"]["hires"].shape[i] for i in (1, 0)])
    scale = section.uns["spatial"]["H1"]["scalefactors"]["tissue_hires_scalef"]
    many.obsm["spatial"] = rng.uniform(0, 1, (30_000, 2)) * size / scale / 3
    many.obs["n_counts"] = 1000
    draw_section(many, tmp_path / "b.png")
    picture = np.asarray(Image.open(tmp_path / "b.png").convert("RGB")).astype(int)
    coloured = (np.abs(picture - [33, 145, 140]).sum(axis=2) < 60) | (np.abs(picture - [68, 1, 84]).sum(axis=2) < 60)
    rows, columns = np.nonzero(coloured[:, picture.shape[1] // 2 : int(picture.shape[1] * 0.85)])
    assert len(rows) > 2000
    assert rows.max() < 0.55 * picture.shape[0]
    assert columns.max() < 0.2 * picture.shape[1]
