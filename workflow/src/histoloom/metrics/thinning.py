"""Split a section's counts into two independent halves: what a label could at best be predicted with.

Two fits to the same counts share their noise. Two halves of the counts do not: given a spot's expected counts, the
halves of a Poisson count under binomial thinning are independent Poisson counts of half the mean.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from histoloom.artefacts import KEY, identities_of, read_metadata
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity

HALVES = (0, 1)


def thin_counts(counts: Any, half: int, seed: int, name: str) -> Any:
    """Return one of the two halves of a matrix of counts.

    Parameters
    ----------
    counts
        CSR (n, genes) of whole numbers.
    half
        0: each count thinned by Binomial(count, 0.5); 1: what is left of it. Both add up to the counts.
    seed, name
        Choose the draw; `name` (``cohort/sample``) gives each section its own.

    Raises
    ------
    InputError
        If a count is no whole number, or `half` is neither 0 nor 1.
    """
    from scipy.sparse import csr_matrix

    if half not in HALVES:
        raise InputError("thinning", f"half {half} is neither 0 nor 1.", "use 0 or 1.")
    matrix = csr_matrix(counts, copy=True)
    matrix.sum_duplicates()
    whole = np.rint(matrix.data).astype(np.int64)
    if (whole != matrix.data).any() or (whole < 0).any():
        raise InputError(name, "counts are no whole numbers, so they cannot be split.", "give raw counts.")
    digest = hashlib.sha256(f"thinning/{seed}/{name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    first = rng.binomial(whole, 0.5)
    matrix.data = (first if half == 0 else whole - first).astype(np.int32)
    matrix.eliminate_zeros()
    return matrix


def thin_section(*, sample: Path, half: int, seed: int, out: Path) -> None:
    """Write a section with half of its counts; it is labelled by the same method as the whole section.

    Parameters
    ----------
    sample
        Section artefact.
    half, seed
        See `thin_counts`.
    out
        h5ad: counts, positions and metadata of the section, without its pictures.
    """
    import anndata

    metadata = read_metadata(sample)
    name = f"{metadata.get('cohort')}/{metadata.get('sample')}"
    data = anndata.read_h5ad(sample)
    data.X = thin_counts(data.X, half, seed, name)
    totals = np.asarray(data.X.sum(axis=1)).ravel()
    for column, values in (("n_counts", totals), ("n_genes", np.diff(data.X.indptr))):
        if column in data.obs:
            data.obs[column] = values.astype(data.obs[column].dtype)
    identity = make_identity("thinning", {"half": half, "share": 0.5}, identities_of({"sample": sample}), seed)
    data.uns = {KEY: canonical_json({**metadata, "thinned": {"half": half, "seed": seed}, "identity": identity})}
    data.write_h5ad(out)
