"""What gene names say: their kind, and which genes are mitochondrial. Imports numpy and pandas only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from histoloom.genes import ENSEMBL_GENE

# The 13 protein-coding human mitochondrial genes (HGNC: "mitochondrially encoded protein coding") by Ensembl id.
_MITOCHONDRIAL_IDS = frozenset(
    f"ENSG00000{n}"
    for n in (
        "198888", "198763", "198804", "198712", "228253", "198899", "198938",
        "198840", "212907", "198886", "198786", "198695", "198727",
    )
)  # fmt: skip


def is_mitochondrial(names: Sequence[str] | pd.Index) -> np.ndarray:
    """Return a mask of mitochondrial genes: symbols that start with ``MT-`` in any case, or the human Ensembl ids."""
    return np.array([n.upper().startswith("MT-") or n.split(".")[0] in _MITOCHONDRIAL_IDS for n in names], dtype=bool)


def id_kind(names: Sequence[str] | pd.Index) -> str:
    """Say what most of the names are: ``"Ensembl ids"``, ``"symbols"`` or ``"numbers"``."""
    head = [str(n) for n in names[:2000]]
    if not head:
        return "no names"
    if sum(bool(ENSEMBL_GENE.fullmatch(n)) for n in head) > len(head) / 2:
        return "Ensembl ids"
    if sum(n.isdigit() for n in head) > len(head) / 2:
        return "numbers"
    return "symbols"


def passes_gene_filter(
    n_cells: np.ndarray,
    totals: np.ndarray,
    n_obs: int,
    *,
    cell_count_cutoff: float,
    cell_percentage_cutoff2: float,
    nonz_mean_cutoff: float,
) -> np.ndarray:
    """Return a mask (G,) of the genes that cell2location's filter keeps.

    The rule of ``cell2location.utils.filtering.filter_genes`` (Kleshchevnikov et al. 2022, doi
    10.1038/s41587-021-01139-4): genes detected in more than ``cell_percentage_cutoff2`` of the `n_obs` cells, and genes
    detected in more than ``cell_count_cutoff`` cells whose mean count over these cells is above ``nonz_mean_cutoff``.
    The original is not called: it draws a figure, and its import takes longer than building a reference.
    """
    nonzero_mean = np.divide(totals, n_cells, out=np.zeros(len(n_cells), dtype=float), where=n_cells > 0)
    common = n_cells > n_obs * cell_percentage_cutoff2
    strong = (n_cells > cell_count_cutoff) & (nonzero_mean > nonz_mean_cutoff)
    return np.asarray((common | strong) & (n_cells > 0))
