"""The readers of STNet, HEST and Xenium against what is real: counts of a shared section, small bundles, HEST's table."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image, ImageDraw

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.config import read_sheet
from histoloom.errors import InputError
from histoloom.samples import read_section
from histoloom.samples.her2st import Her2stReader
from histoloom.samples.polygons import read_polygons, write_polygons
from histoloom.samples.stnet import STNetReader
from histoloom.samples.xenium import XeniumReader
from histoloom_operations.hest_sheets import hest_rows, read_hest_table
from raw_layouts import write_10x_h5, write_ome

pytestmark = pytest.mark.real


def her2st_files(repo: Path, real_data: Path, sample: str) -> tuple[dict[str, str], dict[str, Path]]:
    row = next(r for r in read_sheet(repo / "config/cohorts/her2st.tsv", "her2st") if r["sample"] == sample)
    return row, {role: Path(path) for role, path in Her2stReader.files(row, {}, real_data / "her2st").items()}


# STNet: her2st E1 is STNet BC23567_D2, so the real counts and places can stand in STNet's layout ------------------


@pytest.fixture(scope="module")
def stnet_e1(
    repo: Path, real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[anndata.AnnData, Path, Path]:
    row, files = her2st_files(repo, real_data, "E1")
    files.pop("image")
    section = Her2stReader.read(files, row, {})
    root = tmp_path_factory.mktemp("stnet")
    sheet = {r["sample"]: r for r in read_sheet(repo / "config/cohorts/stnet.tsv", "stnet")}
    named = sheet[row["x_stnet_section"]]
    # her2st publishes symbols; STNet's table holds Ensembl ids: the n-th symbol gets the made id ENSG9 + n.
    ids = [f"ENSG9{number:010d}" for number in range(section.n_vars)]
    counts = section.to_df().set_axis(ids, axis=1)
    beside = pd.DataFrame(1, index=[f"{x}x{y}" for x in range(40, 60) for y in range(20)], columns=ids)
    whole = pd.concat([counts, beside])
    (root / named["counts"]).write_bytes(gzip.compress(whole.to_csv(sep="\t").encode(), compresslevel=1, mtime=0))
    spots = pd.DataFrame(section.obsm["spatial"], index=section.obs_names, columns=["X", "Y"])
    (root / named["spots"]).write_bytes(gzip.compress(spots.to_csv().encode(), mtime=0))
    lines = ["xcoord\tycoord\tlab\ttumor"]
    for name, region in section.obs["region"].items():
        x, y = str(name).split("x")
        label = "tumor" if region in ("invasive cancer", "cancer in situ") else "non"
        lines.append(f"D2_{x}_{y}\t{x}.02\t{y}.01\tL1\t{label}")
    (root / named["annotation"]).write_bytes(gzip.compress("\r".join(lines).encode(), mtime=0))
    columns = "type,patient,replicate,count_matrix,histology_image,spot_coordinates,tumor_annotation"
    published = [named["counts"], named["image"], named["spots"], named["annotation"]]
    (root / "metadata.csv").write_text(f"{columns}\nHER2_non_luminal,BC23567,D2,{','.join(published)}\n")
    # The slide of E1 is not at hand: one of its true size, with tissue under the spots.
    sizes = pd.read_csv(real_data / "her2st_meta/her2st_image_dims.tsv", sep="\t", index_col=0)
    image = Image.new("RGB", (int(sizes.loc["E1", "width"]), int(sizes.loc["E1", "height"])), (236, 232, 238))
    draw = ImageDraw.Draw(image)
    for x, y in section.obsm["spatial"]:
        draw.ellipse((x - 190, y - 190, x + 190, y + 190), fill=(205, 140, 185))
    image.save(root / named["image"], quality=85)
    out = root / "out.h5ad"
    read_section(
        source="stnet",
        cohort="stnet",
        row=named,
        spec={},
        files={role: Path(path) for role, path in STNetReader.files(named, {}, root).items()},
        out=out,
        picture=root / "out.png",
    )
    return section, out, root


def test_stnet_carries_real_counts_through(stnet_e1: tuple[anndata.AnnData, Path, Path]) -> None:
    section, out, _ = stnet_e1
    made, facts = anndata.read_h5ad(out), read_metadata(out)
    assert (facts["sample"], facts["patient"], made.n_obs) == ("BC23567_D2", "BC23567", 587)
    assert list(made.obs_names) == list(section.obs_names)
    assert (made.X != section.X).nnz == 0
    np.testing.assert_array_equal(made.obsm["spatial"], section.obsm["spatial"])
    assert facts["dropped"]["outside_tissue"] == 400
    assert 0.66 < facts["mpp"] < 0.71
    assert (facts["slide_width"], facts["slide_height"]) == (9322, 9922)
    cancer = section.obs["region"].isin(["invasive cancer", "cancer in situ"])
    assert ((made.obs["region"] == "tumor").to_numpy() == cancer.to_numpy()).all()


def run_rules(repo: Path, folder: Path, config: dict[str, Any], *targets: str) -> None:
    """Make targets in a folder with the workflow itself."""
    (folder / "config.yaml").write_text(yaml.safe_dump({"experiments": {}, **config}))
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(repo / "Snakefile"), "--directory", str(folder),
        "--workflow-profile", str(repo / "profiles/ci"), "--quiet", "all", "--cores", "2",
        "--configfile", str(folder / "config.yaml"), "--", *targets,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def write_sheet(path: Path, row: dict[str, str]) -> str:
    path.write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
    return str(path)


def test_stnet_goes_through_the_real_rule(
    repo: Path, stnet_e1: tuple[anndata.AnnData, Path, Path], tmp_path: Path
) -> None:
    """The sheet as shipped, a run of the rule; the sample holds E1's counts and E1's places, to the byte as the reader's."""
    section, out, root = stnet_e1
    cohort = {"source": "stnet", "sheet": str(repo / "config/cohorts/stnet.tsv"), "samples": ["BC23567_D2"]}
    made = "results/samples/stnet/BC23567_D2.h5ad"
    run_rules(repo, tmp_path, {"cohorts": {"stnet": {**cohort, "root": str(root)}}}, made)
    assert (tmp_path / made).read_bytes() == out.read_bytes()
    read = anndata.read_h5ad(tmp_path / made)
    assert (read.X != section.X).nnz == 0
    assert (tmp_path / "results/figures/samples/stnet/BC23567_D2.jpg").stat().st_size > 50_000


