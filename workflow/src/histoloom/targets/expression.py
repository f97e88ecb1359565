"""Expression: counts of all sections on their common genes, and the recipe applied to them.

Which genes are predicted is another choice, made per fold from training sections (`histoloom.folds.panel`). Nothing
here looks at more than one section, but for the protocols of `histoloom.targets.correction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, vstack

from histoloom.samples.hest_bench import published_genes
from histoloom.samples.section import open_section
from histoloom.targets.base import Files, Values, write_target
from histoloom.targets.correction import harmonise, smooth
from histoloom.targets.hvg import hvg_union
from histoloom.targets.recipes import Recipe
from histoloom.targets.sections import common_facts, common_genes, join_sections


class Expression(Values):
    """Expression of genes: X (n, genes) after the recipe, CSR but for Harmony's; layer ``counts`` CSR raw counts."""

    def build(self, *, spec: Mapping[str, Any], files: Files, out: Path) -> None:
        """Write the target; its genes are a list, or all that every section has, without control features."""
        entry = dict(spec["target"])
        recipe = Recipe.from_json(entry)
        samples = [Path(p) for p in files["samples"]]
        names = [open_section(sample).var.index for sample in samples]
        genes = common_genes(names, samples, _listed_genes(entry, files))
        everywhere = entry.get("observations") == "array"
        sections = join_sections(files, lambda s: np.ones(len(s.obs), bool), "kept", off_tissue=everywhere)
        counts, values = [], []
        for section, own in zip(sections, names, strict=True):
            matrix = csr_array(open_section(section.path).counts)[section.joined]
            counts.append(csr_array(matrix[:, own.get_indexer(pd.Index(genes))]))
            values.append(recipe.values(counts[-1], np.asarray(matrix.sum(axis=1), np.float64).ravel(), len(own)))
        raw = csr_array(vstack(counts, format="csr")).astype(np.int64)
        raw.sort_indices()
        obs = pd.concat([section.table() for section in sections])
        x: Any = csr_array(vstack(values, format="csr"))
        if entry.get("smoothing") == "neighbours":
            x = smooth(x, obs)
        if entry.get("batch_correction") == "harmony":
            chosen = hvg_union(raw, obs["cohort"].str.cat(obs["sample"], "/").to_numpy(), genes, entry["panel"]["k"])
            columns = pd.Index(genes).get_indexer(pd.Index(chosen))
            genes, raw, x = chosen, raw[:, columns], harmonise(x[:, columns], obs)
        scaled = {"none": "none", "target_genes": "the target's genes"}
        metadata = {
            **common_facts(sections, spec, files),
            "recipe": {**entry, **asdict(recipe)},
            "size_factor_genes": scaled.get(recipe.size_factor, "all genes of the section"),
            "units": recipe.units,
            "truth_units": None,
            "constant_types": [],
            "n_genes": len(genes),
            "n_genes_measured": {f"{s.cohort}/{s.sample}": len(own) for s, own in zip(sections, names, strict=True)},
        }
        write_target(obs, x, genes, metadata, out, {"counts": raw})


def _listed_genes(recipe: Mapping[str, Any], files: Files) -> list[str] | None:
    panel = recipe.get("panel") or {}
    if panel.get("genes") == "published":
        return published_genes(Path(files["genes"][0]))
    return list(panel["markers"]) if panel.get("genes") == "marker" else None
