"""Expression: counts of all sections on their common genes, and the recipe applied to them.

Which genes are predicted is another choice, made per fold from training sections (`histoloom.targets.panel`); nothing
here looks at more than one observation at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array, diags_array, vstack

from histoloom.errors import InputError
from histoloom.samples.hest_bench import published_genes
from histoloom.samples.section import open_section
from histoloom.targets.base import Files, section_score, write_target
from histoloom.targets.sections import common_facts, common_genes, join_sections

logger = logging.getLogger(__name__)

UNITS = {"log1p": "log1p", "none": "counts"}


class Expression:
    """Expression of genes: X CSR (n, genes) after the recipe, layer ``counts`` CSR raw counts."""

    def build(self, *, spec: Mapping[str, Any], files: Files, out: Path) -> None:
        """Write the target; its genes are a list, or all that every section has, without control features."""
        recipe = dict(spec["target"])
        samples = [Path(p) for p in files["samples"]]
        names = [open_section(sample).var.index for sample in samples]
        genes = common_genes(names, samples, _listed_genes(recipe, files))
        sections = join_sections(files, lambda section: np.ones(len(section.obs), bool), "kept")
        counts, totals = [], []
        for section, own in zip(sections, names, strict=True):
            matrix = csr_array(open_section(section.path).counts)[section.joined]
            totals.append(np.asarray(matrix.sum(axis=1), np.float64).ravel())
            counts.append(matrix[:, own.get_indexer(pd.Index(genes))])
        raw = csr_array(vstack(counts, format="csr")).astype(np.int64)
        raw.sort_indices()
        scaled = recipe["size_factor"] != "none"
        metadata = {
            **common_facts(sections, spec, files),
            "size_factor_genes": "all genes of the section" if scaled else "none",
            "units": UNITS[recipe["log"]] + (f"({recipe['target_sum']:g})" if scaled else ""),
            "truth_units": None,
            "constant_types": [],
            "n_genes": len(genes),
            "n_genes_measured": {f"{s.cohort}/{s.sample}": len(own) for s, own in zip(sections, names, strict=True)},
        }
        obs = pd.concat([section.table() for section in sections])
        values = expression_of(raw, recipe, np.concatenate(totals))
        write_target(obs, values, genes, metadata, out, {"counts": raw})

    def selection_score(self, prediction: npt.NDArray[Any], y: Any, section: npt.NDArray[np.intp]) -> float:
        """Return the mean CC over genes, then sections."""
        return section_score(prediction, y, section)

    def reference_prediction(self, y: Any, n_outputs: int) -> npt.NDArray[np.float64]:
        """Return the training mean."""
        del n_outputs
        return np.asarray(y.mean(axis=0), np.float64).reshape(-1)


def _listed_genes(recipe: Mapping[str, Any], files: Files) -> list[str] | None:
    panel = recipe.get("panel") or {}
    if panel.get("genes") == "published":
        return published_genes(Path(files["genes"][0]))
    return list(panel["markers"]) if panel.get("genes") == "marker" else None


def expression_of(counts: csr_array, recipe: Mapping[str, Any], totals: npt.NDArray[np.float64]) -> csr_array:
    """Apply a recipe to (n, genes) counts: a size factor ``total`` scales them to ``target_sum``, then the log.

    `totals` are (n,) counts of each observation over all genes that the section has, those outside the columns
    included. An observation without counts stays zero.
    """
    # A copy: matrices that share their indices spoil one another when one of them is sorted in place.
    values = csr_array(counts, dtype=np.float64, copy=True)
    if recipe["size_factor"] == "total":
        if recipe["target_sum"] <= 0:
            raise InputError("target.target_sum", "is not positive.", "give a positive sum.", code="target-sum")
        factor = np.divide(recipe["target_sum"], totals, out=np.zeros(len(totals)), where=totals > 0)
        values = csr_array(diags_array(factor) @ values)
    return values.log1p() if recipe["log"] == "log1p" else values
