"""Building references: readers, choice of cells and genes, signatures."""

from __future__ import annotations

import gzip
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.io import mmwrite
from scipy.sparse import csc_matrix, csr_matrix

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.references import build_reference
from histoloom.references.build import choose_cells, equal_shares
from histoloom.references.readers import passes_gene_filter
from histoloom.references.signatures import depth_factors
from histoloom.schemas import load_schema
from label_inputs import TYPES, metadata, reference_spec, signatures

KEEP_ALL = {"cell_count_cutoff": 1, "cell_percentage_cutoff2": 0.001, "nonz_mean_cutoff": 0.1}
SPEC = {"source": "h5ad", "path": "x"}


def _cells(n: int = 240, seed: int = 0, depth: dict[str, float] | None = None) -> ad.AnnData:
    """Cells of four types from three donors; TYPES in turn."""
    rng = np.random.default_rng(seed)
    table = signatures()
    types = np.array([TYPES[i % 4] for i in range(n)])
    donors = np.array([("d1", "d2", "d3")[(i // 4) % 3] for i in range(n)])
    factor = np.array([(depth or {}).get(d, 1.0) for d in donors])
    counts = rng.poisson(table[types].to_numpy().T * factor[:, None])
    obs = pd.DataFrame({"cell_type": types, "donor": donors, "assay": "10x"}, index=[f"c{i}" for i in range(n)])
    return ad.AnnData(csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=table.index))


def _build(data: ad.AnnData | Path, tmp: Path, name: str = "out", seed: int = 0, **spec: Any) -> Path:
    path = data if isinstance(data, Path) else tmp / f"{name}_in.h5ad"
    if not isinstance(data, Path):
        data.write_h5ad(path)
    out = tmp / f"{name}.h5ad"
    build_reference(
        spec=reference_spec({**SPEC, "gene_filter": KEEP_ALL, **spec}), files={"h5ad": [path]}, out=out, seed=seed, threads=1,
        scratch=tmp / "scratch",
    )  # fmt: skip
    return out


def test_signatures_are_the_means_of_the_simulation(tmp_path: Path) -> None:
    path = _build(_cells(2400), tmp_path, max_cells_per_type=600)
    out = ad.read_h5ad(path)
    found, real = out.varm["signatures"], signatures().loc[out.var_names]
    assert list(found.columns) == sorted(TYPES)
    np.testing.assert_allclose(found, real[sorted(TYPES)], rtol=0.25, atol=0.2)
    assert out.X.dtype == np.int32
    assert isinstance(out.X, csr_matrix)
    assert metadata(path)["n_cells"] == dict.fromkeys(sorted(TYPES), 600)


def test_one_batch_gives_plain_means(tmp_path: Path) -> None:
    data = _cells()
    out = ad.read_h5ad(_build(data, tmp_path, donor_key=None))
    frame = pd.DataFrame(data.X.toarray(), columns=data.var_names).groupby(data.obs["cell_type"].to_numpy()).mean()
    np.testing.assert_allclose(out.varm["signatures"].T, frame[out.var_names])


def test_a_deep_donor_with_one_type_does_not_inflate_it(tmp_path: Path) -> None:
    data = _cells(2400, depth={"d1": 6.0})
    # d1 holds hardly anything but tumour; plain means would make tumour look rich in RNA.
    keep = (data.obs["donor"] != "d1") | (data.obs["cell_type"] == "Tumour") | (np.arange(2400) % 24 < 4)
    out = ad.read_h5ad(_build(data[keep].copy(), tmp_path, max_cells_per_type=1000))
    found = out.varm["signatures"].sum()
    real = signatures().sum()
    for kind in TYPES:
        assert found[kind] / found["Stroma"] == pytest.approx(real[kind] / real["Stroma"], rel=0.08)


def test_depth_factors_of_donors_that_share_no_type_are_left_alone() -> None:
    types, batches = np.repeat([0, 1], 50), np.repeat([0, 1], 50)
    assert depth_factors(np.repeat([10.0, 90.0], 50), types, batches) == pytest.approx([1.0, 1.0])


def test_cells_are_chosen_evenly_over_donors_and_by_seed() -> None:
    types = pd.Series(["a"] * 1000 + ["b"] * 300 + [""] * 5)
    donors = pd.Series(["x"] * 900 + ["y"] * 90 + ["z"] * 10 + ["x"] * 305)
    rows = choose_cells(types, donors, 200, seed=1)
    assert (np.diff(rows) > 0).all()
    counts = donors[rows][types[rows] == "a"].value_counts()
    assert counts.to_dict() == {"x": 100, "y": 90, "z": 10}
    assert (types[rows] == "b").sum() == 200
    assert (types[rows] != "").all()
    again, other = choose_cells(types, donors, 200, seed=1), choose_cells(types, donors, 200, seed=2)
    assert np.array_equal(rows, again)
    assert not np.array_equal(rows, other)
    alone = choose_cells(types.where(types == "b", ""), donors, 200, seed=1)
    assert np.array_equal(alone, rows[rows >= 1000])  # dropping a type does not move the others' cells


@pytest.mark.parametrize(("available", "total"), [([3, 0, 9], 7), ([5, 5, 5], 7), ([1, 1], 9), ([100, 2, 2], 50)])
def test_shares_are_as_equal_as_they_can_be(available: list[int], total: int) -> None:
    shares = equal_shares(np.array(available), total)
    assert shares.sum() == min(total, sum(available))
    assert (shares <= available).all()
    rest = shares[shares < available]
    assert rest.size == 0 or rest.max() - rest.min() <= 1
    assert rest.size == 0 or shares.max() <= rest.max()


def test_gene_filter_is_cell2locations(monkeypatch: pytest.MonkeyPatch) -> None:
    # Loaded by its path: the package's own import takes seconds and its filter needs none of it.
    package = find_spec("cell2location")
    assert package is not None
    assert package.origin is not None
    source = spec_from_file_location("theirs", Path(package.origin).parent / "utils" / "filtering.py")
    assert source is not None
    assert source.loader is not None
    filtering = module_from_spec(source)
    source.loader.exec_module(filtering)
    monkeypatch.setattr(filtering.plt, "show", lambda: None)
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.15, 1.5, size=2000), size=(400, 2000))
    counts = counts[:, counts.sum(axis=0) > 0]
    data = ad.AnnData(
        csr_matrix(counts.astype(float)), var=pd.DataFrame(index=[f"g{i}" for i in range(counts.shape[1])])
    )
    for cutoffs in ((15, 0.05, 1.12), (5, 0.03, 1.12), (3, 0.2, 1.5)):
        names = dict(zip(("cell_count_cutoff", "cell_percentage_cutoff2", "nonz_mean_cutoff"), cutoffs, strict=True))
        theirs = set(filtering.filter_genes(data.copy(), **names))
        ours = passes_gene_filter((counts > 0).sum(axis=0), counts.sum(axis=0), len(counts), **names)
        assert set(data.var_names[ours]) == theirs
        assert 0 < len(theirs) < counts.shape[1]
    filtering.plt.close("all")


@pytest.mark.parametrize("place", ["X", "raw", "layer", "csc", "dense", "half precision"])
def test_raw_counts_are_found_wherever_they_lie(tmp_path: Path, place: str) -> None:
    data = _cells()
    expected = ad.read_h5ad(_build(data.copy(), tmp_path, "plain"))
    moved = data.copy()
    if place == "raw":
        moved.raw = data
        moved.X = csr_matrix(np.log1p(data.X.toarray()))
        moved = moved[:, :50].copy()  # raw may have more genes than X
    elif place == "layer":
        moved.layers["counts"] = data.X.copy()
        moved.X = csr_matrix(np.log1p(data.X.toarray()))
    elif place == "csc":
        moved.X = csc_matrix(data.X)
    elif place == "dense":
        moved.X = data.X.toarray()
    elif place == "half precision":
        moved.X = data.X.toarray().astype(np.float16)
    path = _build(moved, tmp_path, place)
    found = ad.read_h5ad(path)
    assert (found.X != expected.X).nnz == 0
    assert list(found.var_names) == list(expected.var_names)
    where = {"raw": "raw/X", "layer": "layers/counts"}.get(place, "X")
    assert metadata(path)["cells"]["read"]["counts_from"] == where


def test_normalised_counts_are_refused(tmp_path: Path) -> None:
    data = _cells()
    data.X = csr_matrix(np.log1p(data.X.toarray()))
    with pytest.raises(InputError, check=has_code("reference-no-raw")):
        _build(data, tmp_path)
    for value in (-1.0, np.nan):
        data = _cells()
        data.X.data[3] = value
        with pytest.raises(InputError, check=has_code("reference-no-raw")):
            _build(data, tmp_path)
    # A fraction far down the file, where the first look does not reach.
    data = _cells(2400)
    data.X.data[-1] = 1.5
    with pytest.raises(InputError, check=has_code("reference-not-raw")):
        _build(data, tmp_path, max_cells_per_type=10_000)
    assert not (tmp_path / "out.h5ad").exists()


def test_types_with_too_few_cells_are_named(tmp_path: Path) -> None:
    data = _cells()
    data.obs["cell_type"] = data.obs["cell_type"].astype(str)
    data.obs.iloc[0, 0] = "Schwann"
    with pytest.raises(InputError, check=has_code("reference-few-cells"), match=r"'Schwann' has 1"):
        _build(data, tmp_path)
    out = ad.read_h5ad(_build(data, tmp_path, drop=["Schwann"]))
    assert sorted(set(out.obs["cell_type"])) == sorted(TYPES)
    path = _build(data, tmp_path, merge={"Stroma-like": ["Schwann", "Stroma"]})
    assert metadata(path)["n_cells"]["Stroma-like"] == 61
    assert metadata(path)["types"] == ["Adipocytes", "B cells", "Stroma-like", "Tumour"]


def test_wrong_names_in_the_entry_list_what_exists(tmp_path: Path) -> None:
    data = _cells()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"drop": ["Tumor"]}, "reference-type-unknown"),
        ({"merge": {"x": ["Nerve"]}}, "reference-type-unknown"),
        ({"cell_type_key": "label"}, "reference-column"),
        ({"gene_key": "feature_name"}, "reference-column"),
        ({"counts": "umi"}, "reference-counts"),
        ({"drop": TYPES[:3]}, "reference-one-type"),
        ({"merge": {"a/b": ["Tumour"]}}, "reference-type-name"),
        ({"gene_filter": {**KEEP_ALL, "cell_percentage_cutoff2": 1, "cell_count_cutoff": 1e6}}, "reference-no-genes"),
    ]
    for spec, code in cases:
        with pytest.raises(InputError, check=has_code(code)):
            _build(data.copy(), tmp_path, **spec)
    (tmp_path / "broken.h5ad").write_bytes(b"no h5ad")
    for name, code in (("broken.h5ad", "reference-unreadable"), ("none.h5ad", "reference-missing")):
        with pytest.raises(InputError, check=has_code(code)):
            _build(tmp_path / name, tmp_path)


