"""The Xenium reader: cells to H&E pixels, ids of every kind, and everything that must stop it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.samples import read_section
from histoloom.samples.alignment import read_alignment, slide_mpp, to_slide
from histoloom.samples.counts import read_10x_h5
from histoloom.samples.tables import as_text
from histoloom.samples.xenium import XeniumReader, read_cells
from raw_layouts import CONTROLS, PIXEL_UM, XENIUM_GENES, XENIUM_IDS, XeniumBundle, write_10x_h5


def files_of(bundle: XeniumBundle, root: Path) -> dict[str, Path]:
    return {role: Path(path) for role, path in XeniumReader.files(bundle.row, {}, root).items()}


def read(bundle: XeniumBundle, root: Path) -> anndata.AnnData:
    return XeniumReader.read(files_of(bundle, root), bundle.row, {})


def make(bundle: XeniumBundle, root: Path, folder: Path, **row: str) -> Path:
    bundle.row |= row
    out = folder / "X1.h5ad"
    picture = folder / "X1.png"
    read_section(
        source="xenium", cohort="x", row=bundle.row, spec={}, files=files_of(bundle, root), out=out, picture=picture
    )
    return out


def test_cells_land_on_their_nuclei(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    out = make(bundle, bundle.write(tmp_path), tmp_path)
    section, facts = anndata.read_h5ad(out), read_metadata(out)
    assert section.n_obs == 225
    np.testing.assert_allclose(section.obsm["spatial"], bundle.he, atol=1e-3)
    at = np.rint(section.obsm["spatial"]).astype(int)
    assert (bundle.image[at[:, 1], at[:, 0]] == (70, 40, 120)).all()
    assert list(section.var_names) == XENIUM_GENES
    assert list(section.var["ensembl_id"]) == XENIUM_IDS
    np.testing.assert_array_equal(section.X.toarray(), bundle.counts[:, :6])
    assert list(section.obs_names) == list(bundle.ids)
    np.testing.assert_allclose(section.obs["cell_area_um2"], bundle.cells["cell_area"])
    assert facts["dropped"]["control_feature"] == 2
    assert facts["source_facts"]["controls"] == {"Negative Control Probe": 1, "Unassigned Codeword": 1}
    assert (facts["mpp_source"], facts["unit"]) == ("alignment", "cell")
    assert facts["mpp"] == pytest.approx(PIXEL_UM * 1.2884, rel=1e-6)
    assert facts["spot_diameter_um"] == pytest.approx(2 * np.sqrt(bundle.cells["cell_area"].median() / np.pi))
    steps = section.obs[["array_col", "array_row"]].to_numpy() * facts["pitch_um"]
    assert (np.abs(bundle.um - steps - 5) <= 5).all()


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    root = bundle.write(tmp_path)
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    assert make(bundle, root, first).read_bytes() == make(bundle, root, second).read_bytes()


def test_keypoints_say_the_same_as_the_matrix(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    (tmp_path / "m.csv").write_text(bundle.alignment)
    for n in (3, 4):
        (tmp_path / "k.csv").write_text(bundle.keypoints(n))
        np.testing.assert_allclose(read_alignment(tmp_path / "k.csv"), read_alignment(tmp_path / "m.csv"), atol=1e-6)


def test_alignment_by_hand(tmp_path: Path) -> None:
    # H&E px (10, 20) lies at morphology px (2 * 10 + 5, 2 * 20 + 7) = (25, 47), that is (5.3125, 9.9875) um
    (tmp_path / "m.csv").write_text("2.0,0.0,5.0\n0.0,2.0,7.0\n0.0,0.0,1.0\n")
    matrix = read_alignment(tmp_path / "m.csv")
    np.testing.assert_allclose(to_slide(np.array([[5.3125, 9.9875]]), matrix, 0.2125), [[10, 20]])
    assert slide_mpp(matrix, 0.2125) == pytest.approx(0.425)


@pytest.mark.parametrize("kind", ["text", "bytes", "integers"])
def test_ids_of_every_kind(tmp_path: Path, kind: str) -> None:
    bundle = XeniumBundle()
    if kind == "integers":
        bundle.ids = np.arange(1, 226)
        barcodes: Any = np.array([str(i) for i in bundle.ids], "S")
    else:
        barcodes = np.array([str(i) for i in bundle.ids], "S")
        bundle.cells["cell_id"] = [i.encode() for i in bundle.ids] if kind == "bytes" else bundle.ids
    if kind == "integers":
        bundle.cells["cell_id"] = bundle.ids.astype(np.int32)
    section = read(bundle, bundle.write(tmp_path, barcodes=barcodes))
    assert list(section.obs_names) == [str(i) for i in bundle.ids]


def test_text_of_ids() -> None:
    assert list(as_text(np.array([1.0, 20.0]))) == ["1", "20"]
    assert list(as_text(np.array([b"a-1", "b-1"], dtype=object))) == ["a-1", "b-1"]


def test_rows_are_joined_by_id_and_the_rest_is_counted(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    order = np.random.default_rng(1).permutation(225)
    bundle.cells = bundle.cells.iloc[order[:-3]]
    section = read(bundle, bundle.write(tmp_path))
    assert section.uns["dropped"]["counts_without_cell"] == 3
    kept = [i for i in range(225) if i not in order[-3:]]
    np.testing.assert_array_equal(section.X.toarray(), bundle.counts[kept][:, :6])
    np.testing.assert_allclose(section.obsm["spatial"], bundle.he[kept], atol=1e-3)


def test_csv_cells_and_no_slide(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    root = bundle.write(tmp_path)
    bundle.cells.to_csv(root / "run_outs/cells.csv.gz", index=False)
    bundle.row |= {"cells": "cells.csv.gz", "image": "", "alignment": ""}
    assert "image" not in files_of(bundle, root)
    section = read(bundle, root)
    np.testing.assert_allclose(section.obsm["spatial"] * PIXEL_UM, bundle.um, atol=1e-6)


def test_a_symbol_of_two_ids_is_added_up(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    root = bundle.write(tmp_path)
    names = ["EPCAM", "CD3E", "EPCAM", "KRT8", "PECAM1", "CD68", *CONTROLS]
    write_10x_h5(
        root / "run_outs/cell_feature_matrix.h5",
        bundle.counts,
        np.array(list(bundle.ids), "S"),
        names,
        [*XENIUM_IDS, *CONTROLS],
        ["Gene Expression"] * 6 + list(CONTROLS.values()),
    )
    section = read(bundle, root)
    assert list(section.var_names) == ["EPCAM", "CD3E", "KRT8", "PECAM1", "CD68"]
    np.testing.assert_array_equal(section.X.toarray()[:, 0], bundle.counts[:, 0] + bundle.counts[:, 2])
    assert list(section.var["ensembl_id"]) == ["", *XENIUM_IDS[1:2], *XENIUM_IDS[3:]]


def test_controls_that_a_panel_types_as_genes_go_by_name(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    root = bundle.write(tmp_path)
    path = root / "run_outs/cell_feature_matrix.h5"
    write_10x_h5(
        path, bundle.counts, np.array(list(bundle.ids), "S"), [*XENIUM_GENES, *CONTROLS], [*XENIUM_IDS, *CONTROLS]
    )
    found = read_10x_h5(path)
    assert list(found.genes) == XENIUM_GENES
    assert found.other_features == {"control by name": 2}


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_the_matrix_is_what_scanpy_reads(tmp_path: Path) -> None:
    import scanpy as sc

    bundle = XeniumBundle()
    path = bundle.write(tmp_path) / "run_outs/cell_feature_matrix.h5"
    other, mine = sc.read_10x_h5(path, gex_only=True), read_10x_h5(path)
    np.testing.assert_array_equal(mine.matrix.toarray(), other.X.toarray())
    assert list(mine.obs_ids) == list(other.obs_names)
    assert list(mine.genes) == list(other.var_names)
    assert mine.matrix.dtype == np.int32
    assert mine.matrix.indices.dtype == mine.matrix.indptr.dtype == np.int32


# bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("1,0,0\n2,0,0\n0,0,1\n", "alignment-singular"),
        ("0,0,0\n0,0,0\n0,0,1\n", "alignment-singular"),
        ("1,0\n0,1\n", "alignment-shape"),
        ("1,0,0\n0,1,0\n0,1,1\n", "alignment-not-affine"),
        ("1,0,0\n0,nan,0\n0,0,1\n", "alignment-not-affine"),
        ("1,0,0\n0,1.5,0\n0,0,1\n", "alignment-stretch"),
        ("<html>\n", "alignment-format"),
        ("fixedX,fixedY,alignmentX\n1,2,3\n", "keypoint-columns"),
        ("fixedX,fixedY,alignmentX,alignmentY\n1,2,3,4\n5,6,7,8\n", "keypoints-too-few"),
        ("fixedX,fixedY,alignmentX,alignmentY\n0,0,0,0\n1,1,1,1\n2,2,2,2\n", "keypoints-too-few"),
        ("fixedX,fixedY,alignmentX,alignmentY\n0,0,0,0\n1,x,1,1\n2,2,2,2\n", "keypoint-numbers"),
    ],
)
def test_bad_alignments(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, check=has_code(code)):
        read_alignment(tmp_path / "a.csv")


def test_the_inverse_matrix_is_caught(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    inverse = np.linalg.inv(bundle.matrix)
    bundle.alignment = "\n".join(",".join(f"{v:.12f}" for v in row) for row in inverse) + "\n"
    with pytest.raises(InputError, check=has_code("xenium-alignment")) as caught:
        read(bundle, bundle.write(tmp_path))
    assert "he_imagealignment.csv" in caught.value.where


def test_an_inverse_that_stays_on_a_large_slide_is_caught_by_the_glass(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    # no shift and no mirror: both directions stay on the slide, which is mostly glass
    bundle.matrix = np.diag([1.6, 1.6, 1.0])
    bundle.he = 300 + (bundle.he - bundle.he.min(0)) * 0.4
    bundle.um = bundle.he * 1.6 * PIXEL_UM
    bundle.cells[["x_centroid", "y_centroid"]] = bundle.um
    bundle.image = np.full((1400, 1400, 3), (240, 238, 242), np.uint8)
    bundle.image[280:450, 280:500] = (190, 100, 170)
    for diagonal, good in ((1.6, True), (1 / 1.6, False)):
        bundle.alignment = f"{diagonal},0,0\n0,{diagonal},0\n0,0,1\n"
        root = bundle.write(tmp_path / str(good))
        if good:
            assert read(bundle, root).n_obs == 225
        else:
            with pytest.raises(InputError, check=has_code("xenium-alignment"), match="inverted"):
                read(bundle, root)


def test_a_few_cells_beside_the_slide_are_dropped_and_counted(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    bundle.cells.loc[:4, "x_centroid"] += 1e4
    section = read(bundle, bundle.write(tmp_path))
    assert section.n_obs == 220
    assert section.uns["dropped"]["outside_slide"] == 5


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"data": None}, "tenx-dataset"),
        ({"features/id": None}, "tenx-dataset"),
        ({"shape": np.array([225, 8])}, "tenx-shape"),
        ({"indptr": np.zeros(9, np.int64)}, "tenx-layout"),
        ({"indptr": np.zeros(5, np.int64)}, "tenx-layout"),
        ({"indices": np.zeros(3, np.int64)}, "tenx-arrays"),
        ({"barcodes": np.array([b"a", b"b"])}, "tenx-shape"),
    ],
)
def test_bad_matrices(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    bundle = XeniumBundle()
    root = bundle.write(tmp_path, **change)
    with pytest.raises(InputError, check=has_code(code)):
        read(bundle, root)


@pytest.mark.parametrize("value", [-1, 0.5, np.nan, 2.0**40])
def test_values_that_are_no_counts(tmp_path: Path, value: float) -> None:
    bundle = XeniumBundle()
    size = int((bundle.counts > 0).sum())
    data = np.ones(size, np.float64)
    data[3] = value
    with pytest.raises(InputError, check=has_code("no-counts")):
        read(bundle, bundle.write(tmp_path, data=data))


def test_an_index_outside(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    size = int((bundle.counts > 0).sum())
    with pytest.raises(InputError, check=has_code("tenx-index")):
        read(bundle, bundle.write(tmp_path, indices=np.full(size, 8, np.int64)))


def test_bad_tables_of_cells(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    root = bundle.write(tmp_path)
    path = root / "run_outs/cells.parquet"
    bundle.cells.drop(columns="y_centroid").to_parquet(path)
    with pytest.raises(InputError, check=has_code("xenium-cells-columns"), match="y_centroid"):
        read(bundle, root)
    pd.concat([bundle.cells, bundle.cells.iloc[:1]]).to_parquet(path)
    with pytest.raises(InputError, check=has_code("cell-twice")):
        read(bundle, root)
    bundle.cells.assign(x_centroid=np.nan).to_parquet(path)
    with pytest.raises(InputError, check=has_code("xenium-centroid")):
        read(bundle, root)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, check=has_code("xenium-cells-unreadable")):
        read_cells(path)
    bundle.cells.assign(cell_id=[f"z{i}" for i in range(225)]).to_parquet(path)
    with pytest.raises(InputError, check=has_code("xenium-cell-ids")):
        read(bundle, root)
    path.unlink()
    with pytest.raises(InputError, check=has_code("xenium-cells-missing")):
        read(bundle, root)


@pytest.mark.parametrize(
    ("text", "code"),
    [("{", "xenium-experiment"), ("[]", "xenium-experiment"), (json.dumps({"pixel_size": 0}), "xenium-pixel-size")],
)
def test_bad_experiment(tmp_path: Path, text: str, code: str) -> None:
    bundle = XeniumBundle()
    root = bundle.write(tmp_path)
    (root / "run_outs/experiment.xenium").write_text(text)
    with pytest.raises(InputError, check=has_code(code)):
        read(bundle, root)


def test_an_mpp_that_disagrees_with_the_alignment(tmp_path: Path) -> None:
    bundle = XeniumBundle()
    root = bundle.write(tmp_path)
    with pytest.raises(InputError, check=has_code("mpp-disagrees"), match=r"0\.5 .*0\.2738 "):
        make(bundle, root, tmp_path, mpp="0.5")
    assert read_metadata(make(bundle, root, tmp_path, mpp_decides="yes"))["mpp"] == 0.5