# HEST's table -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hest(real_data: Path) -> pd.DataFrame:
    return read_hest_table(real_data / "hest_meta/HEST_v1_1_0.csv")


def test_hest_table_and_the_six_totals(repo: Path, hest: pd.DataFrame) -> None:
    assert len(hest) == 1229
    expected = {"idc": 44_974, "lymph_idc": 19_964, "skcm": 5_716, "read": 8_407, "coad": 19_028, "psc": 19_968}
    for name, total in expected.items():
        sheet = read_sheet(repo / f"config/cohorts/hest_{name}.tsv", "hest")
        rows = hest_rows([r["sample"] for r in sheet], hest)
        assert hest.loc[[r["sample"] for r in sheet], "spots_under_tissue"].astype(int).sum() == total
        for mine, made in zip(sheet, rows, strict=True):
            for column in ("technology", "x_spots", "x_subseries", "x_hest_patient", "mpp_decides"):
                if (mine["sample"], column) != ("TENX147", "mpp_decides"):
                    assert mine[column] == made[column], (mine["sample"], column)
            if mine["sample"] != "TENX147":
                assert mine["mpp"] == made["mpp"]
    # TENX147: two published pixel sizes 9 % apart; the scanner's is that of the two other slides of the block
    siblings = hest.loc[["TENX148", "TENX149"], "pixel_size_um_embedded"].astype(float)
    assert np.ptp([*siblings, float(hest.loc["TENX147", "pixel_size_um_embedded"])]) < 1e-5
    assert abs(float(hest.loc["TENX147", "pixel_size_um_estimated"]) / siblings.mean() - 1) > 0.08


