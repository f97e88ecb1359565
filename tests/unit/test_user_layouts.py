"""One section in every layout that people have: the same counts, ids, centres and um per px from all of them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy.io import mmwrite
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix

from error_codes import has_code
from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.samples import read_section
from histoloom.samples.counts import read_counts
from histoloom.samples.files import FilesReader
from histoloom.slides import open_slide

GENES = [f"G{i}" for i in range(12)]
IDS = [f"ENSG{i:011d}" for i in range(12)]
ROWS, COLUMNS = (grid.ravel() for grid in np.mgrid[0:6, 0:6])
NAMES = [f"{r}x{c}" for r, c in zip(ROWS, COLUMNS, strict=True)]
CENTRES = np.column_stack([60.0 + 40 * COLUMNS, 50.0 + 40 * ROWS])
COUNTS = np.random.default_rng(0).poisson(2.0, (36, 12)).astype(np.int32)
# Other files of tests read them too.
CENTRES.flags.writeable = COUNTS.flags.writeable = False


def slide() -> np.ndarray:
    pixels = np.full((320, 330, 3), 240, np.uint8)
    pixels[30:270, 40:280] = (180, 90, 160)
    return pixels


def write_h5ad(root: Path, change: Callable[[ad.AnnData], None] | None = None) -> dict[str, str]:
    data = ad.AnnData(
        csr_matrix(COUNTS).astype(np.float32), obs=pd.DataFrame(index=NAMES), var=pd.DataFrame(index=GENES)
    )
    data.var["gene_ids"] = IDS
    data.obs["array_row"], data.obs["array_col"] = ROWS, COLUMNS
    data.obsm["spatial"] = CENTRES.copy()
    if change:
        change(data)
    data.write_h5ad(root / "c.h5ad")
    return {"counts": "c.h5ad"}


def as_raw(data: ad.AnnData) -> None:
    data.raw = data.copy()
    data.X = data.X * 0.37


def as_layer(data: ad.AnnData) -> None:
    data.layers["counts"] = csc_matrix(data.X)
    data.X = data.X * 0.37


def as_frame(data: ad.AnnData) -> None:
    data.obsm["spatial"] = pd.DataFrame(CENTRES, index=NAMES, columns=["x", "y"])


def with_foreign_types(root: Path) -> dict[str, str]:
    row = write_h5ad(root)
    with h5py.File(root / "c.h5ad", "r+") as handle:
        handle.create_group("__DATA_TYPES__")["Enum_Boolean"] = h5py.enum_dtype({"FALSE": 0, "TRUE": 1}, basetype="i1")
    return row


def positions(root: Path, delimiter: str = ",", end: str = "\n", mark: bytes = b"") -> str:
    lines = [["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]]
    lines += [
        [n, "1", str(r), str(c), str(y), str(x)] for n, r, c, (x, y) in zip(NAMES, ROWS, COLUMNS, CENTRES, strict=True)
    ]
    (root / "p.csv").write_bytes(mark + end.join(delimiter.join(line) for line in lines).encode())
    return "p.csv"


def write_table(root: Path, delimiter: str, end: str = "\n", mark: bytes = b"") -> dict[str, str]:
    lines = [["", *GENES], *[[name, *map(str, row)] for name, row in zip(NAMES, COUNTS, strict=True)]]
    (root / "c.tsv").write_bytes(mark + end.join(delimiter.join(line) for line in lines).encode())
    return {"counts": "c.tsv", "positions": positions(root, delimiter, end, mark)}


def write_mtx(root: Path, names: str, pack: bool) -> dict[str, str]:
    (root / "m").mkdir()
    opener = gzip.open if pack else open
    end = ".gz" if pack else ""
    with opener(root / f"m/matrix.mtx{end}", "wb") as handle:
        mmwrite(handle, coo_matrix(COUNTS.T))
    with opener(root / f"m/barcodes.tsv{end}", "wt") as handle:
        handle.write("\n".join(NAMES) + "\n")
    kind = "\tGene Expression" if names == "features" else ""
    with opener(root / f"m/{names}.tsv{end}", "wt") as handle:
        handle.writelines(f"{gene_id}\t{gene}{kind}\n" for gene_id, gene in zip(IDS, GENES, strict=True))
    return {"counts": "m", "positions": positions(root)}


def write_10x(root: Path, ids: list[str] = IDS) -> dict[str, str]:
    matrix = csr_matrix(COUNTS)
    with h5py.File(root / "c.h5", "w") as handle:
        group = handle.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = COUNTS.shape[::-1]
        group["barcodes"] = np.char.encode(NAMES, "utf-8")
        group["features/id"], group["features/name"] = np.array(ids, "S"), np.array(GENES, "S")
        group["features/feature_type"] = np.array(["Gene Expression"] * len(GENES), "S")
    return {"counts": "c.h5", "positions": positions(root)}


LAYOUTS: dict[str, Callable[[Path], dict[str, str]]] = {
    "h5ad": write_h5ad,
    "h5ad raw": lambda root: {**write_h5ad(root, as_raw), "counts_layer": "raw"},
    "h5ad layer": lambda root: {**write_h5ad(root, as_layer), "counts_layer": "counts"},
    "h5ad data frame": lambda root: write_h5ad(root, as_frame),
    "h5ad of other tools": with_foreign_types,
    "tsv": lambda root: write_table(root, "\t"),
    "semicolons, CRLF, mark": lambda root: write_table(root, ";", "\r\n", b"\xef\xbb\xbf"),
    "mtx": lambda root: write_mtx(root, "features", False),
    "mtx gz": lambda root: write_mtx(root, "features", True),
    "mtx genes": lambda root: write_mtx(root, "genes", False),
    "10x h5": write_10x,
}


def read(root: Path, row: dict[str, str]) -> ad.AnnData:
    if not (root / "s.png").exists():
        Image.fromarray(slide()).save(root / "s.png")
    sheet = {"sample": "S1", "patient": "P", "image": "s.png", "pitch_um": "100", "spot_diameter_um": "55", **row}
    files = {role: Path(path) for role, path in FilesReader.files(sheet, {}, root).items()}
    out = root / "out.h5ad"
    read_section(source="files", cohort="m", row=sheet, spec={}, files=files, out=out, picture=root / "out.png")
    return ad.read_h5ad(out)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_section(tmp_path: Path, name: str) -> None:
    section = read(tmp_path, LAYOUTS[name](tmp_path))
    assert list(section.obs_names) == NAMES
    assert list(section.var_names) == GENES
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    np.testing.assert_array_equal(section.obsm["spatial"], CENTRES)
    assert read_metadata(tmp_path / "out.h5ad")["mpp"] == pytest.approx(2.5)
    if "tsv" not in name and "semicolons" not in name:
        assert list(section.var["ensembl_id"]) == IDS


@pytest.mark.parametrize("name", ["h5ad", "mtx", "10x h5"])
def test_symbols_of_several_genes_are_added_up_in_every_layout(tmp_path: Path, name: str, monkeypatch) -> None:
    monkeypatch.setattr("test_user_layouts.GENES", [*GENES[:11], "G2"])
    section = read(tmp_path, LAYOUTS[name](tmp_path))
    np.testing.assert_array_equal(section[:, "G2"].X.toarray().ravel(), COUNTS[:, 2] + COUNTS[:, 11])
    assert read_metadata(tmp_path / "out.h5ad")["dropped"]["gene_merged_by_symbol"] == 1


def free_h5ad(root: Path) -> dict[str, str]:
    def change(data: ad.AnnData) -> None:
        del data.obs["array_row"], data.obs["array_col"]

    return write_h5ad(root, change)


def free_table(root: Path) -> dict[str, str]:
    row = write_table(root, "\t")
    lines = [f"{name}\t{x}\t{y}" for name, (x, y) in zip(NAMES, CENTRES, strict=True)]
    (root / "p.csv").write_text("\n".join(["obs_id\tpixel_x\tpixel_y", *lines]))
    return row


@pytest.mark.parametrize("write", [free_h5ad, free_table])
def test_places_without_an_array(tmp_path: Path, write: Callable[[Path], dict[str, str]]) -> None:
    """Cells have ids and pixels only; um per px is then the sheet's, and two may share a rounded place."""
    section = read(tmp_path, {**write(tmp_path), "mpp": "0.5", "pitch_um": "", "spot_diameter_um": ""})
    assert list(section.obs_names) == NAMES
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    np.testing.assert_array_equal(section.obsm["spatial"], CENTRES)
    facts = read_metadata(tmp_path / "out.h5ad")
    assert (facts["mpp"], facts["pitch_um"], facts["spot_diameter_um"], facts["unit"]) == (0.5, 10, 10, "cell")
    # Distances come from the array's numbers times the pitch: right to a step, whatever um per px is.
    um = section.obs[["array_col", "array_row"]].to_numpy() * facts["pitch_um"]
    assert (np.abs(um - CENTRES * facts["mpp"]) <= facts["pitch_um"]).all()


