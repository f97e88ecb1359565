"""The HEST reader: four technologies, patches, pixel sizes, and what must stop it."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.samples import read_section
from histoloom.samples.hest import HestReader
from histoloom.samples.tables import plain_id
from histoloom_operations.hest_sheets import COLUMNS, hest_rows, patient_id, read_hest_table
from raw_layouts import HestSample

TECHNOLOGIES = ("Visium", "Spatial Transcriptomics", "Xenium", "Visium HD")


def read(sample: HestSample, root: Path, **spec: str) -> anndata.AnnData:
    files = {role: Path(path) for role, path in HestReader.files(sample.row, spec, root).items()}
    return HestReader.read(files, sample.row, spec)


def make(sample: HestSample, root: Path, **spec: str) -> anndata.AnnData:
    files = {role: Path(path) for role, path in HestReader.files(sample.row, spec, root).items()}
    out = root / "out.h5ad"
    read_section(source="hest", cohort="h", row=sample.row, spec=spec, files=files, out=out, picture=root / "out.png")
    return anndata.read_h5ad(out)


@pytest.mark.parametrize("technology", TECHNOLOGIES)
def test_every_technology(tmp_path: Path, technology: str) -> None:
    sample = HestSample(technology)
    section = make(sample, sample.write(tmp_path))
    facts = read_metadata(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(section.obsm["spatial"], sample.places)
    np.testing.assert_array_equal(section.X.toarray(), sample.X[:, :4])
    assert list(section.var_names) == ["EPCAM", "KRT8", "CD3E", "COL1A1"]
    assert facts["dropped"] == {"control_probe": 4 if technology == "Xenium" else 0}
    assert (facts["pitch_um"], facts["spot_diameter_um"]) == (sample.pitch, sample.diameter)
    assert facts["mpp"] == pytest.approx(sample.mpp, rel=1e-3)
    assert facts["mpp_source"] == "pitch"
    assert facts["pitch_px"] == pytest.approx(sample.pitch / sample.mpp, rel=1e-3)
    assert facts["source_facts"]["st_technology"] == technology
    if technology == "Visium":
        assert list(section.obs_names) == list(sample.obs.index)
    else:
        assert section.obs_names[10] == "1x1"


def test_legacy_ids_become_the_sources_own() -> None:
    assert plain_id("010x013") == "10x13"
    assert plain_id("000x000") == "0x0"
    assert plain_id("AAACAAGTATCTCCCA-1") == "AAACAAGTATCTCCCA-1"


def test_legacy_st_keeps_x_as_the_first_number(tmp_path: Path) -> None:
    sample = HestSample("Spatial Transcriptomics")
    section = read(sample, sample.write(tmp_path))
    first = np.array([int(name.split("x")[0]) for name in section.obs_names])
    np.testing.assert_array_equal(section.obs["array_row"], first)
    assert np.corrcoef(first, section.obsm["spatial"][:, 0])[0, 1] > 0.999


@pytest.mark.parametrize("how", ["missing", "shifted by dropped squares"])
def test_pseudo_spots_are_numbered_by_place(tmp_path: Path, how: str) -> None:
    sample = HestSample("Xenium")
    right = sample.obs[["array_row", "array_col"]].to_numpy()
    if how == "missing":
        sample.obs = sample.obs.drop(columns=["array_row", "array_col"])
    else:
        kept = np.setdiff1d(np.arange(len(sample.obs)), [3, 11, 12, 30])
        sample.obs, sample.X, sample.places = sample.obs.iloc[kept].copy(), sample.X[kept], sample.places[kept]
        right = right[kept]
        # as numbering after dropping empty squares does
        sample.obs["array_row"], sample.obs["array_col"] = np.divmod(np.arange(len(kept)), 9)
    section = read(sample, sample.write(tmp_path))
    np.testing.assert_array_equal(section.obs[["array_row", "array_col"]].to_numpy(), right)


def test_in_tissue_is_kept(tmp_path: Path) -> None:
    sample = HestSample("Visium")
    sample.obs.iloc[:5, sample.obs.columns.get_loc("in_tissue")] = 0
    assert read(sample, sample.write(tmp_path)).obs["in_tissue"].sum() == len(sample.obs) - 5


@pytest.mark.parametrize("technology", ["Visium", "Spatial Transcriptomics"])
def test_patches_are_checked_and_may_restrict(tmp_path: Path, technology: str) -> None:
    sample = HestSample(technology)
    section = make(sample, sample.write(tmp_path), patches="check")
    assert section.obs["in_tissue"].all()
    np.testing.assert_array_equal(section.obs["has_patch"], np.arange(section.n_obs) % 2 == 0)
    section = make(sample, tmp_path, patches="restrict")
    np.testing.assert_array_equal(section.obs["in_tissue"], section.obs["has_patch"])
    assert read_metadata(tmp_path / "out.h5ad")["dropped"]["in_tissue_without_patch"] == section.n_obs // 2


def test_wrong_patches(tmp_path: Path) -> None:
    sample = HestSample("Visium")
    path = sample.write(tmp_path) / "patches/H1.h5"
    with h5py.File(path) as handle:
        images, coords, names = (handle[name][()] for name in ("img", "coords", "barcode"))
    for change, code, said in (
        ({"coords": coords + 28}, "patches-place", "off their spots"),
        ({"coords": coords + np.array([28, 0])}, "patches-place", "off their spots"),
        ({"coords": (sample.places[::2][:, ::-1] - 28).astype(int)}, "patches-place", "x and y exchanged they fit"),
        ({"coords": sample.places[::2].astype(int)}, "patches-place", "off their spots"),
        ({"img": images[:, :, ::-1]}, "patches-pixels", "they are turned or mirrored"),
        ({"img": images.transpose(0, 2, 1, 3)}, "patches-pixels", "they are turned or mirrored"),
        ({"img": np.roll(images, 7, axis=0)}, "patches-pixels", "grey levels in the mean: of another image"),
        ({"img": 255 - images}, "patches-pixels", "grey levels in the mean: of another image"),
        ({"img": images[:, :28, :28]}, "patches-scale", "makes 0.2500 um/px, not 0.5000"),
        ({"img": images[:, :28]}, "patches-dataset", "(N, P, P, 3), (N, 2) expected"),
        ({"barcode": None}, "patches-barcodes", "0 barcodes of 48 patches"),
        ({"barcode": names[:-1]}, "patches-barcodes", "47 barcodes of 48 patches"),
        ({"barcode": np.array([[b"Z"], *names[1:]])}, "patches-spots", "1 patches have no spot in the h5ad, first 'Z'"),
    ):
        path.unlink()
        sample.write_patches(path, **change)
        with pytest.raises(InputError, check=has_code(code)) as caught:
            read(sample, tmp_path, patches="check")
        assert said in caught.value.problem
    path.unlink()
    with pytest.raises(InputError, check=has_code("patches-unreadable")):
        read(sample, tmp_path, patches="check")


def test_metadata_of_another_sample_or_technology(tmp_path: Path) -> None:
    for change, code in (
        ({"id": "H2"}, "hest-metadata-sample"),
        ({"st_technology": "Xenium"}, "hest-technology"),
        ({"st_technology": "MERFISH"}, "hest-technology"),
    ):
        sample = HestSample("Visium")
        sample.facts |= change
        with pytest.raises(InputError, check=has_code(code)):
            read(sample, sample.write(tmp_path))
    (tmp_path / "metadata/H1.json").write_text('{"id": ')
    with pytest.raises(InputError, check=has_code("hest-metadata")):
        read(sample, tmp_path)


def test_swapped_orientation_and_missing_groups(tmp_path: Path) -> None:
    sample = HestSample("Visium")
    root = sample.write(tmp_path)
    section = anndata.read_h5ad(root / "st/H1.h5ad")
    anndata.AnnData(section.X.T, obs=section.var, var=section.obs).write_h5ad(root / "st/H1.h5ad")
    with pytest.raises(InputError, check=has_code("spatial-missing")):
        read(sample, root)
    section.obs = section.obs.drop(columns="array_row")
    section.write_h5ad(root / "st/H1.h5ad")
    with pytest.raises(InputError, check=has_code("h5ad-positions")):
        read(sample, root)
    (root / "st/H1.h5ad").write_bytes((root / "st/H1.h5ad").read_bytes()[:2000])
    with pytest.raises(InputError, check=has_code("counts-unreadable")):
        read(sample, root)


def test_a_slide_of_another_size(tmp_path: Path) -> None:
    sample = HestSample("Visium")
    sample.facts["fullres_px_width"] += 100
    with pytest.raises(InputError, check=has_code("slide-size")):
        make(sample, sample.write(tmp_path))


def test_swapped_axes(tmp_path: Path) -> None:
    sample = HestSample("Xenium")
    sample.places = sample.places[:, ::-1].copy()
    with pytest.raises(InputError, check=has_code("spots-outside")):
        make(sample, sample.write(tmp_path))


def test_a_published_pixel_size_that_disagrees_with_the_pitch(tmp_path: Path) -> None:
    sample = HestSample("Visium")
    sample.facts["pixel_size_um_estimated"] = 0.25
    with pytest.raises(InputError, check=has_code("mpp-disagrees"), match=r"0\.5 .*0\.25 "):
        make(sample, sample.write(tmp_path))
    sample.row |= {"mpp": "0.5", "mpp_decides": "yes"}
    assert make(sample, tmp_path).n_obs == 96


# the table of samples ---------------------------------------------------------------------------------------------


def table(tmp_path: Path) -> Path:
    lines = [",".join(COLUMNS)]
    lines.append("TENX95,A title,patient 2,Tissue 1,Xenium,11845,1,0.2125,v1_0_0")
    lines.append("ZEN36,Another,Patient 7,Rep2,Visium,1691,0.4598,0.4594,v1_0_0")
    lines.append("NCBI672,Third,,D1,Visium,4992,,0.304,v1_0_0")
    (tmp_path / "meta.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "meta.csv"


def test_sheet_rows_from_the_table(tmp_path: Path) -> None:
    meta = read_hest_table(table(tmp_path))
    rows = hest_rows(["TENX95", "ZEN36", "NCBI672"], meta)
    assert [(r["mpp"], r["mpp_decides"]) for r in rows] == [("0.21250", "yes"), ("0.45940", ""), ("0.30400", "")]
    assert rows[2]["patient"] == "NCBI672"
    here = {"id": "A", "patient": "Patient 7", "dataset_title": "one"}
    assert patient_id(here) == patient_id(here | {"id": "B"}) != patient_id(here | {"dataset_title": "two"})
    with pytest.raises(InputError, check=has_code("hest-table-sample"), match=r"'TENX9'.*TENX95"):
        hest_rows(["TENX9"], meta)
    meta.drop(columns="subseries").to_csv(tmp_path / "cut.csv", index=False)
    with pytest.raises(InputError, check=has_code("hest-table-columns"), match="subseries"):
        read_hest_table(tmp_path / "cut.csv")
    with pytest.raises(InputError, check=has_code("hest-table-missing")):
        read_hest_table(tmp_path / "none.csv")


def test_sheets_know_their_traps(repo: Path) -> None:
    from histoloom.config import read_sheet

    sheets = {
        name: read_sheet(repo / f"config/cohorts/hest_{name}.tsv", "hest")
        for name in ("idc", "lymph_idc", "skcm", "read", "coad", "psc")
    }
    totals = {name: sum(int(row["x_spots"]) for row in rows) for name, rows in sheets.items()}
    assert totals == {"idc": 44_974, "lymph_idc": 19_964, "skcm": 5_716, "read": 8_407, "coad": 19_028, "psc": 19_968}
    people = {name: len({row["patient"] for row in rows}) for name, rows in sheets.items()}
    # READ is two patients twice, PSC one donor, COAD four people of whom HEST's column knows one
    assert people == {"idc": 4, "lymph_idc": 4, "skcm": 2, "read": 2, "coad": 4, "psc": 1}
    decided = {row["sample"] for rows in sheets.values() for row in rows if row["mpp_decides"]}
    assert decided == {"TENX95", "TENX99", "TENX111", "TENX147"}
    assert all(0.1 < float(row["mpp"]) < 0.5 for rows in sheets.values() for row in rows)


def test_json_with_nan_leaves_no_nan(tmp_path: Path) -> None:
    sample = HestSample("Visium")
    make(sample, sample.write(tmp_path))
    assert "NaN" not in json.dumps(read_metadata(tmp_path / "out.h5ad"))