def test_gene_names_duplicates_and_mitochondria(tmp_path: Path) -> None:
    data = _cells()
    names = list(data.var_names)
    names[:4] = ["MT-ND1", "mt-Co1", "TWICE", "TWICE"]
    data.var["feature_name"] = names
    data.var_names = [f"ENSG{i:011d}" for i in range(120)]
    path = _build(data.copy(), tmp_path, gene_key="feature_name")
    out, facts = ad.read_h5ad(path), metadata(path)["gene_filter"]
    assert list(out.var_names) == names[4:]
    assert (facts["duplicate_names"], facts["mitochondrial"]) == (1, 2)
    out = ad.read_h5ad(_build(data.copy(), tmp_path, gene_key="feature_name", duplicate_genes="sum"))
    assert list(out.var_names) == ["TWICE", *names[4:]]
    assert out[:, "TWICE"].X.sum() == data.X[:, 2:4].sum()


def test_same_input_same_bytes_and_identity_follows_the_input(tmp_path: Path) -> None:
    one = _build(_cells(), tmp_path, "one")
    two = _build(tmp_path / "one_in.h5ad", tmp_path, "two")
    assert one.read_bytes() == two.read_bytes()
    three = _build(_cells(seed=1), tmp_path, "three")
    assert metadata(one)["identity"]["sha256"] != metadata(three)["identity"]["sha256"]


