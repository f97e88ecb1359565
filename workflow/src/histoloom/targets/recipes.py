"""How raw counts become values of expression, by name.

================  ============================================================  ======================================
recipe            value                                                         who
================  ============================================================  ======================================
``counts_log1p``  ln(1 + counts)                                                HEST-bench
``total_log1p``   ln(1 + counts scaled to 10,000 over all genes of the section)  scanpy's tutorials
``median_log1p``  ln(1 + counts scaled to the section's median total)            CMRCNet, BLEEP (scanpy's own default)
``histogene``     log10(1 + counts scaled to 10,000 over the target's genes)     HisToGene (scprep's defaults)
``stnet``         ln((1 + counts) / (n + total)), n genes of the section         ST-Net
================  ============================================================  ======================================

The keys ``size_factor``, ``target_sum`` and ``log`` of a config win over the recipe's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, diags_array

from histoloom.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """From counts to values; an observation's values depend on its own counts and, for ``median``, its section's."""

    size_factor: Literal["none", "total", "median", "target_genes"] = "none"
    target_sum: float = 1e4
    log: Literal["log1p", "log10", "stnet", "none"] = "log1p"

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """Return the recipe of a target's entry."""
        named = asdict(RECIPES[entry.get("recipe", "counts_log1p")])
        recipe = cls(**{key: entry.get(key, value) for key, value in named.items()})
        if recipe.target_sum <= 0:
            raise InputError("target.target_sum", "is not positive.", "give a positive sum.", code="target-sum")
        if recipe.log == "stnet" and recipe.size_factor != "none":
            remedy = "leave size_factor out."
            raise InputError("target.log", "stnet divides by the total itself.", remedy, code="recipe-stnet")
        return recipe

    @property
    def units(self) -> str:
        """What the values are, in words."""
        if self.log == "stnet":
            return "ln((1+count)/(genes+total))"
        scaled = {"median": "median total", "target_genes": f"{self.target_sum:g} over the target's genes"}
        over = {"none": ""}.get(self.size_factor, scaled.get(self.size_factor, f"{self.target_sum:g}"))
        return {"none": "counts"}.get(self.log, self.log) + (f"({over})" if over else "")

    def values(self, counts: csr_array, totals: npt.NDArray[np.float64], n_genes: int) -> csr_array:
        """Return the (n, genes) values of one section's counts; an observation without counts stays zero.

        `totals` are (n,) counts of each observation over all `n_genes` genes that the section has, those outside the
        columns included. Values of `stnet` are all different from zero: choose few genes.
        """
        # A copy: matrices that share their indices spoil one another when one of them is sorted in place.
        values = csr_array(counts, dtype=np.float64, copy=True)
        if self.log == "stnet":
            return csr_array(np.log1p(values.toarray()) - np.log(n_genes + totals)[:, None])
        if self.size_factor != "none":
            own = np.asarray(values.sum(axis=1)).ravel() if self.size_factor == "target_genes" else totals
            wanted = self.target_sum
            if self.size_factor == "median":
                wanted = float(np.median(own[own > 0])) if (own > 0).any() else 1.0
            values = csr_array(diags_array(np.divide(wanted, own, out=np.zeros(len(own)), where=own > 0)) @ values)
        if self.log == "none":
            return values
        values = values.log1p()
        return values / np.log(10) if self.log == "log10" else values


RECIPES: Mapping[str, Recipe] = {
    "counts_log1p": Recipe(),
    "total_log1p": Recipe("total"),
    "median_log1p": Recipe("median"),
    "histogene": Recipe("target_genes", log="log10"),
    "stnet": Recipe(log="stnet"),
}
