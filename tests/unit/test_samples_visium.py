"""Space Ranger's outs: both generations of positions, scale factors, and the image that belongs to them."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from PIL import Image

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.samples import read_section
from histoloom.samples.visium import VisiumReader
from raw_layouts import SpaceRanger, slide_with_tissue


def make(outs: SpaceRanger, root: Path) -> anndata.AnnData:
    files = {role: Path(path) for role, path in VisiumReader.files(outs.row, {}, root).items()}
    out = root / "v.h5ad"
    read_section(source="visium", cohort="v", row=outs.row, spec={}, files=files, out=out, picture=root / "v.png")
    return anndata.read_h5ad(out)


@pytest.mark.parametrize("generation", ["new", "old", "hd", "old under the new name", "new under the old name"])
def test_every_generation_of_positions(tmp_path: Path, generation: str) -> None:
    outs = SpaceRanger()
    section = make(outs, outs.write(tmp_path, generation))
    inside = outs.positions[outs.positions["in_tissue"] == 1]
    # the first barcode of the file is where a header taken for data, or data for a header, shows
    assert list(section.obs_names) == list(inside["barcode"])
    expected = inside[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
    np.testing.assert_array_equal(section.obsm["spatial"], expected)
    assert section.obs["in_tissue"].all()


def test_measures_and_genes(tmp_path: Path) -> None:
    outs = SpaceRanger()
    section = make(outs, outs.write(tmp_path))
    facts = read_metadata(tmp_path / "v.h5ad")
    assert list(section.var_names) == ["EPCAM", "TBCE", "CD3E"]
    assert list(section.var["ensembl_id"]) == ["ENSG00000119888", "", "ENSG00000198851"]
    np.testing.assert_array_equal(section.X.toarray()[:, 1], outs.counts[:, 1] + outs.counts[:, 2])
    assert facts["mpp"] == pytest.approx(0.5, rel=1e-3)
    assert (facts["pitch_um"], facts["spot_diameter_um"], facts["mpp_source"]) == (100, 55, "pitch")
    assert facts["dropped"]["outside_tissue"] == 140 - section.n_obs
    scale = section.uns["spatial"]["V1"]["scalefactors"]
    assert scale["spot_diameter_fullres"] == pytest.approx(110, rel=1e-3)


def test_another_image_is_refused(tmp_path: Path) -> None:
    outs = SpaceRanger()
    root = outs.write(tmp_path)
    Image.fromarray(slide_with_tissue(1800, 950, (100, 100, 1700, 750))).save(root / "V1/small.png")
    outs.row["image"] = "V1/small.png"
    with pytest.raises(InputError, check=has_code("slide-size"), match=r"1800 x 950 px.*3600 x 190"):
        make(outs, root)


def test_hd_bins_say_their_own_measures(tmp_path: Path) -> None:
    outs = SpaceRanger()
    row, col = np.divmod(np.arange(140), 14)
    outs.positions["array_row"], outs.positions["array_col"] = row, col
    outs.positions["pxl_row_in_fullres"], outs.positions["pxl_col_in_fullres"] = 300 + row * 16.0, 300 + col * 16.0
    outs.scales |= {"bin_size_um": 8.0, "microns_per_pixel": 0.5}
    make(outs, outs.write(tmp_path, "hd"))
    facts = read_metadata(tmp_path / "v.h5ad")
    assert (facts["pitch_um"], facts["spot_diameter_um"]) == (8, 8)
    assert facts["mpp"] == pytest.approx(0.5)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    outs = SpaceRanger()
    root = outs.write(tmp_path)
    spatial = root / "V1/outs/spatial"
    (spatial / "tissue_positions.csv").rename(spatial / "positions.csv")
    with pytest.raises(InputError, check=has_code("visium-positions"), match=r"positions\.csv"):
        make(outs, root)
    (spatial / "positions.csv").rename(spatial / "tissue_positions.csv")
    (spatial / "scalefactors_json.json").write_text('{"tissue_hires_scalef": 0}')
    with pytest.raises(InputError, check=has_code("visium-scales"), match="'tissue_hires_scalef'"):
        make(outs, root)
    (spatial / "scalefactors_json.json").unlink()
    with pytest.raises(InputError, check=has_code("visium-scales")):
        make(outs, root)


def test_positions_with_a_missing_column(tmp_path: Path) -> None:
    outs = SpaceRanger()
    outs.positions = outs.positions.drop(columns="pxl_row_in_fullres")
    with pytest.raises(InputError, check=has_code("positions-columns"), match="pixel_y"):
        make(outs, outs.write(tmp_path, "hd"))
