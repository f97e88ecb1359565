"""Expression as a target: counts of all sections on their common genes, and the recipe applied to them.

The recipe works on each observation alone. Which genes are scored is another choice, made per fold from training
sections (`histoloom.probe.panel`); nothing here looks at more than one observation at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, diags, vstack

from histoloom.artefacts import KEY, identities_of, read_metadata
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity
from histoloom.obs_keys import observation_keys
from histoloom.samples.control_features import is_control
from histoloom.samples.section import open_section
from histoloom.targets.artefact import plain
from histoloom.targets.sections import observe, one_tile_spec

logger = logging.getLogger(__name__)

UNITS = {"log1p": "log1p", "none": "counts"}


@dataclass(frozen=True)
class Expression:
    """An expression target.

    Attributes
    ----------
    obs
        Observations, index ``cohort/sample/obs_id``.
    values
        CSR float64 (n, genes): what is predicted.
    counts
        CSR (n, genes): raw counts.
    genes
        Names of the columns.
    spatial
        (n, 2) centres, level-0 px.
    metadata
        As `build_expression_target` wrote it.
    """

    obs: pd.DataFrame
    values: csr_matrix
    counts: csr_matrix
    genes: list[str]
    spatial: np.ndarray
    metadata: Mapping[str, Any]


def expression_of(counts: csr_matrix, recipe: Mapping[str, Any], totals: np.ndarray) -> csr_matrix:
    """Apply a recipe to counts.

    Parameters
    ----------
    counts
        (n, genes) raw counts.
    recipe
        ``size_factor``: ``none``, or ``total`` (counts of an observation are scaled to add up to ``target_sum``);
        ``log``: ``log1p`` or ``none``.
    totals
        (n,) counts of each observation over all genes that the section has, those outside the columns included. An
        observation without counts stays zero.
    """
    # A copy: matrices that share their indices spoil one another when one of them is sorted in place.
    values = csr_matrix(counts, dtype=np.float64, copy=True)
    if recipe["size_factor"] == "total":
        factor = np.divide(recipe["target_sum"], totals, out=np.zeros(len(totals)), where=totals > 0)
        values = csr_matrix(diags(factor) @ values)
    return values.log1p() if recipe["log"] == "log1p" else values


def build_expression_target(
    *,
    spec: Mapping[str, Any],
    samples: Sequence[Path],
    tiles: Sequence[Path],
    out: Path,
    genes: Sequence[str] | None = None,
) -> None:
    """Write ``targets/{experiment}/target.h5ad`` of an experiment that predicts expression.

    Parameters
    ----------
    spec
        The experiment's entry: ``tiles``, ``expression`` (the recipe).
    samples, tiles
        Section and tile artefacts, in the same order.
    out
        File to write: X = CSR float64 after the recipe, layer ``counts`` = CSR raw counts.
    genes
        Take these genes only; None: all that every section has, without control probes.

    Raises
    ------
    InputError
        If a section keeps no observation or lacks a gene that is asked for, or the sections share none.
    """
    recipe = dict(spec["expression"])
    names = [_genes(Path(sample)) for sample in samples]
    columns = _columns(names, samples, genes)
    obs, counts, totals, steps, specs = [], [], [], [], []
    for sample, tile, own in zip(map(Path, samples), map(Path, tiles), names, strict=True):
        section = observe(sample, tile)
        if not section.kept.any():
            raise InputError(
                f"{section.cohort}/{section.sample}",
                f"no observation is in tissue and on a kept tile ({section.step}).",
                "look at the section's tile picture, or exclude it: write a reason in the sheet's `exclude` column.",
            )
        matrix = open_section(sample).counts[section.kept]
        totals.append(np.asarray(matrix.sum(axis=1), np.float64).ravel())
        counts.append(matrix[:, own.get_indexer(pd.Index(columns))])
        kept = section.obs.loc[section.kept]
        obs.append(kept.set_axis(observation_keys(kept)))
        steps.append({**section.step, "joined": int(section.kept.sum())})
        specs.append(section.tiles_spec)
        logger.info("%s/%s: %s", section.cohort, section.sample, steps[-1])
    raw = csr_matrix(vstack(counts, format="csr"), dtype=np.int64)
    raw.sort_indices()
    metadata = {
        "recipe": recipe,
        "size_factor_genes": "all genes of the section" if recipe["size_factor"] == "total" else "none",
        "tiles": {"name": spec["tiles"], "spec": one_tile_spec(specs, spec["tiles"])},
        "units": UNITS[recipe["log"]] + ("" if recipe["size_factor"] == "none" else f"({recipe['target_sum']:g})"),
        "n_genes": len(columns),
        "n_genes_measured": {f"{s['cohort']}/{s['sample']}": len(own) for s, own in zip(steps, names, strict=True)},
        "steps": steps,
        "identity": make_identity(
            "targets",
            {"tiles": spec["tiles"], "expression": recipe, "genes": None if genes is None else list(genes)},
            identities_of({"samples": samples, "tiles": tiles}),
        ),
    }
    _write(pd.concat(obs), raw, expression_of(raw, recipe, np.concatenate(totals)), columns, metadata, out)


def _genes(sample: Path) -> pd.Index:
    return open_section(sample).var.index


def _columns(names: Sequence[pd.Index], samples: Sequence[Path], wanted: Sequence[str] | None) -> list[str]:
    """Return the genes to keep: those asked for, else all common ones, in the first section's order."""
    if wanted is not None:
        for own, sample in zip(names, samples, strict=True):
            missing = [gene for gene in wanted if gene not in own]
            if missing:
                raise InputError(
                    sample,
                    f"lacks {len(missing)} of the {len(wanted)} genes of the list: {', '.join(missing[:10])}.",
                    "give another list of genes, or exclude the section.",
                )
        return list(wanted)
    common = set.intersection(*(set(own) for own in names))
    found = [gene for gene in names[0] if gene in common]
    kept = [gene for gene, control in zip(found, is_control(found), strict=True) if not control]
    if not kept:
        raise InputError(
            " + ".join(map(str, samples[:3])), "the sections share no gene.", "give all cohorts the same gene names."
        )
    logger.info("%d genes in every section, %d control probes left out", len(kept), len(found) - len(kept))
    return kept


def _write(
    obs: pd.DataFrame,
    counts: csr_matrix,
    values: csr_matrix,
    genes: Sequence[str],
    metadata: Mapping[str, Any],
    out: Path,
) -> None:
    import anndata

    if "region" in obs:
        obs["region"] = obs["region"].fillna("").astype(str)
    data = anndata.AnnData(X=values, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=str)))
    data.layers["counts"] = counts
    data.obsm["spatial"] = obs[["x", "y"]].to_numpy(np.float64)
    data.uns[KEY] = canonical_json(metadata)
    data.write_h5ad(out, compression="gzip")


def read_expression(path: str | Path) -> Expression:
    """Read an expression target."""
    import anndata

    data = anndata.read_h5ad(path)
    return Expression(
        obs=plain(data.obs),
        values=csr_matrix(data.X),
        counts=csr_matrix(data.layers["counts"]),
        genes=[str(name) for name in data.var_names],
        spatial=np.asarray(data.obsm["spatial"], dtype=np.float64),
        metadata=read_metadata(path),
    )
