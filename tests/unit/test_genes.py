"""Gene names to Ensembl ids: every way a name can be found or lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.genes import load_gene_table, to_ensembl

SMALL = Path(__file__).with_name("genes_small.tsv")
TABLE = load_gene_table(SMALL)


@pytest.mark.parametrize(
    ("name", "gene", "reason"),
    [
        ("ERBB2", "ENSG00000141736", "by_symbol"),
        ("ENSG00000141736", "ENSG00000141736", "by_id"),
        ("ENSG00000141736.14", "ENSG00000141736", "by_id"),
        ("ENSG00000999999", "ENSG00000999999", "by_id"),
        # her2st's vintage: CTGF, CYR61 and H2AFZ are today's CCN2, CCN1 and H2AZ1
        ("CTGF", "ENSG00000118523", "by_previous"),
        ("CYR61", "ENSG00000142871", "by_previous"),
        ("H2AFZ", "ENSG00000164032", "by_previous"),
        ("HER2", "ENSG00000141736", "by_alias"),
        ("GIG1", "ENSG00000142871", "by_alias"),
        ("TWIN", None, "ambiguous"),
        ("SHARED", None, "ambiguous"),
        ("NOID", None, "without_id"),
        ("OLDNOID", None, "without_id"),
        ("FO538757.1", None, "missing"),
        ("actb", None, "missing"),
        # ranks: a symbol is never read as somebody's alias, a previous symbol never as one either
        ("ACTB", "ENSG00000075624", "by_symbol"),
        ("FORMER", "ENSG00000900005", "by_previous"),
    ],
)
def test_a_name_alone(name: str, gene: str | None, reason: str) -> None:
    mapped = to_ensembl([name], TABLE)
    assert (mapped.ids, mapped.reasons) == ([gene], [reason])
    assert mapped.counts["mapped"] == int(gene is not None)
    assert mapped.counts[reason] == 1


def test_two_names_of_one_gene() -> None:
    # the symbol beats the previous one; two aliases of equal rank lose both
    mapped = to_ensembl(["CTGF", "CCN2", "NEU", "HER2", "p53"], TABLE)
    assert mapped.ids == [None, "ENSG00000118523", None, None, "ENSG00000141510"]
    assert mapped.reasons == ["collided", "by_symbol", "collided", "collided", "by_alias"]
    assert mapped.kept() == [1, 4]


def test_order_does_not_matter_and_ids_stay_unique() -> None:
    names = ["CTGF", "CCN2", "NEU", "HER2", "TWIN", "ACTB", "X", "ENSG00000075624", "H2AFZ"]
    forward = dict(zip(names, to_ensembl(names, TABLE).ids, strict=True))
    back = dict(zip(names[::-1], to_ensembl(names[::-1], TABLE).ids, strict=True))
    assert forward == back
    found = [gene for gene in forward.values() if gene]
    assert len(found) == len(set(found))
    assert forward["ACTB"] is None  # the id in the same list has the better claim


def test_counts_add_up() -> None:
    names = ["CTGF", "CCN2", "TWIN", "ACTB", "X", "NOID", "HER2", "ENSG00000141510.2"]
    counts = to_ensembl(names, TABLE).counts
    assert counts == {
        "mapped": 4,
        "by_id": 1,
        "by_symbol": 2,
        "by_previous": 0,
        "by_alias": 1,
        "ambiguous": 1,
        "collided": 1,
        "without_id": 1,
        "missing": 1,
    }
    assert sum(v for k, v in counts.items() if k != "mapped") == len(names)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "gene-table-format"),
        ("symbol\tensembl_gene_id\nA\tB\n", "gene-table-columns"),
        ("hgnc_id\tsymbol\tensembl_gene_id\tprev_symbol\talias_symbol\n", "gene-table-columns"),
        ("<html>Not found</html>\n", "gene-table-columns"),
        (
            "hgnc_id\tsymbol\tensembl_gene_id\tprev_symbol\talias_symbol\n1\tA\tE1\t\t\n2\tA\tE2\t\t\n",
            "gene-table-symbol-twice",
        ),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "genes.tsv"
    path.write_text(text)
    with pytest.raises(InputError, check=has_code(code)):
        load_gene_table(path)
    with pytest.raises(InputError, check=has_code("gene-table-missing")):
        load_gene_table(tmp_path / "none.tsv")


def test_two_symbols_may_share_an_id(tmp_path: Path) -> None:
    path = tmp_path / "genes.tsv"
    gene = "ENSG00000230417"
    path.write_text(
        f"hgnc_id\tsymbol\tensembl_gene_id\tprev_symbol\talias_symbol\n1\tA\t{gene}\t\t\n2\tB\t{gene}\t\t\n"
    )
    table = load_gene_table(path)
    assert to_ensembl(["A"], table).ids == [gene]
    assert to_ensembl(["A", "B"], table).reasons == ["collided", "collided"]