def test_what_the_table_says_about_people(hest: pd.DataFrame) -> None:
    coad = hest.loc[["TENX147", "TENX148", "TENX149"]]
    assert set(coad["patient"]) == {"Patient 1"}
    assert [text.split()[-2] for text in coad["subseries"]] == ["P5", "P2", "P1"]
    assert list(hest.loc[["ZEN36", "ZEN40", "ZEN48", "ZEN49"], "patient"]) == ["Patient 7"] * 2 + ["Patient 1"] * 2
    psc = hest.loc[["NCBI672", "NCBI673", "NCBI674", "NCBI675"]]
    assert set(psc["patient"]) == {""}
    assert all(text.startswith("C73_") for text in psc["subseries"])


def test_stnet_sheet_is_the_tables_and_the_shared_slides_are_the_same(repo: Path, hest: pd.DataFrame) -> None:
    stnet = read_sheet(repo / "config/cohorts/stnet.tsv", "stnet")
    her2st = {r["sample"]: r for r in read_sheet(repo / "config/cohorts/her2st.tsv", "her2st")}
    rows = hest.loc[[r["x_hest_id"] for r in stnet]]
    assert list(rows["subseries"]) == [r["sample"] for r in stnet]
    assert list(rows["patient"]) == [r["patient"] for r in stnet]
    assert rows["spots_under_tissue"].astype(int).sum() == 30_655
    shared = [r for r in stnet if r["x_her2st_section"]]
    assert len(shared) == 12
    for row in shared:
        other = hest.loc[her2st[row["x_her2st_section"]]["x_hest_id"]]
        same = hest.loc[row["x_hest_id"]]
        for column in ("fullres_px_width", "fullres_px_height"):
            assert other[column] == same[column]
        assert abs(int(other["spots_under_tissue"]) - int(same["spots_under_tissue"])) <= 1


# Xenium -----------------------------------------------------------------------------------------------------------


def test_the_micro_bundle(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "xenium_small_SpatialExperimentIO/inst/extdata"
    row = {"sample": "micro", "patient": "P", "bundle": "Xenium_small"}
    files = {role: Path(path) for role, path in XeniumReader.files(row, {}, root).items()}
    section = XeniumReader.read(files, row, {})
    assert section.shape == (6, 4)
    assert list(section.obs_names) == list("123456")
    assert list(section.var_names) == ["ABCC11", "ACTA2", "ACTG2", "ADAM9"]
    assert section.var["ensembl_id"].iloc[0] == "ENSG00000121270"
    np.testing.assert_allclose(section.obsm["spatial"][0] * 0.2125, [847.259912, 326.191365])
    assert section.uns["stated"]["facts"]["analysis_sw_version"] == "Xenium-1.0.1"
    row["cells"] = "cells.csv.gz"
    files = {role: Path(path) for role, path in XeniumReader.files(row, {}, root).items()}
    assert XeniumReader.read(files, row, {}).n_obs == 6
    for kind, path in XeniumReader.polygons(row, {}, root).items():
        out = tmp_path / f"{kind}.parquet"
        write_polygons(boundaries=Path(path), out=out, cohort="c", sample="micro", alignment=None, pixel_size_um=0.2125)
        assert {name for name, _ in read_polygons(out)} <= set("123456")


def test_the_micro_bundle_through_the_rules(repo: Path, real_data: Path, tmp_path: Path) -> None:
    root = real_data / "xenium_small_SpatialExperimentIO/inst/extdata"
    row = {"sample": "micro", "patient": "P", "bundle": "Xenium_small"}
    cohort = {"source": "xenium", "sheet": write_sheet(tmp_path / "s.tsv", row), "root": str(root)}
    kinds = {kind: f"results/samples/x/micro.{kind}.parquet" for kind in ("cells", "nuclei")}
    run_rules(repo, tmp_path, {"cohorts": {"x": cohort}}, "results/exports/x/micro.geojson", *kinds.values())
    cells = pd.read_parquet(root / "Xenium_small/cells.parquet")
    cells.index = cells["cell_id"].astype(str)
    features = json.loads((tmp_path / "results/exports/x/micro.geojson").read_text())["features"]
    assert [f["properties"]["name"] for f in features] == list(cells.index)
    for feature in features:
        ring = np.array(feature["geometry"]["coordinates"][0]) * 0.2125
        x, y = ring[:, 0], ring[:, 1]
        area = 0.5 * abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))
        cell = cells.loc[feature["properties"]["name"]]
        # 10x's own area is counted in pixels of the mask; its outline has at most 25 vertices.
        assert area == pytest.approx(cell["cell_area"], rel=0.15)
        assert np.hypot(x[:-1].mean() - cell["x_centroid"], y[:-1].mean() - cell["y_centroid"]) < 3
        assert "nucleusGeometry" in feature