def _mtx(folder: Path, counts: np.ndarray, barcodes: list[str], features: list[str], *, legacy: bool = False) -> None:
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", csr_matrix(counts.T.astype(int)), field="integer")
    names = {"genes.tsv" if legacy else "features.tsv": features, "barcodes.tsv": barcodes}
    for name, lines in names.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    if not legacy:
        for name in ("matrix.mtx", "features.tsv", "barcodes.tsv"):
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()


def test_matrix_folders_of_every_layout_are_joined(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, size=(3, 40, 6))
    genes = [f"G{i}" for i in range(6)]
    _mtx(tmp_path / "one", counts[0], [f"a{i}" for i in range(40)], genes)
    _mtx(
        tmp_path / "two",
        counts[1],
        [f"b{i}" for i in range(40)],
        [f"E{i}\t{g}" for i, g in enumerate(genes)],
        legacy=True,
    )
    kinds = ["Gene Expression"] * 5 + ["Antibody Capture"]
    order = [4, 3, 2, 1, 0, 5]
    _mtx(
        tmp_path / "three", counts[2][:, order], [f"c{i}" for i in range(40)],
        [f"E{i}\t{genes[i]}\t{k}" for i, k in zip(order, kinds, strict=True)],
    )  # fmt: skip
    for name, letter in (("one", "a"), ("two", "b"), ("three", "c")):
        lines = ["barcode\tkind", *(f"{letter}{i}\t{'x' if i % 2 else 'y'}" for i in range(1, 40)), "other\tx"]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    names = ("one", "two", "three")
    spec = {
        "source": "mtx", "cell_id_key": "barcode", "cell_type_key": "kind", "gene_filter": KEEP_ALL,
        "samples": [{"folder": n, "annotation": n, "donor": "D" if n == "one" else None} for n in names],
    }  # fmt: skip
    files = {"folders": [tmp_path / n for n in names], "annotations": [tmp_path / f"{n}.tsv" for n in names]}
    build_reference(
        spec=reference_spec(spec), files=files, out=tmp_path / "r.h5ad", seed=0, threads=1, scratch=tmp_path
    )
    out = ad.read_h5ad(tmp_path / "r.h5ad")
    assert list(out.var_names) == genes[:5]
    assert out.n_obs == 3 * 39
    assert list(dict.fromkeys(out.obs["donor"])) == ["D", "two", "three"]
    np.testing.assert_array_equal(out.X.toarray(), np.concatenate(counts[:, 1:, :5]))
    with pytest.raises(InputError, check=has_code("reference-column"), match=r"cell_id_key.*barcode, kind"):
        build_reference(
            spec=reference_spec({**spec, "cell_id_key": "cell_id"}),
            files=files,
            out=tmp_path / "x.h5ad",
            seed=0,
            threads=1,
            scratch=tmp_path,
        )
    with pytest.raises(InputError, check=has_code("reference-cells")):
        build_reference(
            spec=reference_spec({**spec, "cell_id_key": "kind", "cell_type_key": "barcode"}),
            files={**files, "annotations": [_unique(tmp_path)] * 3}, out=tmp_path / "x.h5ad", seed=0, threads=1,
            scratch=tmp_path,
        )  # fmt: skip
    (tmp_path / "two" / "barcodes.tsv").unlink()
    with pytest.raises(InputError, check=has_code("mtx-file-missing")):
        build_reference(
            spec=reference_spec(spec), files=files, out=tmp_path / "x.h5ad", seed=0, threads=1, scratch=tmp_path
        )


