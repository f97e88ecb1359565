"""Split a section's counts into two independent halves: what a label could at best be predicted with.

Two fits to the same counts share their noise. Two halves of the counts do not: given a spot's expected counts, the
halves of a Poisson count under binomial thinning are independent Poisson counts of half the mean.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import identities_of, read_table, write_table
from histoloom.errors import InputError
from histoloom.identity import make_identity

HALVES = (0, 1)


def thin_counts(counts: Any, half: int, seed: int, name: str) -> Any:
    """Return half of a CSR matrix (n, genes) of whole numbers.

    Half 0 is each count thinned by Binomial(count, 0.5), half 1 what is left of it: both add up to the counts. `name`
    (``cohort/sample``) gives each section its own draw.
    """
    from scipy.sparse import csr_matrix

    if half not in HALVES:
        raise InputError("thinning", f"half {half} is neither 0 nor 1.", "use 0 or 1.", code="thinning-half")
    matrix = csr_matrix(counts, copy=True)
    matrix.sum_duplicates()
    whole = np.rint(matrix.data).astype(np.int64)
    if (whole != matrix.data).any() or (whole < 0).any():
        problem = "counts are no whole numbers, so they cannot be split."
        raise InputError(name, problem, "give raw counts.", code="thinning-counts")
    digest = hashlib.sha256(f"thinning/{seed}/{name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    first = rng.binomial(whole, 0.5)
    matrix.data = (first if half == 0 else whole - first).astype(np.int32)
    matrix.eliminate_zeros()
    return matrix


def thin_section(*, sample: Path, half: int, seed: int, out: Path) -> None:
    """Write a section with half of its counts, without its pictures; labels are made of it as of the whole section."""
    section = read_table(sample, obsm=["spatial"])
    name = f"{section.metadata.get('cohort')}/{section.metadata.get('sample')}"
    counts = thin_counts(section.X, half, seed, name)
    totals, obs = np.asarray(counts.sum(axis=1)).ravel(), section.obs.copy()
    for column, values in (("n_counts", totals), ("n_genes", np.diff(counts.indptr))):
        if column in obs:
            obs[column] = pd.Series(values, obs.index, dtype=obs[column].dtype)
    identity = make_identity("thinning", {"half": half, "share": 0.5}, identities_of({"sample": sample}), seed)
    metadata = {**section.metadata, "thinned": {"half": half, "seed": seed}, "identity": identity}
    write_table(replace(section, obs=obs, X=counts, metadata=metadata), out)
