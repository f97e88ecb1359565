"""NNLS, and what all deconvolution methods share: spots, genes, errors."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.references.readers import id_kind, is_mitochondrial
from label_inputs import TYPES, label_spec, metadata, run_labels, signatures, true_cells, write_reference, write_section

SPEC = {"method": "nnls", "reference": "r"}


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_reference(tmp_path / "reference.h5ad", signatures())


@pytest.mark.parametrize("weights", ["poisson", "none"])
def test_noise_free_mixtures_are_recovered_exactly(tmp_path: Path, weights: str) -> None:
    table = np.rint(signatures() * 1000)
    reference = write_reference(tmp_path / "r.h5ad", table)
    cells = true_cells(48, 4, 1)
    # Depth differs by spot: only the shares of cells can be known.
    depth = np.random.default_rng(0).integers(1, 20, size=(48, 1))
    section = write_section(tmp_path / "S1.h5ad", (cells @ table.to_numpy().T) * depth, table.index)
    out = ad.read_h5ad(run_labels({**SPEC, "gene_weights": weights}, [section], tmp_path, reference=reference))
    expected = pd.DataFrame(cells / cells.sum(axis=1, keepdims=True), columns=TYPES)
    assert list(out.var_names) == sorted(TYPES)
    np.testing.assert_allclose(out.X, expected[list(out.var_names)], atol=1e-9)


def test_noisy_counts_give_labels_near_the_truth_on_the_right_type(tmp_path: Path, reference: Path) -> None:
    cells = true_cells(96, 4, 2)
    counts = np.random.default_rng(3).poisson(cells @ signatures().to_numpy().T * 0.1)
    section = write_section(tmp_path / "S1.h5ad", counts, signatures().index)
    out = ad.read_h5ad(run_labels(SPEC, [section], tmp_path, reference=reference))
    shares = pd.DataFrame(cells / cells.sum(axis=1, keepdims=True), columns=TYPES)[list(out.var_names)].to_numpy()
    cross = np.corrcoef(np.asarray(out.X).T, shares.T)[:4, 4:]
    assert (cross.argmax(axis=0) == np.arange(4)).all()
    assert np.diag(cross).min() > 0.8


def test_spots_are_dropped_flagged_and_counted(tmp_path: Path, reference: Path) -> None:
    counts = np.full((10, 120), 2)
    counts[0] = 0
    counts[1] = 0
    counts[1, 5] = 7
    inside = np.ones(10, dtype=bool)
    inside[2] = False
    counts[3] = 0
    counts = np.c_[counts, np.zeros(10, dtype=int)]
    counts[3, 120] = 9  # counts on a mitochondrial gene only
    genes = [*signatures().index, "MT-ND1"]
    section = write_section(tmp_path / "S1.h5ad", counts, genes, in_tissue=inside)
    path = run_labels(SPEC, [section], tmp_path, reference=reference)
    out, facts = ad.read_h5ad(path), metadata(path)
    assert facts["dropped"]["S1"] == {
        "outside tissue": 1, "no counts": 1, "no counts on shared genes": 1, "no solution": 0,
    }  # fmt: skip
    assert list(out.obs["obs_id"]) == ["0x1", *(f"{i // 8}x{i % 8}" for i in range(4, 10))]
    assert list(out.obs["flag_low_umi"]) == [True] + [False] * 6
    assert list(out.obs_names) == ["c/S1/" + i for i in out.obs["obs_id"]]
    assert set(out.obs["patient"]) == {"P1"}
    assert facts["units"] == "proportion"
    np.testing.assert_allclose(np.asarray(out.X).sum(axis=1), 1)


def test_genes_are_matched_by_name_not_by_place(tmp_path: Path, reference: Path) -> None:
    counts = np.random.default_rng(0).poisson(true_cells(30, 4, 2) @ signatures().to_numpy().T)
    order = np.random.default_rng(1).permutation(120)
    a = write_section(tmp_path / "a.h5ad", counts, signatures().index)
    b = write_section(tmp_path / "b.h5ad", counts[:, order], signatures().index[order])
    x = ad.read_h5ad(run_labels(SPEC, [a], tmp_path, reference=reference, group="a")).X
    y = ad.read_h5ad(run_labels(SPEC, [b], tmp_path, reference=reference, group="b")).X
    np.testing.assert_allclose(x, y, rtol=1e-12)


def test_same_input_same_bytes(tmp_path: Path, reference: Path) -> None:
    section = write_section(tmp_path / "S1.h5ad", np.full((9, 120), 3), signatures().index)
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files.append(run_labels(SPEC, [section], tmp_path / name, reference=reference).read_bytes())
    assert files[0] == files[1]


def test_max_genes_keeps_the_genes_that_differ_between_types(tmp_path: Path, reference: Path) -> None:
    from histoloom.labels.artefact import LabelTask
    from histoloom.labels.prepare import prepare

    section = write_section(tmp_path / "S1.h5ad", np.full((9, 120), 3), signatures().index)
    spec = label_spec({**SPEC, "max_genes": 60})
    task = LabelTask(spec, "c", "g", 0, [section], tmp_path, reference=reference)
    prepared = prepare(task)
    chosen = prepared.signatures.index
    assert len(chosen) == 60
    every = prepare(LabelTask(label_spec(SPEC), "c", "g", 0, [section], tmp_path, reference=reference))
    assert [p.genes["chosen_by"][:8] for p in (prepared, every)] == ["variance", "all"]
    assert sum(int(g[4:]) < 80 for g in chosen) > 55  # markers are GENE0 .. GENE79
    assert list(chosen) == sorted(chosen, key=lambda g: int(g[4:]))


def test_lost_markers_are_listed(tmp_path: Path, reference: Path) -> None:
    table = signatures()
    strongest = (table["Stroma"] - table.drop(columns="Stroma").max(axis=1)).idxmax()
    genes = table.index.drop(strongest)
    section = write_section(tmp_path / "S1.h5ad", np.full((9, 119), 3), genes)
    facts = metadata(run_labels(SPEC, [section], tmp_path, reference=reference))
    assert facts["qc"]["genes"]["lost_markers"]["Stroma"] == [strongest]
    assert facts["qc"]["genes"]["used"] == 119


def test_ensembl_against_symbols_names_section_reference_and_both_kinds(tmp_path: Path, reference: Path) -> None:
    genes = [f"ENSG{i:011d}" for i in range(120)]
    section = write_section(tmp_path / "S1.h5ad", np.full((9, 120), 3), genes, sample="S1")
    with pytest.raises(InputError) as error:
        run_labels(SPEC, [section], tmp_path, reference=reference)
    text = str(error.value)
    for word in ("'S1'", str(reference), "Ensembl ids", "symbols", "ENSG00000000000", "GENE0", "share 0", "gene_key"):
        assert word in text
    assert not list(tmp_path.glob("g.*"))


def test_sections_that_share_too_few_genes_with_one_another(tmp_path: Path, reference: Path) -> None:
    genes = list(signatures().index)
    a = write_section(tmp_path / "a.h5ad", np.full((9, 60), 3), genes[:60], sample="A")
    b = write_section(tmp_path / "b.h5ad", np.full((9, 60), 3), genes[60:], sample="B")
    with pytest.raises(InputError, check=has_code("labels-genes-common")):
        run_labels(SPEC, [a, b], tmp_path, reference=reference)


def test_a_section_without_counts_is_named(tmp_path: Path, reference: Path) -> None:
    a = write_section(tmp_path / "a.h5ad", np.full((9, 120), 3), signatures().index, sample="A")
    b = write_section(tmp_path / "b.h5ad", np.zeros((9, 120)), signatures().index, sample="B")
    with pytest.raises(InputError, check=has_code("labels-section-empty"), match="section B"):
        run_labels(SPEC, [a, b], tmp_path, reference=reference)


def test_gene_names_say_what_they_are() -> None:
    assert id_kind(["ENSG00000198888", "ENSMUSG00000064341.1"]) == "Ensembl ids"
    assert id_kind(["TP53", "ERBB2"]) == "symbols"
    names = ["MT-ND1", "mt-Nd1", "MTOR", "ENSG00000198888", "ENSG00000198888.2", "ENSG00000141510"]
    assert list(is_mitochondrial(names)) == [True, True, False, True, True, False]


def test_a_types_rna_content_does_not_decide_which_genes_are_used() -> None:
    """A type with fifty times the RNA must not fill the choice with its genes: specificity is of shares of counts."""
    from histoloom.labels.prepare import specificity

    table = signatures()
    unequal = table * [1.0, 50.0, 1.0, 0.2]
    pd.testing.assert_series_equal(specificity(unequal), specificity(table))
    plain = np.log1p(unequal).var(axis=1, ddof=0).rank()
    assert not plain.equals(specificity(unequal).rank())


@pytest.mark.parametrize(
    ("limit", "flags"), [(99, [False, False, False]), (100, [True, False, False]), (101, [True, True, False])]
)
def test_a_spot_with_exactly_the_limit_of_counts_is_not_flagged(
    tmp_path: Path, reference: Path, limit: int, flags: list[bool]
) -> None:
    counts = np.zeros((3, 120), dtype=int)
    counts[:, :99] = 1
    counts[1, 99], counts[2, 99] = 1, 2
    section = write_section(tmp_path / "S1.h5ad", counts, signatures().index)
    out = ad.read_h5ad(run_labels({**SPEC, "low_umi": limit}, [section], tmp_path, reference=reference))
    assert list(out.obs["flag_low_umi"]) == flags
