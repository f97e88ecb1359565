"""Simulated effects, through the real reader, the real tiles and the real encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from barcode_reader import decode_barcode
from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.samples import read_section
from histoloom.samples.her2st import SimulatedReader
from histoloom.schemas import fill_defaults, load_schema
from histoloom.slides import open_slide
from histoloom.tiles import cut_tiles, read_tiles
from histoloom_simulation import write_section
from simulation_fixtures import sheet_row, simulated_spec

SMALL = {"array_x": 8, "array_y": 6}


def raw_section(root: Path, row: dict[str, str], **changes: Any) -> dict[str, Path]:
    """Write a section's raw files and return them by role."""
    spec = simulated_spec(**{**SMALL, **changes})
    if spec["effects"]["barcode"]:
        row["image"] = f"data/ST-imgs/{row['sample']}/{row['sample']}_HE.png"
    files = {role: Path(path) for role, path in SimulatedReader.files(row, spec, root).items()}
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    write_section(spec=spec, row=row, out=files)
    return files


def read(files: Mapping[str, Path], row: dict[str, str], out: Path) -> Path:
    sample = out / f"{row['sample']}.h5ad"
    read_section(
        source="simulated", cohort="c", row=row, spec={"source": "simulated"}, files=files, out=sample,
        picture=out / "p.png",
    )  # fmt: skip
    return sample


def tile_spec(**changes: Any) -> dict[str, Any]:
    spec = dict(changes)
    fill_defaults(spec, load_schema("tiles"))
    return spec


@pytest.mark.parametrize(("name", "um_per_px"), [("X1", "native"), ("X1", 0.5), ("Z2", 0.5)])
def test_every_tile_of_the_barcode_slide_decodes_to_its_own_spot(name: str, um_per_px: Any, tmp_path: Path) -> None:
    row = sheet_row(name)
    files = raw_section(tmp_path, row, effects={"barcode": True})
    sample = read(files, row, tmp_path)
    cut_tiles(
        sample=sample, slide=files["image"], out=tmp_path / "t.parquet", picture=tmp_path / "t.png",
        spec=tile_spec(um_per_px=um_per_px, border="pad", background={"method": "none"}),
    )  # fmt: skip
    tiles = pd.read_parquet(tmp_path / "t.parquet")
    tiles = tiles[tiles["kept"]]
    facts = read_metadata(tmp_path / "t.parquet")
    assert len(tiles) >= 20
    with open_slide(files["image"]) as slide:
        pixels = list(read_tiles(slide, tiles[["x", "y"]].to_numpy(), facts["size_level0_px"], 224))
    for obs_id, tile in zip(tiles["obs_id"], pixels, strict=True):
        found = decode_barcode(tile, facts["um_per_px"])
        assert obs_id == f"{found.row}x{found.col}"
        # Whole pixels are cut, so up to half a pixel; the decoder measures to a tenth of that.
        assert abs(found.dx) <= 0.55
        assert abs(found.dy) <= 0.55


def test_a_wrong_mpp_in_the_sheet_stops_the_section(tmp_path: Path) -> None:
    row = sheet_row("Z1", mpp="0.5")
    files = raw_section(tmp_path, row, effects={"true_mpp": {"Z1": 0.92}})
    with pytest.raises(InputError, check=has_code("mpp-disagrees")) as caught:
        read(files, row, tmp_path)
    assert "Z1" in str(caught.value)
    assert not (tmp_path / "Z1.h5ad").exists()


def test_x_and_y_swapped_in_the_spot_file_stop_the_section_or_break_the_picture(tmp_path: Path) -> None:
    row = sheet_row("Z1")
    files = raw_section(tmp_path, row)
    spots = pd.read_csv(files["spots"], sep="\t")
    spots[["pixel_x", "pixel_y"]] = spots[["pixel_y", "pixel_x"]].to_numpy()
    spots.to_csv(files["spots"], sep="\t", index=False)
    with pytest.raises(InputError, check=has_code("spots-swapped")):
        read(files, row, tmp_path)


def test_the_reader_gives_back_the_counts_that_were_written(tmp_path: Path) -> None:
    row = sheet_row("Z1")
    files = raw_section(tmp_path, row)
    section = ad.read_h5ad(read(files, row, tmp_path))
    table = pd.read_csv(files["counts"], sep="\t", index_col=0)
    assert list(section.obs_names) == list(table.index)
    np.testing.assert_array_equal(section.X.toarray(), table[list(section.var_names)].to_numpy())
    assert (section.obs["n_counts"] == 0).sum() == 1
    assert read_metadata(tmp_path / "Z1.h5ad")["mpp"] == pytest.approx(0.92, rel=0.02)