def test_free_places_say_nothing_of_um_per_px(tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("mpp-unknown")):
        read(tmp_path, free_h5ad(tmp_path))


def test_one_array_column_alone_is_a_mistake(tmp_path: Path) -> None:
    row = free_table(tmp_path)
    (tmp_path / "p.csv").write_text("obs_id\tarray_row\tpixel_x\tpixel_y\n0x0\t1\t2\t3\n")
    with pytest.raises(InputError, check=has_code("positions-columns")):
        read(tmp_path, row)


def change_lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().split("\n"))))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("c.tsv", lambda lines: ["# exported on a Monday", "# by hand", *lines]),
        ("c.tsv", lambda lines: [f"{line}\t" for line in lines]),
        ("p.csv", lambda lines: [f"#{lines[0]}", *lines[1:]]),
        ("p.csv", lambda lines: ["# exported on a Monday", *lines]),
        ("p.csv", lambda lines: [f"#{lines[0]}", *lines]),
    ],
    ids=["comments above counts", "a delimiter too many", "a header with #", "a comment", "a header twice"],
)
def test_comments_and_empty_columns_change_nothing(tmp_path: Path, name: str, change: Callable) -> None:
    row = write_table(tmp_path, "\t" if name == "c.tsv" else ",")
    change_lines(tmp_path / name, change)
    section = read(tmp_path, row)
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    np.testing.assert_array_equal(section.obsm["spatial"], CENTRES)


