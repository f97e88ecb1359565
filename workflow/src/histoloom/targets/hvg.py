"""The union of each section's highly variable genes, as CMRCNet and BLEEP choose what they predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix

from histoloom.errors import InputError
from histoloom.targets.recipes import RECIPES


def hvg_union(counts: Any, section: npt.NDArray[Any], genes: Sequence[str], k: int) -> list[str]:
    """Return genes that are among the k most variable of any section, in the order of `genes`.

    Counts (n, genes) are scaled to each section's median over these genes, then ln(1 + x), then scanpy's
    ``highly_variable_genes`` of flavour seurat. With k above the number of genes all that have a defined dispersion
    are taken, as scanpy has it.
    """
    import anndata
    import scanpy

    matrix, chosen = csr_matrix(counts), np.zeros(len(genes), bool)
    for name in pd.unique(section):
        part = matrix[section == name]
        totals = np.asarray(part.sum(axis=1), np.float64).ravel()
        if (totals > 0).sum() < 2:
            problem = "has fewer than two observations with counts; no gene's variance is known."
            remedy = "exclude the section, or choose another panel."
            raise InputError(str(name), problem, remedy, code="hvg-observations")
        values = csr_matrix(RECIPES["median_log1p"].values(part, totals, len(genes)))
        data = anndata.AnnData(values, var=pd.DataFrame(index=[str(gene) for gene in genes]))
        scanpy.pp.highly_variable_genes(data, flavor="seurat", n_top_genes=min(k, len(genes)))
        chosen |= data.var["highly_variable"].to_numpy(bool)
    return [str(gene) for gene, taken in zip(genes, chosen, strict=True) if taken]
