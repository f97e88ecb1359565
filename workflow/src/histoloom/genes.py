"""Genes of different sources are matched by Ensembl id, through a pinned table in the layout of HGNC's complete set.

A name is looked up as an Ensembl id, then as an approved symbol, then as a previous symbol, then as an alias. An
approved symbol always wins: a name that is one gene's symbol and another's alias means the former. What several genes
claim at the same rank is ambiguous and dropped; what no gene claims is missing. What is dropped is counted by reason.
Where both sources have one vocabulary, names are compared as they are spelt, and no table is needed.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError

logger = logging.getLogger(__name__)

BY_ID, BY_NAME = "ensembl", "name"
ENSEMBL_GENE = re.compile(r"(ENS[A-Z]{0,6}G[0-9]{11})(\.[0-9]+)?(_PAR_Y)?")
"""The stable id, its version, and the mark of a pseudoautosomal copy; use `fullmatch`."""
COLUMNS = ("hgnc_id", "symbol", "ensembl_gene_id", "prev_symbol", "alias_symbol")
_CLAIMS = {"by_symbol": "symbol", "by_previous": "prev_symbol", "by_alias": "alias_symbol"}
_FOUND = ("by_id", *_CLAIMS)
_LOST = ("ambiguous", "collided", "without_id", "missing")

GeneTable = Mapping[str, Mapping[str, frozenset[str]]]
"""Ensembl ids ("" where the table states none) of all genes that bear a name, by rank (keys of `_CLAIMS`) and name."""


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
    return {rank: _claims(table[column], table["ensembl_gene_id"]) for rank, column in _CLAIMS.items()}


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
    for rank, claims in table.items():
        if len(genes := claims.get(name, ())) > 1:
            return None, "ambiguous"
        for gene in genes:
            return (gene, rank) if gene else (None, "without_id")
    return None, "missing"


def to_ensembl(names: Sequence[str], table: GeneTable) -> GeneMapping:
    """Map names to Ensembl ids.

    `names`: symbols or Ensembl ids (a version such as ``.5`` is cut off), in any mixture. Where several names mean one
    gene, the best claim keeps it (id, then symbol, previous symbol, alias); equal claims lose it all, since nothing
    says which of them counted that gene.
    """
    looked = [_look_up(str(name).strip(), table) for name in names]
    claims = Counter((gene, reason) for gene, reason in looked if gene is not None)
    best = {gene: rank for rank in reversed(_FOUND) for gene, reason in claims if reason == rank}
    won = [gene is None or (reason == best[gene] and claims[gene, reason] == 1) for gene, reason in looked]
    ids = [gene if wins else None for (gene, _), wins in zip(looked, won, strict=True)]
    reasons = [reason if wins else "collided" for (_, reason), wins in zip(looked, won, strict=True)]
    counts = {reason: reasons.count(reason) for reason in (*_FOUND, *_LOST)}
    return GeneMapping(ids, reasons, {"mapped": sum(counts[reason] for reason in _FOUND), **counts})


@dataclass(frozen=True)
class GeneKeys:
    """The genes of one source that can be matched with those of another.

    `keys`: the key of each gene, no key twice, length K. `names`: the source's own names of these genes, length K.
    `kept`: positions of these genes among all of the source, ascending, (K,). `given`: all names of the source, length
    G. `counts`: names by how they were mapped or why they were lost (`GeneMapping.counts`); empty for matching by name.
    """

    keys: pd.Index
    names: pd.Index
    kept: npt.NDArray[np.int64]
    given: pd.Index
    counts: dict[str, int]


class GeneMatcher:
    """Matches the genes of several sources through the table at `path`; None: names are compared as they are spelt."""

    def __init__(self, path: Path | None) -> None:
        self.table: GeneTable | None = None if path is None else load_gene_table(path)
        self.release = None if path is None else Path(path).name

    def keys(self, names: Sequence[str] | pd.Index, source: str) -> GeneKeys:
        """Return the keys of a source's genes (symbols or Ensembl ids of any vintage); the log counts lost names."""
        names = pd.Index(names, dtype=object).astype(str)
        if self.table is None:
            return GeneKeys(names, names, np.arange(len(names)), names, {})
        mapping = to_ensembl(list(names), self.table)
        kept = np.asarray(mapping.kept(), dtype=np.int64)
        summary = ", ".join(f"{reason.replace('_', ' ')} {n}" for reason, n in mapping.counts.items() if n)
        logger.info("%s: %d genes, to Ensembl ids: %s", source, len(names), summary)
        keys = pd.Index([mapping.ids[position] for position in kept], dtype=object)
        return GeneKeys(keys, names[kept], kept, names, mapping.counts)

    def mitochondrial(self, keys: pd.Index) -> npt.NDArray[np.bool_]:
        """Tell which keys the table calls mitochondrial (approved symbols ``MT-...``), (K,) bool; none by name."""
        symbols = {} if self.table is None else self.table["by_symbol"]
        known = {gene for symbol, genes in symbols.items() if symbol.startswith("MT-") for gene in genes if gene}
        return np.array([key in known for key in keys], dtype=bool)

    def protocol(self) -> dict[str, Any]:
        """Return by what genes were matched, and the release of the table."""
        return {"matched_by": BY_NAME if self.table is None else BY_ID, "gene_table": self.release}


def preferred_ids(var: pd.DataFrame) -> pd.Index:
    """Return the best name that a source gives its genes: the id it publishes (``ensembl_id``), else the index."""
    names = var.index.astype(str)
    if "ensembl_id" not in var:
        return names
    published = var["ensembl_id"].astype(str).to_numpy(dtype=object)
    return pd.Index(np.where(published == "", names.to_numpy(dtype=object), published), dtype=object)
