"""Sections and a reference of other vintages meet under Ensembl ids; what is lost is counted and named."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.labels import gather_labels
from histoloom.metrics.protocol import short
from label_inputs import (
    label_spec,
    metadata,
    run_labels,
    signatures,
    true_cells,
    write_gene_table,
    write_reference,
    write_section,
)

SPEC = {"method": "nnls", "reference": "r"}
TABLE = signatures()
OLD = list(TABLE.index)  # GENE0 ...: previous symbols in the table of genes
IDS = [f"ENSG{i:011d}" for i in range(len(OLD))]


def counts(seed: int = 5, spots: int = 24) -> np.ndarray:
    cells = true_cells(spots, TABLE.shape[1], seed)
    return np.random.default_rng(seed).poisson(cells @ TABLE.to_numpy().T)


def label(tmp: Path, section: Path, reference: Path, genes: Path | None, name: str) -> ad.AnnData:
    return ad.read_h5ad(run_labels(SPEC, [section], tmp, reference=reference, genes=genes, group=name))


@pytest.mark.parametrize(
    ("section_names", "reference_names"),
    [
        (OLD, [f"{gene}.{7 + i % 3}" for i, gene in enumerate(IDS)]),
        (IDS, [f"NEW{i}" for i in range(120)]),
        ([*OLD[:60], *(f"NEW{i}" for i in range(60, 120))], OLD),
    ],
    ids=["old symbols, ids with versions", "ids, new symbols", "mixed vintages, old symbols"],
)
def test_other_names_give_the_labels_of_equal_names(
    tmp_path: Path, section_names: list[str], reference_names: list[str]
) -> None:
    table = write_gene_table(tmp_path / "hgnc.tsv", OLD)
    seen = counts()
    alike = label(
        tmp_path, write_section(tmp_path / "s.h5ad", seen, OLD), write_reference(tmp_path / "r.h5ad", TABLE), None, "a"
    )
    # columns in another order, too: genes are joined by key, not by place
    order = np.random.default_rng(1).permutation(120)
    section = write_section(tmp_path / "s2.h5ad", seen[:, order], [section_names[i] for i in order])
    reference = write_reference(tmp_path / "r2.h5ad", TABLE.set_axis(reference_names, axis=0))
    other = label(tmp_path, section, reference, table, "b")
    np.testing.assert_allclose(other.X, alike.X, atol=1e-9)
    facts = metadata(tmp_path / "b.0.h5ad")["qc"]["genes"]
    assert (facts["matched_by"], facts["gene_table"], facts["used"]) == ("ensembl", "hgnc.tsv", 120)
    assert facts["reference"]["mapped"] == facts["sections"]["S1"]["mapped"] == 120
    assert not any(facts["lost_markers"].values())
    if by_name := len(set(section_names) & set(reference_names)):
        label(tmp_path, section, reference, None, "c")
        assert metadata(tmp_path / "c.0.h5ad")["qc"]["genes"]["used"] == by_name == 60
    else:
        with pytest.raises(InputError, check=has_code("labels-genes-shared"), match=r"\{match: ensembl\}"):
            label(tmp_path, section, reference, None, "c")


def test_what_is_lost_is_counted_and_markers_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    strongest = (TABLE["Stroma"] - TABLE.drop(columns="Stroma").max(axis=1)).sort_values(ascending=False).index[:4]
    many, absent, parent, twice = strongest
    place = {name: OLD.index(name) for name in strongest}
    # one previous symbol of two genes; a name that nobody knows; a PAR copy of an id; two names of one gene
    table = write_gene_table(
        tmp_path / "hgnc.tsv", OLD,
        [f"HGNC:900\tRIVAL\tshares a previous symbol\tENSG00000009000\t{many}\t",
         "HGNC:901\tNOID\tno id\t\t\t"],
    )  # fmt: skip
    names = [{absent: "nobody", parent: f"{IDS[place[parent]]}.4_PAR_Y"}.get(name, name) for name in OLD]
    seen = counts()
    section = write_section(
        tmp_path / "s.h5ad",
        np.hstack([seen, seen[:, [place[twice]]], seen[:, :1]]),
        [*OLD, f"NEW{place[twice]}", "NOID"],
    )
    reference = write_reference(tmp_path / "r.h5ad", TABLE.set_axis(names, axis=0))
    with caplog.at_level(logging.INFO):
        run_labels(SPEC, [section], tmp_path, reference=reference, genes=table)
    facts = metadata(tmp_path / "g.0.h5ad")["qc"]["genes"]
    # the section's second name of a gene loses to the symbol, which keeps the gene
    assert {k: facts["sections"]["S1"][k] for k in ("mapped", "ambiguous", "collided", "without_id", "missing")} == {
        "mapped": 119, "ambiguous": 1, "collided": 1, "without_id": 1, "missing": 0,
    }  # fmt: skip
    assert {k: facts["reference"][k] for k in ("mapped", "ambiguous", "missing")} == {
        "mapped": 117, "ambiguous": 1, "missing": 2,
    }  # fmt: skip
    assert facts["used"] == 117
    lost = {many, "nobody", f"{IDS[place[parent]]}.4_PAR_Y"}
    assert set(facts["lost_markers"]["Stroma"]) == lost
    assert all(name in caplog.text for name in lost)
    assert "ambiguous 1" in caplog.text
    # what is left stands in its own column: the labels are those of the other genes alone, under equal names
    rest = [i for i, name in enumerate(OLD) if name not in {many, absent, parent}]
    alone = write_section(tmp_path / "s2.h5ad", seen[:, rest], [OLD[i] for i in rest])
    wanted = label(tmp_path, alone, write_reference(tmp_path / "r2.h5ad", TABLE.iloc[rest]), None, "w")
    np.testing.assert_allclose(ad.read_h5ad(tmp_path / "g.0.h5ad").X, wanted.X, atol=1e-9)


def test_ids_that_a_source_publishes_win_over_its_names(tmp_path: Path) -> None:
    table = write_gene_table(tmp_path / "hgnc.tsv", OLD)
    path = write_section(tmp_path / "s.h5ad", counts(), [f"probe{i}" for i in range(120)])
    section = ad.read_h5ad(path)
    section.var["ensembl_id"] = [*IDS[:100], *[""] * 20]
    section.write_h5ad(path)
    run_labels(SPEC, [path], tmp_path, reference=write_reference(tmp_path / "r.h5ad", TABLE), genes=table)
    facts = metadata(tmp_path / "g.0.h5ad")["qc"]["genes"]
    assert (facts["used"], facts["sections"]["S1"]["by_id"], facts["sections"]["S1"]["missing"]) == (100, 100, 20)


def test_mitochondrial_genes_go_whatever_either_side_calls_them(tmp_path: Path) -> None:
    # the ribosomal one is on no list of protein-coding ids: only the table knows it by its id
    table = write_gene_table(
        tmp_path / "hgnc.tsv", OLD[:118],
        ["HGNC:7470\tMT-RNR1\tmitochondrially encoded 12S rRNA\tENSG00000211459\tMTRNR1\t",
         "HGNC:7455\tMT-ND1\tmitochondrially encoded ND1\tENSG00000198888\tMTND1\tND1"],
    )  # fmt: skip
    section = write_section(tmp_path / "s.h5ad", counts(), [*OLD[:118], "MTRNR1", "ND1"])
    names = [*IDS[:118], "ENSG00000211459", "ENSG00000198888"]
    reference = write_reference(tmp_path / "r.h5ad", TABLE.set_axis(names, axis=0))
    run_labels(SPEC, [section], tmp_path, reference=reference, genes=table)
    assert metadata(tmp_path / "g.0.h5ad")["qc"]["genes"]["used"] == 118
    run_labels({**SPEC, "drop_mitochondrial": False}, [section], tmp_path, reference=reference, genes=table)
    assert metadata(tmp_path / "g.0.h5ad")["qc"]["genes"]["used"] == 120


def test_the_identity_follows_the_table_and_the_stamp_says_how_genes_met(tmp_path: Path) -> None:
    tables = [None, write_gene_table(tmp_path / "a.tsv", OLD), write_gene_table(tmp_path / "b.tsv", [*OLD, "ONE_MORE"])]
    section = write_section(tmp_path / "s.h5ad", counts(), OLD)
    reference = write_reference(tmp_path / "r.h5ad", TABLE)
    found, stamps = set(), []
    for number, table in enumerate(tables):
        label(tmp_path, section, reference, table, f"g{number}")
        out = tmp_path / f"all{number}.h5ad"
        gather_labels(spec=label_spec(SPEC), cohort="c", groups=[tmp_path / f"g{number}.0.h5ad"], out=out)
        found.add(metadata(out)["identity"]["sha256"])
        stamps.append(metadata(out)["genes_matched_by"])
    assert len(found) == 3
    assert stamps == [["name"], ["ensembl"], ["ensembl"]]
    assert "genes matched by name" in short({"genes_matched_by": "name"})
    assert "by name" not in short({"genes_matched_by": "ensembl"}) + short({"genes_matched_by": None})


def test_names_of_another_species_are_told(tmp_path: Path) -> None:
    table = write_gene_table(tmp_path / "hgnc.tsv", OLD)
    section = write_section(tmp_path / "s.h5ad", counts(), [f"Gene{i}" for i in range(120)])
    with pytest.raises(
        InputError,
        check=has_code("labels-genes-shared"),
        match=r"Gene0, .*hgnc\.tsv.* 0 .* 120.*\{match: name\}",
    ):
        run_labels(SPEC, [section], tmp_path, reference=write_reference(tmp_path / "r.h5ad", TABLE), genes=table)


@pytest.mark.real
def test_her2st_is_of_an_old_vintage(real_data: Path) -> None:
    """CTGF, CYR61 and H2AFZ are there, CCN2, CCN1 and H2AZ1 are not; the table lets them meet."""
    from histoloom.genes import GeneMatcher

    with gzip.open(real_data / "her2st/data/ST-cnts/B4.tsv.gz", "rt") as handle:
        names = handle.readline().rstrip("\n").split("\t")[1:]
    old, new = ["CTGF", "CYR61", "H2AFZ"], ["CCN2", "CCN1", "H2AZ1"]
    assert set(old) <= set(names)
    assert not set(new) & set(names)
    matcher = GeneMatcher(Path(__file__).with_name("genes_small.tsv"))
    section, reference = matcher.keys(names, "B4"), matcher.keys(new, "reference")
    assert set(reference.keys) <= set(section.keys)
    found = pd.Series(section.names, index=section.keys)
    assert list(found[reference.keys]) == old


def test_the_stamp_says_what_is_predicted() -> None:
    panel = {"genes": "hvg", "k": 20, "selected_on": "train"}
    target = {"kind": "expression", "size_factor": "total", "target_sum": 10000, "log": "log1p", "panel": panel}
    words = short({"target": target, "labels": None})
    assert "20 variable genes chosen on train, log1p of counts scaled to 10000" in words
    assert "labels" not in words
    assert "all genes, counts;" in short(
        {"target": {**target, "log": "none", "panel": {"genes": "all"}, "size_factor": "none"}}
    )
    assert "cell classes" in short({"target": {"kind": "cell_class"}})
    assert "labels c2l (demo fit); target mean/log1p" in short(
        {
            "labels": "c2l",
            "demo_fit": True,
            "target": {"kind": "abundance", "statistic": "mean", "transform": "log1p"},
            "split": "random",
        }
    )
    joint = short({"labels": "c2l", "joint_fit": True, "content_guard": "off"})
    assert "labels c2l (fitted on all patients together, test ones included)" in joint
    assert "not compared by content" in joint
    assert "reported, not stopped" in short({"content_guard": "report"})
