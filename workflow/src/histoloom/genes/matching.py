"""Match the genes of two sources: by Ensembl ids through a table, or by name where both have one vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.genes.table import GeneTable, load_gene_table, to_ensembl

logger = logging.getLogger(__name__)
BY_ID, BY_NAME = "ensembl", "name"


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
    """Matches the genes of several sources.

    `path`: gene table (`load_gene_table`); None: names are compared as they are spelt. `by`: ``"ensembl"`` or
    ``"name"``.
    """

    def __init__(self, path: Path | None) -> None:
        self.table: GeneTable | None = None if path is None else load_gene_table(path)
        self.release = None if path is None else Path(path).name
        self.by = BY_NAME if path is None else BY_ID

    def keys(self, names: Sequence[str] | pd.Index, source: str) -> GeneKeys:
        """Return the keys of a source's genes; lost names are counted in the log.

        `names`: symbols or Ensembl ids of any vintage, length G.
        """
        names = pd.Index(names, dtype=object).astype(str)
        if self.table is None:
            return GeneKeys(names, names, np.arange(len(names)), names, {})
        mapping = to_ensembl(list(names), self.table)
        kept = np.asarray(mapping.kept(), dtype=np.int64)
        logger.info("%s: %d genes, to Ensembl ids: %s", source, len(names), _summary(mapping.counts))
        keys = pd.Index([mapping.ids[position] for position in kept], dtype=object)
        return GeneKeys(keys, names[kept], kept, names, mapping.counts)

    def mitochondrial(self, keys: pd.Index) -> npt.NDArray[np.bool_]:
        """Tell which keys the table calls mitochondrial (approved symbols ``MT-...``), (K,) bool; none by name."""
        if self.table is None:
            return np.zeros(len(keys), dtype=bool)
        known = {gene for symbol, gene in self.table.symbols.items() if gene and symbol.startswith("MT-")}
        return np.array([key in known for key in keys], dtype=bool)

    def protocol(self) -> dict[str, Any]:
        """Return by what genes were matched, and the release of the table."""
        return {"matched_by": self.by, "gene_table": self.release}


def preferred_ids(var: pd.DataFrame) -> pd.Index:
    """Return the best name that a source gives its genes: the id it publishes (``ensembl_id``), else the index."""
    names = var.index.astype(str)
    if "ensembl_id" not in var:
        return names
    published = var["ensembl_id"].astype(str).to_numpy(dtype=object)
    return pd.Index(np.where(published == "", names.to_numpy(dtype=object), published), dtype=object)


def _summary(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in counts.items() if count)