@pytest.mark.parametrize(
    ("name", "change", "code", "remedy"),
    [
        ("barcodes.tsv", lambda lines: ["barcode", *lines], "mtx-shape", "barcodes.tsv"),
        ("features.tsv", lambda lines: ["id\tname", *lines], "mtx-shape", "features.tsv"),
        ("matrix.mtx", lambda lines: [lines[0].replace("integer", "pattern"), *lines[1:]], "mtx-pattern", ""),
    ],
)
def test_a_matrix_folder_with_one_fault_is_told_which(
    tmp_path: Path, name: str, change: Callable, code: str, remedy: str
) -> None:
    row = write_mtx(tmp_path, "features", False)
    change_lines(tmp_path / "m" / name, change)
    with pytest.raises(InputError, check=has_code(code), match=f"Remedy: .*{remedy}"):
        read(tmp_path, row)


def test_counts_of_half_precision_and_counts_in_a_layer_alone(tmp_path: Path) -> None:
    def half(data: ad.AnnData) -> None:
        data.X = data.X.toarray().astype(np.float16)

    def without(data: ad.AnnData) -> None:
        data.layers["raw_counts"], data.X = data.X.copy(), None

    np.testing.assert_array_equal(read(tmp_path, write_h5ad(tmp_path, half)).X.toarray(), COUNTS)
    with pytest.raises(InputError, check=has_code("counts-no-x"), match=r"Remedy: .*raw_counts"):
        read(tmp_path, write_h5ad(tmp_path, without))


def test_several_sections_in_a_file(tmp_path: Path) -> None:
    def twice(data: ad.AnnData) -> None:
        data.obs["library_id"] = np.where(np.arange(36) < 18, "A1", "B1")

    row = write_h5ad(tmp_path, twice)
    with pytest.raises(InputError, check=has_code("several-sections")):
        read(tmp_path, row)
    with pytest.raises(InputError, check=has_code("library-unknown")):
        read(tmp_path, {**row, "library_id": "C1"})
    assert list(read(tmp_path, {**row, "library_id": "B1"}).obs_names) == NAMES[18:]


