"""A user's own sections: each format gives the same counts, in the same places."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from samples_inputs import Raw, tiny
from scipy.io import mmwrite
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.samples import read_section
from histoloom.samples.counts import read_counts
from histoloom.samples.files import FilesReader
from histoloom.samples.tables import read_positions

SHEET = {"sample": "S1", "patient": "P1", "image": "s.png", "pitch_um": "200", "spot_diameter_um": "100"}


def write_table(raw: Raw, root: Path) -> str:
    raw.counts.to_csv(root / "c.csv")
    return "c.csv"


def write_packed(raw: Raw, root: Path) -> str:
    raw.counts.to_csv(root / "c.tsv.gz", sep="\t")
    return "c.tsv.gz"


def write_turned(raw: Raw, root: Path) -> str:
    raw.counts.T.to_csv(root / "t.tsv", sep="\t")
    return "t.tsv"


def write_h5ad(raw: Raw, root: Path) -> str:
    obs, var = pd.DataFrame(index=raw.counts.index), pd.DataFrame(index=raw.counts.columns)
    anndata.AnnData(csr_matrix(raw.counts.to_numpy(np.float32)), obs, var).write_h5ad(root / "c.h5ad")
    return "c.h5ad"


def write_10x_h5(raw: Raw, root: Path) -> str:
    matrix = csc_matrix(raw.counts.to_numpy().T)
    with h5py.File(root / "c.h5", "w") as handle:
        group = handle.create_group("matrix")
        for name, values in (("data", matrix.data), ("indices", matrix.indices), ("indptr", matrix.indptr)):
            group[name] = values
        group["shape"] = np.array(matrix.shape)
        group["barcodes"] = np.array(raw.counts.index, dtype="S")
        features = group.create_group("features")
        for name in ("name", "id"):
            features[name] = np.array(raw.counts.columns, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * raw.counts.shape[1], dtype="S")
        features["genome"] = np.array(["GRCh38"] * raw.counts.shape[1], dtype="S")
    return "c.h5"


def write_mtx(raw: Raw, root: Path, symbols: list[str] | None = None) -> str:
    folder = root / "mtx"
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as handle:
        mmwrite(handle, coo_matrix(raw.counts.to_numpy().T))
    with gzip.open(folder / "barcodes.tsv.gz", "wt") as handle:
        handle.write("\n".join(raw.counts.index) + "\n")
    names = symbols or list(raw.counts.columns)
    with gzip.open(folder / "features.tsv.gz", "wt") as handle:
        handle.writelines(f"ENSG{i:05d}\t{name}\tGene Expression\n" for i, name in enumerate(names))
    return "mtx"


def read(raw: Raw, root: Path, counts: str, positions: str, **row: str) -> anndata.AnnData:
    Image.fromarray(raw.image).save(root / "s.png")
    full = {**SHEET, "counts": counts, "positions": positions, **row}
    files = {role: Path(path) for role, path in FilesReader.files(full, {}, root).items()}
    out = root / "out.h5ad"
    read_section(source="files", cohort="m", row=full, spec={}, files=files, out=out, picture=root / "out.png")
    return anndata.read_h5ad(out)


def spots_as_table(raw: Raw, root: Path) -> str:
    raw.spots.to_csv(root / "p.tsv", sep="\t", index=False)
    return "p.tsv"


@pytest.mark.parametrize("write", [write_table, write_packed, write_turned, write_h5ad, write_10x_h5, write_mtx])
def test_every_format_gives_the_same_counts(tmp_path: Path, write: Callable[[Raw, Path], str]) -> None:
    raw = tiny()
    section = read(raw, tmp_path, write(raw, tmp_path), spots_as_table(raw, tmp_path))
    assert list(section.obs_names) == list(raw.counts.index)
    assert list(section.var_names) == list(raw.counts.columns)
    np.testing.assert_array_equal(section.X.toarray(), raw.counts.to_numpy())
    assert section.X.dtype == np.int32
    by_id = raw.spots.set_index(raw.spots["x"].astype(str) + "x" + raw.spots["y"].astype(str)).loc[section.obs_names]
    np.testing.assert_array_equal(section.obsm["spatial"], by_id[["pixel_x", "pixel_y"]])


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_genes_of_one_symbol_are_added_up_and_counted(tmp_path: Path) -> None:
    raw = tiny()
    symbols = [f"G{i}" for i in range(11)] + ["G2"]
    section = read(raw, tmp_path, write_mtx(raw, tmp_path, symbols), spots_as_table(raw, tmp_path))
    assert list(section.var_names) == symbols[:11]
    np.testing.assert_array_equal(section[:, "G2"].X.toarray().ravel(), raw.counts["G2"] + raw.counts["G11"])
    assert read_metadata(tmp_path / "out.h5ad")["dropped"]["gene_merged_by_symbol"] == 1


def space_ranger(raw: Raw) -> pd.DataFrame:
    ids = raw.spots["x"].astype(str) + "x" + raw.spots["y"].astype(str)
    return pd.DataFrame(
        {
            "barcode": ids,
            "in_tissue": (raw.spots["x"] != 5).astype(int),
            "array_row": raw.spots["y"],
            "array_col": raw.spots["x"],
            "pxl_row_in_fullres": raw.spots["pixel_y"],
            "pxl_col_in_fullres": raw.spots["pixel_x"],
        }
    )


@pytest.mark.parametrize("name", ["tissue_positions_list.csv", "tissue_positions.csv", "tissue_positions.parquet"])
def test_space_ranger_of_every_generation(tmp_path: Path, name: str) -> None:
    raw = tiny()
    table = space_ranger(raw)
    if name.endswith("parquet"):
        table.to_parquet(tmp_path / name)
    else:
        table.to_csv(tmp_path / name, index=False, header=not name.endswith("_list.csv"))
    section = read(raw, tmp_path, write_table(raw, tmp_path), name)
    expected = table.set_index("barcode").loc[section.obs_names]
    np.testing.assert_allclose(section.obsm["spatial"][:, 0], expected["pxl_col_in_fullres"])
    np.testing.assert_allclose(section.obsm["spatial"][:, 1], expected["pxl_row_in_fullres"])
    np.testing.assert_array_equal(section.obs["array_row"], expected["array_row"])
    np.testing.assert_array_equal(section.obs["in_tissue"], expected["in_tissue"] == 1)
    assert read_metadata(tmp_path / "out.h5ad")["n_in_tissue"] == int((expected["in_tissue"] == 1).sum())


def test_positions_within_the_h5ad(tmp_path: Path) -> None:
    raw = tiny()
    path = tmp_path / write_h5ad(raw, tmp_path)
    data = anndata.read_h5ad(path)
    by_id = raw.spots.set_index(raw.spots["x"].astype(str) + "x" + raw.spots["y"].astype(str)).loc[data.obs_names]
    data.obs["array_row"], data.obs["array_col"] = by_id["x"], by_id["y"]
    data.obs["region"] = pd.Categorical(["a", None] * 14 + ["b"])
    data.obsm["spatial"] = by_id[["pixel_x", "pixel_y"]].to_numpy()
    data.layers["raw"], data.X = data.X.copy(), data.X * 0.5
    data.write_h5ad(path)
    with pytest.raises(InputError, check=has_code("no-counts")) as caught:
        read(raw, tmp_path, "c.h5ad", "")
    assert "layers: raw" in caught.value.remedy
    section = read(raw, tmp_path, "c.h5ad", "", counts_layer="raw")
    np.testing.assert_array_equal(section.X.toarray(), raw.counts.to_numpy())
    assert list(section.obs["region"])[:3] == ["a", "", "a"]
    with pytest.raises(InputError, check=has_code("counts-layer"), match=r"'rew'.*raw"):
        read(raw, tmp_path, "c.h5ad", "", counts_layer="rew")


def test_h5ad_without_positions(tmp_path: Path) -> None:
    raw = tiny()
    with pytest.raises(InputError, check=has_code("h5ad-positions")):
        read(raw, tmp_path, write_h5ad(raw, tmp_path), "")


@pytest.mark.parametrize("write", [write_h5ad, write_10x_h5, write_mtx])
def test_bad_values_are_named_in_sparse_formats(tmp_path: Path, write: Callable[[Raw, Path], str]) -> None:
    raw = tiny()
    raw.counts.iloc[8, 4] = -3
    with pytest.raises(InputError, check=has_code("no-counts"), match=f"-3.*spot '{raw.counts.index[8]}', gene 'G4'"):
        read_counts(tmp_path / write(raw, tmp_path))


@pytest.mark.parametrize("name", ["c.rds", "c.loom"])
def test_unknown_format_of_counts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"abc")
    with pytest.raises(InputError, check=has_code("counts-format")) as caught:
        read_counts(tmp_path / name)
    assert ".h5ad" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("c.h5", "counts-unreadable"),
        ("c.h5ad", "counts-unreadable"),
        ("c.csv", "counts-header"),
        ("mtx", "mtx-file-missing"),
    ],
)
def test_broken_counts(tmp_path: Path, name: str, code: str) -> None:
    if name == "mtx":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"not what the name says")
    with pytest.raises(InputError, check=has_code(code), match=name):
        read_counts(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (lambda t: t.drop(columns="pixel_y"), "positions-columns", "pixel_y; found: x, y"),
        (lambda t: t.assign(x=t["x"] + 0.5), "positions-fractions", "p.csv"),
        (
            lambda t: t.assign(pixel_x=t["pixel_x"].astype(object).where(t.index != 3, "far")),
            "positions-numbers",
            "'far' in column 'pixel_x'",
        ),
        (lambda t: t.assign(pixel_x=t["pixel_x"].where(t.index != 3)), "positions-numbers", "'' in column 'pixel_x'"),
    ],
)
def test_bad_positions(tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], code: str, named: str) -> None:
    change(tiny().spots).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, check=has_code(code), match=named):
        read_positions(tmp_path / "p.csv")


def test_mpp_absent_and_no_pitch(tmp_path: Path) -> None:
    raw = tiny()
    counts, spots = write_table(raw, tmp_path), spots_as_table(raw, tmp_path)
    with pytest.raises(InputError, check=has_code("mpp-unknown")) as caught:
        read(raw, tmp_path, counts, spots, pitch_um="")
    assert "'pitch_um'" in caught.value.remedy
    # With the sheet's mpp the pitch follows from the array.
    read(raw, tmp_path, counts, spots, pitch_um="", mpp="5")
    assert read_metadata(tmp_path / "out.h5ad")["pitch_um"] == pytest.approx(200, rel=0.02)


def test_paths_are_relative_to_the_root_unless_absolute(tmp_path: Path) -> None:
    row = {**SHEET, "counts": "a/c.tsv", "positions": "/abs/p.csv"}
    assert FilesReader.files(row, {}, "base") == {
        "counts": "base/a/c.tsv", "image": "base/s.png", "positions": "/abs/p.csv",
    }  # fmt: skip
    for column in ("counts", "image", "positions"):
        with pytest.raises(InputError, check=has_code("sheet-cell-empty"), match=f"'{column}'"):
            FilesReader.files({**row, column: ""}, {}, "base")
