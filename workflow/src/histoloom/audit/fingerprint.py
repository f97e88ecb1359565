"""What a section is recognised by: its spots' totals, counts of a few probe spots, and a hash of its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import csr_matrix

from histoloom.genes import ENSEMBL_GENE, GeneTable, preferred_ids, to_ensembl
from histoloom.samples.section import open_section

PROBES = 32
"""Spots of a section whose counts are looked for in other sections; losing 1 % of all spots costs a third of one."""
HASH_SIDE = 16
_GRID = 64
_LEAST_CONTRAST = 4.0


@dataclass
class Fingerprint:
    """A section's content.

    `cohort`, `sample`, `patient`: what the sheet says it is. `pairs`: (n, 2) counts and detected genes of each spot
    with any: its mark that needs no gene names. `counts`: CSR (n, genes) of these spots. `genes`: names, canonical (see
    `canonical_names`). `hashes`: (8, bits) bool, one hash per right-angled orientation of the picture; empty without a
    picture.
    """

    cohort: str
    sample: str
    patient: str
    pairs: npt.NDArray[np.int64]
    counts: Any
    genes: list[str]
    hashes: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))

    @property
    def name(self) -> str:
        """``cohort/sample``."""
        return f"{self.cohort}/{self.sample}"


def canonical_names(names: Sequence[str], table: GeneTable | None = None) -> list[str]:
    """Return gene names in one spelling: Ensembl ids through a table where one is given, else upper case.

    `table`: names of all vintages (`histoloom.genes`); a name without an id there stays what it is.
    """
    ids: Sequence[str | None] = to_ensembl(names, table).ids if table else [None] * len(names)
    return [gene or _spelt(str(name)) for gene, name in zip(ids, names, strict=True)]


def _spelt(name: str) -> str:
    text = name.strip().upper()
    match = ENSEMBL_GENE.fullmatch(text)
    return match[1] if match and match[2] and not match[3] else text


def picture_hashes(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return a perceptual hash of a picture in its eight right-angled orientations.

    The picture is reduced to 64 x 64 grey values; the signs of its 16 x 16 lowest cosine frequencies about their median
    are the bits (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"). The brightness of
    the whole and small detail, which compression changes, do not enter. `image`: (h, w, 3) uint8, the whole slide.
    Returns bool (8, 255); empty (0, 0) for a picture without contrast, as of a section that is read without its slide.
    """
    grey = Image.fromarray(np.ascontiguousarray(image[..., :3])).convert("L")
    # Slides are stretched to a square: two pictures of one slide in other formats keep their proportions.
    small = np.asarray(grey.resize((_GRID, _GRID), Image.Resampling.BOX), dtype=np.float64)
    if small.std() < _LEAST_CONTRAST:
        return np.zeros((0, 0), dtype=bool)
    hashes = []
    for flipped in (small, small[:, ::-1]):
        for turn in range(4):
            low = dctn(np.rot90(flipped, turn), norm="ortho")[:HASH_SIDE, :HASH_SIDE].ravel()[1:]
            hashes.append(low > np.median(low))
    return np.asarray(hashes)


def read_fingerprint(path: str | Path, table: GeneTable | None = None) -> Fingerprint:
    """Read a section artefact as a fingerprint.

    `path`: h5ad of a section; it may have no genes (a slide without expression), then only its picture is compared.
    """
    section = open_section(path)
    genes = [str(name) for name in (preferred_ids(section.var) if table else section.var.index)]
    fingerprint = make_fingerprint(section.cohort, section.sample, section.patient, section.counts, genes, table)
    image = section.picture("lowres", "hires")
    if image is not None:
        fingerprint.hashes = picture_hashes(image)
    return fingerprint


def make_fingerprint(
    cohort: str, sample: str, patient: str, counts: Any, genes: Sequence[str], table: GeneTable | None = None
) -> Fingerprint:
    """Return the fingerprint of counts (n, genes), without a picture."""
    counts = csr_matrix(counts)
    counts.eliminate_zeros()
    totals = np.asarray(counts.sum(axis=1)).ravel().astype(np.int64)
    kept = totals > 0
    counts = counts[kept]
    detected = np.diff(counts.indptr).astype(np.int64)
    pairs = np.column_stack([totals[kept], detected])
    return Fingerprint(cohort, sample, patient, pairs, counts, canonical_names(genes, table))
