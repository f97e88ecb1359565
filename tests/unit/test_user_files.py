"""Files that people really have: inputs made after public problem reports, read from ../shared/cases where they are."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.config import read_sheet
from histoloom.errors import InputError
from histoloom.kinds import SOURCES, load
from histoloom.samples import read_section

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the folder of cases is not here")


def read(name: str, tmp_path: Path, source: str = "files", **changes: str) -> anndata.AnnData:
    case = CASES / name
    row = {**read_sheet(CASES / name / "sheet.tsv", source)[0], **changes}
    spec: dict[str, object] = {}
    files = {role: Path(path) for role, path in load("sources", source).files(row, spec, case).items()}
    out = tmp_path / "S1.h5ad"
    read_section(
        source=source, cohort="mine", row=row, spec=spec, files=files, out=out, picture=out.with_suffix(".png")
    )
    return anndata.read_h5ad(out)


def facts(tmp_path: Path) -> dict:
    return read_metadata(tmp_path / "S1.h5ad")


def test_one_section_of_an_aggregate_is_not_laid_over_another(tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("join-unmatched")) as error:
        read("aggr_matrix", tmp_path)
    assert "-1 (72), -2 (72)" in str(error.value)


def test_two_sections_in_one_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("several-sections")) as error:
        read("concat_near", tmp_path)
    assert "A1, B1" in str(error.value)
    assert read("concat_near", tmp_path, library_id="B1").n_obs == 72


def test_repeated_symbols_are_added_up(tmp_path: Path) -> None:
    read("dup_symbols", tmp_path)
    assert facts(tmp_path)["dropped"]["gene_merged_by_symbol"] == 1


def test_centres_in_a_data_frame(tmp_path: Path) -> None:
    section = read("frame_spatial", tmp_path)
    assert section.obsm["spatial"][0].tolist() == [80, 70]


def test_raw_slot(tmp_path: Path) -> None:
    section = read("raw_slot_named", tmp_path)
    assert section.n_obs == 72
    assert str(int(section.X[0].sum())) in (CASES / "raw_slot_named" / "truth.txt").read_text()


def test_types_of_other_tools_are_not_looked_at(tmp_path: Path) -> None:
    assert read("jhdf5_types", tmp_path).n_obs == 72


def test_unpacked_matrix_folder(tmp_path: Path) -> None:
    section = read("mtx_plain", tmp_path)
    assert section.shape == (72, 30)
    assert str(int(section.X.sum())) in (CASES / "mtx_plain" / "truth.txt").read_text()


def test_hash_within_a_line_is_no_comment(tmp_path: Path) -> None:
    rows = read_sheet(CASES / "hash_exclude" / "sheet.tsv", "files")
    assert [row["exclude"] for row in rows if row["sample"] == "S2"] == ["folded tissue"]
    section = read("hash_path", tmp_path)
    assert section.n_obs == 72
    assert facts(tmp_path)["mpp"] == pytest.approx(2.5)
    assert facts(tmp_path)["mpp_source"] == "pitch"


@pytest.mark.parametrize("name", ["sheet_semicolon", "sheet_empty_rows"])
def test_sheets_of_spreadsheet_programs(tmp_path: Path, name: str) -> None:
    assert len(read_sheet(CASES / name / "sheet.tsv", "files")) == 1
    assert read(name, tmp_path).n_obs == 72


def test_names_that_look_like_missing_values() -> None:
    rows = read_sheet(CASES / "sample_called_NA" / "sheet.tsv", "files")
    assert [row["sample"] for row in rows] == ["NA", "nan", "1E3"]
    assert [row["patient"] for row in rows] == ["007", "7", "NA"]


def test_hires_image_that_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("visium-hires")) as error:
        read("hires_not_png", tmp_path, "visium")
    assert "tissue_hires_image.png" in error.value.where


def test_segmented_outputs_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("visium-segmented")) as error:
        read("hd_segmented", tmp_path, "visium")
    assert "binned_outputs" in error.value.remedy


def test_spots_a_little_beyond_the_edge_are_dropped_and_counted(tmp_path: Path) -> None:
    section = read("spots_outside", tmp_path)
    assert section.n_obs == 68
    assert facts(tmp_path)["dropped"]["outside_slide"] == 4


def test_composite_of_three_pages(tmp_path: Path) -> None:
    section = read("imagej_composite", tmp_path)
    pixels = section.uns["spatial"]["S1"]["images"]["hires"].reshape(-1, 3)
    assert np.abs(pixels.astype(int) - [180, 90, 160]).sum(axis=1).min() < 10


def test_jpeg_2000_in_a_plain_tiff(tmp_path: Path) -> None:
    assert read("tiled_jp2k", tmp_path).n_obs == 72


def test_greek_mu(tmp_path: Path) -> None:
    read("ome_greek_mu", tmp_path, "slides")
    assert facts(tmp_path)["mpp"] == pytest.approx(2.5)
    assert facts(tmp_path)["mpp_source"] == "embedded"


def test_sources_of_the_cases_exist() -> None:
    assert {"files", "visium", "slides"} <= set(SOURCES)