def test_nuclei_of_a_lung(real_data: Path, tmp_path: Path) -> None:
    (path,) = (real_data / "xenium_lung_10k_segger").rglob("nucleus_boundaries.parquet")
    out = tmp_path / "n.parquet"
    write_polygons(boundaries=path, out=out, cohort="c", sample="lung", alignment=None, pixel_size_um=0.2125)
    frame = pd.read_parquet(path)
    rings = dict(read_polygons(out))
    assert list(rings) == list(frame["cell_id"].unique())
    name, ring = next(iter(rings.items()))
    vertices = frame.loc[frame["cell_id"] == name, ["vertex_x", "vertex_y"]].to_numpy(np.float64)
    np.testing.assert_allclose(ring[: len(vertices)] * 0.2125, vertices, rtol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_real_cells_on_their_slide(real_data: Path, tmp_path: Path, turned: bool) -> None:
    """NCBI858's table calls the image's row x_pixel: with rows as columns, cells leave the slide."""
    folder = real_data / "deepspot_NCBI858"
    cells = anndata.read_h5ad(folder / "NCBI858.h5ad")
    image = np.asarray(Image.open(folder / "NCBI858.jpg").convert("RGB"))
    places = cells.obs[["y_pixel", "x_pixel"]].to_numpy()
    places = places[:, ::-1] if turned else places
    um_per_px = 2.125
    names = list(cells.var_names.astype(str))
    bundle = tmp_path / "run_outs"
    barcodes = np.array(list(cells.obs_names), "S")
    write_10x_h5(bundle / "cell_feature_matrix.h5", np.asarray(cells.X), barcodes, names, names)
    table = {
        "cell_id": list(cells.obs_names),
        "x_centroid": places[:, 0] * um_per_px,
        "y_centroid": places[:, 1] * um_per_px,
    }
    pd.DataFrame(table).to_parquet(bundle / "cells.parquet")
    (bundle / "experiment.xenium").write_text(json.dumps({"pixel_size": 0.2125}))
    (tmp_path / "a.csv").write_text("10,0,0\n0,10,0\n0,0,1\n")
    write_ome(tmp_path / "he.ome.tif", image)
    row = {"sample": "n", "patient": "P", "bundle": "run_outs", "image": "he.ome.tif", "alignment": "a.csv"}
    files = {role: Path(path) for role, path in XeniumReader.files(row, {}, tmp_path).items()}
    if turned:
        with pytest.raises(InputError, check=has_code("xenium-alignment")):
            XeniumReader.read(files, row, {})
        return
    out = tmp_path / "s.h5ad"
    read_section(source="xenium", cohort="x", row=row, spec={}, files=files, out=out, picture=tmp_path / "s.png")
    section = anndata.read_h5ad(out)
    assert (section.n_obs, read_metadata(out)["mpp"]) == (200, pytest.approx(2.125))
    at = np.floor(section.obsm["spatial"]).astype(int)
    rng = np.random.default_rng(0)
    elsewhere = np.column_stack([rng.integers(0, n, 2000) for n in (image.shape[1], image.shape[0])])
    on, off = (image[xy[:, 1], xy[:, 0]].mean() for xy in (at, elsewhere))
    assert on < off - 25
