"""Evidence that two sections are the same one, from three sides that fail in different ways.

* **Totals**: spots with the same number of counts and of detected genes. Needs no gene names; a filter on genes hides
  it.
* **Counts on shared genes**: a spot's twin under other names. For two independent measurements of equal expression
  ``sum (x - y)^2 / (x + y)`` over genes with ``x + y > 0`` is 1 per gene on average (given the sum, x is binomial with
  p = 1/2), however alike they are: siblings stay near or above 1 and the same reads are near 0. Needs shared names.
* **Picture**: share of differing bits of a perceptual hash, least over right-angled orientations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_matrix, diags

from histoloom.audit.fingerprint import PROBES, Fingerprint

Floats = npt.NDArray[np.float64]

SHARE = 0.3
"""Same section: at least this share of spots with a twin (by counts or by totals)."""
TWIN = 0.25
"""Largest distance per gene of a spot's twin; 1 is what two independent measurements have at least on average."""
PICTURE = 0.10
"""Largest share of differing bits of two pictures of one section."""
SPREAD = 0.01
"""Suspect: relative spread below this of the ratio of sorted totals, and about as many spots."""
MIN_GENES = 30
_CANDIDATES = 3
_LEAST_SPOTS = 20
_DIFFERENT, _SUSPECT, _SAME = "different", "suspect", "same"


@dataclass(frozen=True)
class Evidence:
    """What two sections have in common; NaN where a side cannot speak.

    `totals_shared`: share of the smaller section's spots that have equals in counts and detected genes;
    `totals_spread`: standard deviation of the log ratio of sorted totals at equal quantiles; `genes_shared`: share of
    probe spots with a twin on the shared genes; `n_genes`: genes shared by name; `picture`: share of differing bits.
    """

    totals_shared: float
    totals_spread: float
    genes_shared: float
    n_genes: int
    picture: float

    @property
    def verdict(self) -> str:
        """``same``, ``suspect`` (only the distribution of totals is alike) or ``different``."""
        # NaN compares false: a missing statistic never triggers a match.
        if self.totals_shared >= SHARE or self.genes_shared >= SHARE or self.picture <= PICTURE:
            return _SAME
        return _SUSPECT if self.totals_spread <= SPREAD and not self.genes_shared >= 0 else _DIFFERENT

    @property
    def reasons(self) -> str:
        parts = []
        if self.totals_shared >= SHARE:
            parts.append(f"{self.totals_shared:.0%} of spots have equal totals and detected genes")
        if self.genes_shared >= SHARE:
            parts.append(f"{self.genes_shared:.0%} of probed spots have a twin on {self.n_genes} shared genes")
        if self.picture <= PICTURE:
            parts.append(f"pictures differ in {self.picture:.0%} of hash bits")
        if not parts and self.totals_spread <= SPREAD:
            parts.append(f"sorted totals agree to {self.totals_spread:.1%}")
        return ", ".join(parts)


def shared_totals(first: Fingerprint, second: Fingerprint) -> float:
    """Return the share of the smaller section's spots with equals in the other, each used once."""
    small, large = sorted((first.pairs, second.pairs), key=len)
    if len(small) < _LEAST_SPOTS:
        return float("nan")
    return (Counter(map(tuple, small.tolist())) & Counter(map(tuple, large.tolist()))).total() / len(small)


def totals_spread(first: Fingerprint, second: Fingerprint) -> float:
    """Return the spread of the log ratio of sorted totals at equal quantiles; NaN when the sizes differ by 5 %."""
    n = sorted((len(first.pairs), len(second.pairs)))
    if n[0] < _LEAST_SPOTS or n[0] < 0.95 * n[1]:
        return float("nan")
    at = np.linspace(0.02, 0.98, 97)
    ratio = np.log(np.quantile(first.pairs[:, 0], at)) - np.log(np.quantile(second.pairs[:, 0], at))
    return float(ratio.std())


