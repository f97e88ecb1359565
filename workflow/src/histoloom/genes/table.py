"""From gene names of any vintage to Ensembl ids, through a table in the layout of HGNC's complete set.

A name is looked up as an Ensembl id, then as an approved symbol, then as a previous symbol, then as an alias. An
approved symbol always wins: a name that is one gene's symbol and another's alias means the former. What several genes
claim at the same rank is ambiguous and dropped; what no gene claims is missing. What is dropped is counted by reason.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from histoloom.errors import InputError
from histoloom.genes.ensembl import ENSEMBL_GENE

logger = logging.getLogger(__name__)

COLUMNS = ("hgnc_id", "symbol", "ensembl_gene_id", "prev_symbol", "alias_symbol")
_FOUND = ("by_id", "by_symbol", "by_previous", "by_alias")
_LOST = ("ambiguous", "collided", "without_id", "missing")


@dataclass(frozen=True)
class GeneTable:
    """Names and the genes that claim them.

    `symbols`: approved symbol -> Ensembl id, "" where the table states none; `previous`, `aliases`: name -> Ensembl ids
    (or "") of all genes that bear it, by rank.
    """

    symbols: Mapping[str, str]
    previous: Mapping[str, frozenset[str]]
    aliases: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class GeneMapping:
    """What became of a list of names.

    `ids`: Ensembl id for each name, in order; None where there is none. No id occurs twice. `reasons`: how each name
    was found or why it was lost: by_id, by_symbol, by_previous, by_alias; ambiguous, collided (another name of the list
    has a better claim to the same gene, or an equal one), without_id (the table knows the gene but no Ensembl id of
    it), missing. `counts`: names by reason, and ``mapped``, their sum over the first four.
    """

    ids: list[str | None]
    reasons: list[str]
    counts: dict[str, int]

    def kept(self) -> list[int]:
        """Return the positions of the names that have an id."""
        return [position for position, gene in enumerate(self.ids) if gene is not None]


def load_gene_table(path: str | Path) -> GeneTable:
    """Read a gene table.

    `path`: tab-separated text with columns hgnc_id, symbol, ensembl_gene_id, prev_symbol and alias_symbol; several
    names in a cell are separated by ``|``. Further columns are ignored. HGNC's ``hgnc_complete_set.txt`` as published.
    """
    path = Path(path)
    if not path.is_file():
        remedy = "put HGNC's complete set there, or fix `genes: {table: ...}`."
        raise InputError(path, "the gene table is missing.", remedy, code="gene-table-missing")
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, usecols=lambda c: c in COLUMNS)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        problem = f"not a tab-separated table ({error})."
        raise InputError(path, problem, "fetch HGNC's complete set again.", code="gene-table-format") from error
    lacking = [column for column in COLUMNS if column not in table]
    if lacking or table.empty:
        problem = f"no column {', '.join(lacking)}." if lacking else "the table has no rows."
        remedy = f"give a tab-separated table with columns {', '.join(COLUMNS)}, as HGNC publishes it."
        raise InputError(path, problem, remedy, code="gene-table-columns")
    if table["symbol"].duplicated().any():
        twice = table["symbol"][table["symbol"].duplicated()].iloc[0]
        problem = f"symbol '{twice}' is there twice."
        raise InputError(path, problem, "use one release of the table, unchanged.", code="gene-table-symbol-twice")
    return GeneTable(
        symbols=dict(zip(table["symbol"], table["ensembl_gene_id"], strict=True)),
        previous=_claims(table["prev_symbol"], table["ensembl_gene_id"]),
        aliases=_claims(table["alias_symbol"], table["ensembl_gene_id"]),
    )


def _claims(cells: Iterable[str], ids: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the genes that claim each name of ``|``-separated cells."""
    claims: dict[str, set[str]] = {}
    for cell, gene in zip(cells, ids, strict=True):
        for name in filter(None, (part.strip() for part in cell.strip('"').split("|"))):
            claims.setdefault(name, set()).add(gene)
    return {name: frozenset(genes) for name, genes in claims.items()}


def _look_up(name: str, table: GeneTable) -> tuple[str | None, str]:
    match = ENSEMBL_GENE.fullmatch(name)
    if match and match[3] is None:
        return match[1], "by_id"
    if name in table.symbols:
        gene = table.symbols[name]
        return (gene, "by_symbol") if gene else (None, "without_id")
    for claims, reason in ((table.previous, "by_previous"), (table.aliases, "by_alias")):
        if name in claims:
            genes = claims[name]
            if len(genes) > 1:
                return None, "ambiguous"
            (gene,) = genes
            return (gene, reason) if gene else (None, "without_id")
    return None, "missing"


def to_ensembl(names: Sequence[str], table: GeneTable) -> GeneMapping:
    """Map names to Ensembl ids.

    `names`: symbols or Ensembl ids (a version such as ``.5`` is cut off), in any mixture. Where several names mean one
    gene, the best claim keeps it (id, then symbol, previous symbol, alias); equal claims lose it all, since nothing
    says which of them counted that gene.
    """
    looked = [_look_up(str(name).strip(), table) for name in names]
    rank = {reason: number for number, reason in enumerate(_FOUND)}
    best: dict[str, int] = {}
    for gene, reason in looked:
        if gene is not None:
            best[gene] = min(rank[reason], best.get(gene, len(rank)))
    claims = Counter(gene for gene, reason in looked if gene is not None and rank[reason] == best[gene])
    wins = [gene is None or (rank[reason] == best[gene] and claims[gene] == 1) for gene, reason in looked]
    ids = [gene if won else None for (gene, _), won in zip(looked, wins, strict=True)]
    reasons = [reason if won else "collided" for (_, reason), won in zip(looked, wins, strict=True)]
    counts = {reason: reasons.count(reason) for reason in (*_FOUND, *_LOST)}
    counts = {"mapped": sum(counts[reason] for reason in _FOUND), **counts}
    return GeneMapping(ids, reasons, counts)
