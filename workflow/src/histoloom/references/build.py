"""Build the reference artefact: choose types, cells and genes, compute signatures, write."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom import kinds
from histoloom.artefacts import KEY
from histoloom.checkpoints import Checkpoints
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity, sha256_file, sha256_text
from histoloom.references.readers import (
    ReferenceCells,
    count_problem,
    is_mitochondrial,
    passes_gene_filter,
    paths_of,
)
from histoloom.samples.counts import mtx_files

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)


def build_reference(
    *,
    spec: Mapping[str, Any],
    files: Mapping[str, Path | list[Path]],
    out: Path,
    seed: int,
    threads: int,
    scratch: Path,
) -> None:
    """Write a filtered reference: raw counts, obs cell_type, donor, assay, ``varm["signatures"]`` (genes x types).

    Types are merged and dropped, at most ``max_cells_per_type`` cells are kept per type with equal shares per donor,
    mitochondrial genes and duplicate names go, cell2location's gene filter is applied to the chosen cells, and one
    signature per type (mean counts per cell) is computed. `seed` chooses the cells and seeds a ``regression``.
    """
    import anndata as ad

    from histoloom.references.signatures import mean_signatures, regression_signatures

    cells = kinds.load("references", spec["source"])(files, spec)
    types, report = assign_types(cells, spec)
    rows = choose_cells(types, cells.obs["donor"], int(spec["max_cells_per_type"]), seed)
    counts = _read_counts(cells, rows)
    keep, genes, gene_report = choose_genes(counts, cells.genes, spec, cells.where)
    counts = keep(counts)
    obs = cells.obs.iloc[rows].assign(cell_type=types.iloc[rows]).astype(str)
    obs.index = pd.Index([f"cell{i:07d}" for i in rows])
    reference = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))
    regression = spec["signatures"]["method"] == "regression"
    params: dict[str, Any] = {"spec": dict(spec), **({"threads": threads} if regression else {})}
    identity = make_identity("references", params, _identities(files), seed)
    if regression:
        options: dict[str, Any] = {"checkpoints": Checkpoints(scratch, str(identity["sha256"])), "seed": seed}
        signatures, fit = regression_signatures(reference, spec["signatures"], threads=threads, **options)
    else:
        signatures, fit = mean_signatures(reference)
    reference.varm["signatures"] = signatures
    metadata = {
        "types": list(signatures.columns),
        "n_cells": {str(k): int(v) for k, v in obs["cell_type"].value_counts().sort_index().items()},
        "n_donors": int(obs["donor"].nunique()),
        "signatures": fit,
        "gene_filter": gene_report,
        "cells": {**report, "read": cells.report},
        "identity": identity,
    }
    reference.uns[KEY] = canonical_json(metadata)
    reference.write_h5ad(out, compression="gzip")
    logger.info("reference: %d cells, %d genes, %d types", *reference.shape, len(signatures.columns))


def _identities(files: Mapping[str, Path | list[Path]]) -> dict[str, str]:
    """Return identities of raw files by their bytes; a matrix folder counts as its three files."""
    identities = {}
    for role in files:
        for number, path in enumerate(paths_of(files, role)):
            parts = mtx_files(path) if path.is_dir() else {"": path}
            identities[f"{role}.{number:04d}"] = sha256_text("".join(sha256_file(p) for p in parts.values()))
    return identities


def assign_types(cells: ReferenceCells, spec: Mapping[str, Any]) -> tuple[pd.Series, dict[str, Any]]:
    """Drop and merge cell types; return the final type per cell ("" = not used) and a report."""
    original = cells.obs["cell_type"]
    known = set(original) - {""}
    merged = {old: new for new, olds in spec["merge"].items() for old in olds}
    for option, named in (("drop", set(spec["drop"])), ("merge", set(merged))):
        missing = sorted(named - known)
        if missing:
            problem = f"no cells of type {', '.join(map(repr, missing))}; types: {', '.join(sorted(known))}."
            remedy = f"name existing types under `{option}`."
            raise InputError(cells.where, problem, remedy, code="reference-type-unknown")
    types = original.where(~original.isin(spec["drop"]), "").replace(merged)
    sizes = types[types != ""].value_counts()
    few = sizes[sizes < spec["min_cells_per_type"]].sort_index()
    if len(few):
        counts = ", ".join(f"'{name}' has {n}" for name, n in few.items())
        problem = f"too few cells for a signature (min_cells_per_type {spec['min_cells_per_type']}): {counts}."
        remedy = f"add them to the reference's `drop: [{', '.join(few.index)}]`, or `merge` them into a related type."
        raise InputError(cells.where, problem, remedy, code="reference-few-cells")
    if len(sizes) < 2:
        problem = f"{len(sizes)} cell type is left; deconvolution needs two."
        raise InputError(cells.where, problem, "drop or merge fewer types.", code="reference-one-type")
    slash = sorted(name for name in sizes.index if "/" in name)
    if slash:
        problem = f"type names hold a '/', which h5 files cannot: {', '.join(slash)}."
        rename = {name.replace("/", "-"): [name] for name in slash}
        raise InputError(cells.where, problem, f"rename: `merge: {rename}`.", code="reference-type-name")
    return types, {
        "not_annotated": int((original == "").sum()),
        "dropped": {name: int((original == name).sum()) for name in sorted(spec["drop"])},
        "available": {str(k): int(v) for k, v in sizes.sort_index().items()},
    }


def choose_cells(types: pd.Series, donors: pd.Series, most: int, seed: int) -> np.ndarray:
    """Return positions, ascending, of at most `most` cells per type, donors sharing as equally as they can.

    Types draw from generators of their own, so that one type does not move another's cells.
    """
    chosen = []
    for name in sorted(set(types) - {""}):
        positions = np.flatnonzero((types == name).to_numpy())
        if len(positions) <= most:
            chosen.append(positions)
            continue
        rng = np.random.default_rng([seed, int(sha256_text(name)[:8], 16)])
        codes, levels = pd.factorize(donors.to_numpy()[positions], sort=True)
        available = np.bincount(codes, minlength=len(levels))
        for donor, n in enumerate(equal_shares(available, most)):
            chosen.append(rng.choice(positions[codes == donor], size=n, replace=False))
    return np.sort(np.concatenate(chosen))


def equal_shares(available: np.ndarray, total: int) -> np.ndarray:
    """Share out `total` as equally as `available` allows; what is left over goes to the first that have more."""
    shares = np.zeros_like(available)
    left = min(int(total), int(available.sum()))
    while left:
        open_ = np.flatnonzero(shares < available)
        step = left // len(open_)
        if step == 0:
            shares[open_[:left]] += 1
            break
        grown = np.minimum(available[open_] - shares[open_], step)
        shares[open_] += grown
        left -= int(grown.sum())
    return shares


def _read_counts(cells: ReferenceCells, rows: np.ndarray) -> csr_matrix:
    counts = cells.read(rows)
    problem = count_problem(counts.data)
    if problem:
        problem = f"the counts are not raw: the matrix {problem}."
        remedy = "deconvolution needs raw integers; for an h5ad name their place in `counts` (X, raw or a layer)."
        raise InputError(cells.where, problem, remedy, code="reference-not-raw")
    counts = counts.astype(np.int32)
    counts.eliminate_zeros()
    return counts


def choose_genes(
    counts: csr_matrix, names: pd.Index, spec: Mapping[str, Any], where: str
) -> tuple[Any, pd.Index, dict[str, Any]]:
    """Choose genes: no duplicate names, no mitochondrial genes, cell2location's filter.

    Returns a function that takes counts (n, G) to counts of the chosen genes, their names, and a report of what was
    lost.
    """
    from scipy.sparse import csr_matrix

    codes, unique = pd.factorize(names)
    copies = np.bincount(codes, minlength=len(unique))
    ones, shape = np.ones(len(codes), dtype=np.int32), (len(codes), len(unique))
    gather = csr_matrix((ones, (np.arange(len(codes)), codes)), shape)
    summed = csr_matrix(counts @ gather)
    allowed = np.ones(len(unique), dtype=bool)
    if spec["duplicate_genes"] == "drop":
        # Two rows of one name are two loci or two readings; which one the section's gene is cannot be known.
        allowed &= copies == 1
    allowed &= unique != ""
    mitochondrial = is_mitochondrial(unique) & bool(spec["drop_mitochondrial"])
    n_cells = np.asarray((summed > 0).sum(axis=0)).ravel()
    totals = np.asarray(summed.sum(axis=0)).ravel()
    passed = passes_gene_filter(n_cells, totals, summed.shape[0], **spec["gene_filter"])
    kept = np.flatnonzero(allowed & ~mitochondrial & passed)
    report = {
        "read": len(names),
        "duplicate_names": int((copies > 1).sum()),
        "duplicates": spec["duplicate_genes"],
        "mitochondrial": int(mitochondrial.sum()),
        "failed_filter": int((allowed & ~mitochondrial & ~passed).sum()),
        "kept": len(kept),
        **spec["gene_filter"],
    }
    logger.info("genes: %s", report)
    if not len(kept):
        problem = f"no gene passes the filters ({report})."
        raise InputError(where, problem, "lower the cutoffs of `gene_filter`.", code="reference-no-genes")
    return lambda matrix: csr_matrix(csr_matrix(matrix @ gather)[:, kept]), pd.Index(unique[kept]), report