def probe_rows(section: Fingerprint) -> npt.NDArray[np.int64]:
    """Return the spots that are looked for elsewhere: those in the middle of the section's depth, spread evenly."""
    order = np.argsort(section.pairs[:, 0], kind="stable")
    # The deepest half: a twin differs from a neighbour in counts, and shallow spots have few.
    deep = order[len(order) // 2 :]
    chosen = np.linspace(0, len(deep) - 1, min(PROBES, len(deep))).round().astype(np.int64)
    return np.asarray(deep[chosen])


def twin_distance(probes: Floats, candidates: Floats) -> Floats:
    """Return ``sum (x - y)^2 / (x + y)`` per gene with any count.

    `probes`: (p, 1, genes); `candidates`: (p, c, genes). Returns (p, c); NaN with fewer than `MIN_GENES` genes counted.
    """
    total = probes + candidates
    counted = total > 0
    n = counted.sum(axis=-1)
    distance = np.divide((probes - candidates) ** 2, total, out=np.zeros_like(total), where=counted).sum(axis=-1)
    return np.divide(distance, n, out=np.full(distance.shape, np.nan), where=n >= MIN_GENES)


class Vocabulary:
    """All sections' counts on one numbering of genes, so that no pair has to be aligned by itself."""

    def __init__(self, sections: Sequence[Fingerprint]) -> None:
        genes = pd.Index(list(dict.fromkeys(gene for section in sections for gene in section.genes)), dtype=object)
        self.sections, self.present, self.counts, self.roots = sections, [], [], []
        for section in sections:
            places = genes.get_indexer(pd.Index(section.genes, dtype=object))
            self.present.append(np.isin(np.arange(len(genes)), places))
            onto = csr_matrix(
                (np.ones(len(places), np.float32), (np.arange(len(places)), places)), (len(places), len(genes))
            )
            # Two names that became one are summed.
            self.counts.append(csr_matrix(section.counts.astype(np.float32) @ onto))
            # Roots with rows of length 1: likeness for finding candidates.
            length = np.sqrt(np.asarray(self.counts[-1].sum(axis=1)).ravel())
            self.roots.append((diags(1.0 / np.maximum(length, 1e-9)) @ self.counts[-1].sqrt()).tocsr())
        self.probes = [probe_rows(section) for section in sections]

    def compare(self, i: int, j: int) -> Evidence:
        """Return the evidence for two sections, by number."""
        pair = self.sections[i], self.sections[j]
        return Evidence(shared_totals(*pair), totals_spread(*pair), *self.shared(i, j), _picture_distance(*pair))

    def shared(self, i: int, j: int) -> tuple[float, int]:
        """Return the share of the smaller section's probes with a twin in the other, and the number of shared genes."""
        if self.counts[i].shape[0] > self.counts[j].shape[0]:
            i, j = j, i
        both = np.flatnonzero(self.present[i] & self.present[j])
        rows = self.probes[i]
        if len(both) < MIN_GENES or len(rows) == 0 or self.counts[j].shape[0] < _LEAST_SPOTS:
            return float("nan"), len(both)
        alike = (self.roots[i][rows] @ self.roots[j].T).toarray()
        few = min(_CANDIDATES, alike.shape[1])
        best = np.argpartition(-alike, few - 1, axis=1)[:, :few]
        probes = self.counts[i][rows].toarray()[:, both].astype(np.float64)
        candidates = self.counts[j][best.ravel()].toarray()[:, both].astype(np.float64)
        distance = twin_distance(probes[:, None, :], candidates.reshape(len(rows), few, -1))
        defined = np.isfinite(distance).any(axis=1)
        if defined.sum() < min(_LEAST_SPOTS, len(rows)) // 2:
            return float("nan"), len(both)
        return float((np.nanmin(distance[defined], axis=1) <= TWIN).mean()), len(both)


def _picture_distance(first: Fingerprint, second: Fingerprint) -> float:
    """Return the least share of differing bits over orientations; NaN where a picture is missing."""
    if not len(first.hashes) or not len(second.hashes):
        return float("nan")
    return float((first.hashes[0] != second.hashes).mean(axis=1).min())
