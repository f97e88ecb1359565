"""her2st's layout to a canonical sample: joins, geometry, pictures and every kind of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from samples_inputs import PITCH, Raw, files_of, tiny

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.identity import sha256_file
from histoloom.samples import read_section
from histoloom.samples.her2st import Her2stReader, SimulatedReader


def read(raw: Raw, tmp_path: Path, *, change: Any = None, **row: str) -> anndata.AnnData:
    root = raw.write(tmp_path)
    raw.row.update(row)
    files = files_of(Her2stReader, raw.row, root)
    if change:
        change(files)
    read_section(
        source="her2st",
        cohort="c",
        row=raw.row,
        spec={},
        files=files,
        out=tmp_path / "S1.h5ad",
        picture=tmp_path / "S1.png",
    )
    return anndata.read_h5ad(tmp_path / "S1.h5ad")


def refused(raw: Raw, tmp_path: Path, code: str, **options: Any) -> str:
    with pytest.raises(InputError, check=has_code(code)) as caught:
        read(raw, tmp_path, **options)
    assert not (tmp_path / "S1.h5ad").exists()
    assert "exclude" in caught.value.remedy
    return str(caught.value)


def test_values_and_places_go_to_the_right_spot(tmp_path: Path) -> None:
    raw = tiny()
    section = read(raw, tmp_path)
    assert list(section.obs_names) == list(raw.counts.index)
    assert section.X.dtype == np.int32
    assert section.X.format == "csr"
    np.testing.assert_array_equal(section.X.toarray(), raw.counts.to_numpy())
    by_id = raw.spots.set_index(raw.spots["x"].astype(str) + "x" + raw.spots["y"].astype(str)).loc[section.obs_names]
    np.testing.assert_array_equal(section.obsm["spatial"], by_id[["pixel_x", "pixel_y"]])
    np.testing.assert_array_equal(section.obs["array_row"], by_id["x"])
    np.testing.assert_array_equal(section.obs["array_col"], by_id["y"])
    np.testing.assert_array_equal(section.obs["n_counts"], raw.counts.sum(axis=1))
    np.testing.assert_array_equal(section.obs["n_genes"], (raw.counts > 0).sum(axis=1))
    assert section.obs["in_tissue"].all()
    assert "region" not in section.obs


def test_metadata(tmp_path: Path) -> None:
    section = read(tiny(), tmp_path)
    facts = read_metadata(tmp_path / "S1.h5ad")
    assert facts == json.loads(section.uns["histoloom"])
    assert (facts["cohort"], facts["sample"], facts["patient"], facts["qc_flag"]) == ("c", "S1", "P1", "")
    assert facts["mpp"] == pytest.approx(5, rel=0.02)
    assert facts["mpp_source"] == "pitch"
    assert facts["pitch_px"] == pytest.approx(PITCH, rel=0.02)
    assert facts["pitch_um"] == 200
    assert facts["spot_diameter_um"] == 100
    assert (facts["slide_width"], facts["slide_height"]) == (520, 400)
    assert facts["slide_sha256"] == sha256_file(tmp_path / "img/S1.png")
    assert facts["dropped"] == {"position_without_counts": 1, "counts_without_position": 0}
    assert facts["n_zero_counts"] == 1
    entry = section.uns["spatial"]["S1"]
    height, width, _ = entry["images"]["hires"].shape
    scale = entry["scalefactors"]["tissue_hires_scalef"]
    assert (round(520 * scale), round(400 * scale)) == (width, height)
    assert entry["scalefactors"]["spot_diameter_fullres"] == pytest.approx(100 / facts["mpp"])


def test_same_input_same_bytes_and_the_path_is_no_part_of_it(tmp_path: Path) -> None:
    read(tiny(), tmp_path / "a")
    read(tiny(), tmp_path / "b")
    for name in ("S1.h5ad", "S1.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    read(tiny(), tmp_path / "d", qc_flag="low resolution")
    a, d = (read_metadata(tmp_path / k / "S1.h5ad")["identity"]["sha256"] for k in "ad")
    assert a != d


def test_regions_are_joined_by_rounded_array_coordinates(tmp_path: Path) -> None:
    raw = tiny()
    raw.regions = pd.DataFrame(
        {"Row.names": "r", "x": raw.spots["x"] + 0.02, "y": raw.spots["y"] - 0.3, "pixel_x": 0.0, "pixel_y": 0.0}
    )
    raw.regions["label"] = np.where(raw.spots["x"] > 8, "invasive cancer ", "fat")
    raw.regions = raw.regions[raw.spots["x"] != 6].astype({"x": float})
    raw.regions.iloc[0, raw.regions.columns.get_loc("x")] = np.nan
    lost = raw.spots[raw.spots["x"] != 6].iloc[0]
    section = read(raw, tmp_path)
    for name, label in section.obs["region"].items():
        x = int(str(name).split("x")[0])
        without = x == 6 or name == f"{int(lost['x'])}x{int(lost['y'])}"
        assert label == ("" if without else "invasive cancer" if x > 8 else "fat")
    assert read_metadata(tmp_path / "S1.h5ad")["dropped"]["region_without_coordinates"] == 1


def test_a_header_without_a_first_cell_as_r_writes_it(tmp_path: Path) -> None:
    def rewrite(files: dict[str, Path]) -> None:
        lines = raw.counts.to_csv(sep="\t").split("\n")
        files["counts"].write_text("\n".join([lines[0].lstrip("\t"), *lines[1:]]))

    raw = tiny()
    section = read(raw, tmp_path, change=rewrite)
    np.testing.assert_array_equal(section.X.toarray(), raw.counts.to_numpy())
    assert list(section.var_names) == list(raw.counts.columns)


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, 1e12])
def test_values_that_are_no_counts(tmp_path: Path, value: float) -> None:
    raw = tiny()
    raw.counts = raw.counts.astype(float)
    raw.counts.iloc[11, 7] = value
    raw.counts.iloc[12, 2] = value
    message = refused(raw, tmp_path, "no-counts")
    assert f"spot '{raw.counts.index[11]}', gene 'G7'" in message
    assert "S1.tsv.gz" in message


def test_text_among_the_counts(tmp_path: Path) -> None:
    raw = tiny()
    raw.counts = raw.counts.astype(object)
    raw.counts.iloc[4, 3] = "many"
    message = refused(raw, tmp_path, "no-counts")
    assert f"spot '{raw.counts.index[4]}', gene 'G3'" in message


def test_duplicates(tmp_path: Path) -> None:
    raw = tiny()
    raw.counts.index = [*raw.counts.index[:-1], raw.counts.index[0]]
    assert "'4x7'" in refused(raw, tmp_path, "row-twice")
    raw = tiny()
    raw.counts.columns = [*raw.counts.columns[:-1], "G0"]
    assert "'G0'" in refused(raw, tmp_path, "gene-twice")
    raw = tiny()
    raw.spots = pd.concat([raw.spots, raw.spots.iloc[[2]]])
    assert "S1_selection.tsv" in refused(raw, tmp_path, "spot-twice")


def test_no_shared_ids_shows_both(tmp_path: Path) -> None:
    raw = tiny()
    raw.counts.index = [f"AAAC-{i}" for i in range(len(raw.counts))]
    message = refused(raw, tmp_path, "join-unmatched")
    assert "AAAC-0" in message
    assert f"{raw.spots.iloc[0]['x']:.0f}x{raw.spots.iloc[0]['y']:.0f}" in message


@pytest.mark.parametrize(
    ("role", "empty_code", "missing_code"),
    [
        ("counts", "counts-empty", "counts-missing"),
        ("spots", "file-empty", "file-missing"),
        ("image", "slide-empty", "slide-missing"),
    ],
)
def test_empty_and_missing_files(tmp_path: Path, role: str, empty_code: str, missing_code: str) -> None:
    def empty(files: dict[str, Path]) -> None:
        files[role].write_bytes(b"")

    def remove(files: dict[str, Path]) -> None:
        files[role].unlink()

    assert str(files_of(Her2stReader, tiny().row, tmp_path)[role]) in refused(
        tiny(), tmp_path, empty_code, change=empty
    )
    refused(tiny(), tmp_path, missing_code, change=remove)


def test_truncated_files(tmp_path: Path) -> None:
    def cut(files: dict[str, Path]) -> None:
        files["counts"].write_bytes(files["counts"].read_bytes()[:200])

    refused(tiny(), tmp_path, "gzip-damaged", change=cut)

    def cut_jpeg(files: dict[str, Path]) -> None:
        path = files["image"].with_suffix(".jpg")
        rng = np.random.default_rng(0)
        Image.fromarray(rng.integers(0, 255, (400, 520, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        files["image"] = path

    assert "S1.jpg" in refused(tiny(), tmp_path, "image-damaged", change=cut_jpeg)


def test_spots_outside_the_image(tmp_path: Path) -> None:
    raw = tiny()
    raw.spots["pixel_x"] += 130
    message = refused(raw, tmp_path, "spots-outside")
    first = raw.counts.index[[int(str(i).split("x")[0]) >= 12 for i in raw.counts.index]][0]
    assert f"first '{first}'" in message
    assert "5 of 29" in message


def test_swapped_axes_that_leave_the_image(tmp_path: Path) -> None:
    raw = tiny()
    raw.spots[["pixel_x", "pixel_y"]] = raw.spots[["pixel_y", "pixel_x"]].to_numpy()
    assert "they look swapped" in refused(raw, tmp_path, "spots-outside")


def test_swapped_axes_that_fall_on_glass(tmp_path: Path) -> None:
    raw = tiny()
    tall = np.full((520, 520, 3), (238, 236, 240), np.uint8)
    tall[:400] = raw.image
    raw.image = tall
    right = read(raw, tmp_path)
    assert right.n_obs == 29
    (tmp_path / "S1.h5ad").unlink()
    raw.spots[["pixel_x", "pixel_y"]] = raw.spots[["pixel_y", "pixel_x"]].to_numpy()
    refused(raw, tmp_path, "spots-swapped")


def test_positions_that_do_not_follow_the_array(tmp_path: Path) -> None:
    raw = tiny()
    shuffled = raw.spots.sample(frac=1, random_state=3)
    raw.spots[["pixel_x", "pixel_y"]] = shuffled[["pixel_x", "pixel_y"]].to_numpy()
    refused(raw, tmp_path, "pitch-residual")


@pytest.mark.parametrize(
    ("mpp", "code"), [("500", "mpp-implausible"), ("0.05", "mpp-disagrees"), ("5.5", "mpp-disagrees")]
)
def test_a_wrong_sheet_mpp_stops(tmp_path: Path, mpp: str, code: str) -> None:
    refused(tiny(), tmp_path, code, mpp=mpp)


def test_the_sheet_decides_when_it_says_so(tmp_path: Path) -> None:
    read(tiny(), tmp_path, mpp="5.5", mpp_decides="yes")
    facts = read_metadata(tmp_path / "S1.h5ad")
    assert (facts["mpp"], facts["mpp_source"]) == (5.5, "sheet")


def test_the_sheet_within_five_percent_is_taken(tmp_path: Path) -> None:
    read(tiny(), tmp_path, mpp="5.1")
    assert read_metadata(tmp_path / "S1.h5ad")["mpp"] == 5.1


def test_nonsense_in_a_measure(tmp_path: Path) -> None:
    raw = tiny()
    raw.write(tmp_path)
    with pytest.raises(InputError, check=has_code("sheet-number"), match=r"'pitch_um'.*'wide'"):
        read(raw, tmp_path, pitch_um="wide")


def test_paths() -> None:
    row = {"sample": "B4", "patient": "B", "image": "data/ST-imgs/B/B4/x.jpg", "regions": ""}
    assert Her2stReader.files(row, {}, "results/sources/her2st") == {
        "counts": "results/sources/her2st/data/ST-cnts/B4.tsv.gz",
        "spots": "results/sources/her2st/data/ST-spotfiles/B4_selection.tsv",
        "image": "results/sources/her2st/data/ST-imgs/B/B4/x.jpg",
    }
    assert Her2stReader.tables({}, "r") == {
        "stereoscope_major": "r/res/ST-deconv/props/major.zip",
        "stereoscope_minor": "r/res/ST-deconv/props/minor.zip",
    }
    simulated = SimulatedReader.files(row, {}, "r")
    assert simulated["truth"] == "r/truth/B4_abundance.tsv"
    assert simulated["regions"] == "r/data/ST-pat/lbl/B4_labeled_coordinates.tsv"
    assert SimulatedReader.tables({}, "r") == {}


def test_every_path_of_the_sheet_is_on_the_list_of_files(repo: Path) -> None:
    from histoloom.config import read_sheet
    from histoloom.sources.registry import load_registry

    known = load_registry(repo / "resources" / "files" / "her2st.tsv")
    rows = read_sheet(repo / "config" / "cohorts" / "her2st.tsv", "her2st")
    wanted = [path for row in rows for path in Her2stReader.files(row, {}, "").values()]
    wanted += Her2stReader.tables({}, "").values()
    assert set(wanted) <= set(known)
    # subset.zip is published too, but nothing reads it.
    assert set(known) - set(wanted) == {"res/ST-deconv/props/subset.zip"}
    assert {row["patient"] for row in rows if row["x_paper_patient"] in "EFGH"} == {
        "BC23567", "BC23810", "BC23903", "BC24044",
    }  # fmt: skip