def test_repeated_array_positions(tmp_path: Path) -> None:
    def again(data: ad.AnnData) -> None:
        data.obs["array_row"] = data.obs["array_row"] % 3
        data.obsm["spatial"][:, 1] = 50 + 40 * (ROWS % 3) + 3 * (ROWS // 3)

    with pytest.raises(InputError, check=has_code("array-position-twice")):
        read(tmp_path, write_h5ad(tmp_path, again))


def test_probes_in_place_of_genes_are_refused(tmp_path: Path) -> None:
    write_10x(tmp_path, [f"ENSG{i:011d}|G{i}|{i:07x}" for i in range(12)])
    with pytest.raises(InputError, check=has_code("tenx-probes")):
        read_counts(tmp_path / "c.h5")


@pytest.mark.parametrize("name", ["c.h5ad", "c.h5", "c.tsv"])
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    write_h5ad(tmp_path), write_10x(tmp_path), write_table(tmp_path, "\t")
    raw = (tmp_path / name).read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    (tmp_path / name).write_bytes({"cut": raw[: len(raw) * 2 // 5 + 1], "noise": noise, "empty": b""}[damage])
    with pytest.raises(InputError) as error:
        read_counts(tmp_path / name)
    assert name in error.value.where


@pytest.mark.parametrize(("name", "value"), [("indices", 5000), ("indices", -3), ("indptr", 9)])
def test_places_of_counts_beyond_the_matrix_are_refused(tmp_path: Path, name: str, value: int) -> None:
    """scipy reads beyond its arrays with them: the process ends, or other values come out."""
    write_h5ad(tmp_path)
    with h5py.File(tmp_path / "c.h5ad", "r+") as handle:
        handle["X"][name][7] = value
    with pytest.raises(InputError, check=has_code("counts-unreadable")):
        read_counts(tmp_path / "c.h5ad")


def pixels_of(path: Path) -> tuple[np.ndarray, float | None]:
    with open_slide(path) as image:
        return image.read(0, 0, image.width, image.height).copy(), image.mpp


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "rgb"},
        {"photometric": "rgb", "compression": "jpeg2000", "tile": (64, 64), "compressionargs": {"reversible": True}},
        {"photometric": "rgb", "compression": "zstd", "tile": (64, 64)},
        {"photometric": "rgb", "planarconfig": "separate"},
        {"imagej": True, "metadata": {"axes": "CYX", "mode": "composite"}},
    ],
    ids=["plain", "jpeg 2000", "zstd", "separate planes", "composite"],
)
def test_every_tiff_shows_the_same_picture(tmp_path: Path, options: dict) -> None:
    planes = options.get("imagej") or options.get("planarconfig")
    pixels = slide()
    tifffile.imwrite(
        tmp_path / "s.tif", np.ascontiguousarray(pixels.transpose(2, 0, 1)) if planes else pixels, **options
    )
    np.testing.assert_array_equal(pixels_of(tmp_path / "s.tif")[0], pixels)


def test_pixels_of_a_tiff_are_those_stored_and_of_its_largest_picture(tmp_path: Path) -> None:
    turned = tmp_path / "turned.tif"
    tifffile.imwrite(turned, slide(), extratags=[(274, "H", 1, 6, True)])
    with open_slide(turned) as opened:
        np.testing.assert_array_equal(opened.read(0, 0, opened.width, opened.height), slide())
    small_first = tmp_path / "small.tif"
    tifffile.imwrite(small_first, slide()[::2, ::2])
    tifffile.imwrite(small_first, slide(), append=True)
    with pytest.raises(InputError, check=has_code("tiff-larger-page")):
        open_slide(small_first)
    large_first = tmp_path / "large.tif"
    tifffile.imwrite(large_first, slide())
    tifffile.imwrite(large_first, slide()[::2, ::2], append=True)
    with open_slide(large_first) as opened:
        assert (opened.width, opened.height) == (330, 320)


@pytest.mark.parametrize("content", ["version https://git-lfs.github.com/spec/v1\nsize 3\n", "<!DOCTYPE html><html>"])
@pytest.mark.parametrize("name", ["c.h5ad", "s.png"])
def test_what_a_server_or_git_put_in_the_place_of_a_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    row = write_h5ad(tmp_path)
    Image.fromarray(slide()).save(tmp_path / "s.png")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, check=has_code("file-page"), match=name):
        read(tmp_path, row)


@pytest.mark.parametrize(("unit", "mpp"), [("µm", 0.5), ("μm", 0.5), ("um", 0.5), ("nm", None), ("pixel", None)])
def test_units_of_length(tmp_path: Path, unit: str, mpp: float | None) -> None:
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": unit, "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "s.ome.tif", slide(), photometric="rgb", metadata={"axes": "YXS", **sizes})
    assert pixels_of(tmp_path / "s.ome.tif")[1] == mpp


def test_spots_off_the_tissue_stop(tmp_path: Path) -> None:
    pixels = np.full((320, 330, 3), 240, np.uint8)
    pixels[280:315, 285:325] = (180, 90, 160)
    Image.fromarray(pixels).save(tmp_path / "s.png")
    with pytest.raises(InputError, check=has_code("spots-off-tissue")):
        read(tmp_path, write_h5ad(tmp_path))


def test_a_missing_file_is_named_with_sheet_row_and_column(tmp_path: Path) -> None:
    from histoloom.config import load_config
    from histoloom.plan import Plan

    (tmp_path / "sheet.tsv").write_text(
        "sample\tpatient\tcounts\timage\nS1\tP\tnone.h5ad\ts.png\nS2\tP\ta{1}.h5ad\ts.png\n"
    )
    raw = {"cohorts": {"mine": {"source": "files", "sheet": "sheet.tsv"}}, "experiments": {}}
    (tmp_path / "c.yaml").write_text("")
    plan = Plan(load_config(raw, [tmp_path / "c.yaml"]))
    with pytest.raises(InputError, check=has_code("user-file-missing")) as error:
        plan.sections.raw_files("mine", "S1")
    assert "sheet.tsv: row of sample 'S1', column 'counts'" in error.value.where
    with pytest.raises(InputError, check=has_code("path-braces")):
        plan.sections.files("mine", "S2")