def _unique(tmp: Path) -> Path:
    path = tmp / "unique.tsv"
    path.write_text("barcode\tkind\nt\ty\n")
    return path


@pytest.mark.slow
def test_regression_signatures_follow_the_true_ones(tmp_path: Path) -> None:
    data = _cells(360)
    data.obs["assay"] = ["a" if i % 8 < 4 else "b" for i in range(360)]
    fit = {"method": "regression", "max_epochs": 60, "lr": 0.02, "batch_size": 360, "posterior_samples": 20}
    path = _build(data, tmp_path, signatures=fit)
    found = ad.read_h5ad(path).varm["signatures"]
    facts = metadata(path)["signatures"]
    assert facts["covariates"] == ["assay"]
    assert facts["epochs"] == 60
    assert metadata(path)["identity"]["params"]["threads"] == 1
    real = signatures().loc[found.index]
    cross = np.corrcoef(np.log1p(found.to_numpy().T), np.log1p(real[found.columns].to_numpy().T))[:4, 4:]
    assert (cross.argmax(axis=0) == np.arange(4)).all()
    assert np.diag(cross).min() > 0.9


def test_all_kinds_of_reference_share_the_common_keys() -> None:
    kinds = {name: load_schema(f"reference.{name}")["properties"] for name in ("h5ad", "mtx", "simulated")}
    common = set(kinds["simulated"]) - {"source", "cohort"}
    assert {"max_cells_per_type", "gene_filter", "signatures"} <= common
    for key in common:
        assert kinds["h5ad"][key] == kinds["mtx"][key] == kinds["simulated"][key], key
