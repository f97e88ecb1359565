"""Gene signatures of the types, and the counts that spots and reference cells show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoloom_simulation.celltypes import LINEAGE_MARKERS, CellType, all_types, rna_content
from histoloom_simulation.options import Section, SimulationOptions, random_stream

Array = NDArray[Any]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


MITOCHONDRIAL = _words(
    """
    MT-ND1 MT-ND2 MT-ND3 MT-ND4 MT-ND4L MT-ND5 MT-ND6 MT-CO1 MT-CO2 MT-CO3 MT-ATP6 MT-ATP8 MT-CYB
    """
)
_SHARED = _words(
    """
    ACTB B2M GAPDH EEF1A1 TPT1 RPLP0 RPLP1 RPS2 RPS18 RPL13 RPL10 RPS27 RPL41 FTL FTH1 TMSB4X TMSB10 MALAT1
    NEAT1 HSP90AA1 HSP90AB1 HSPA8 UBC UBB PPIA ENO1 TUBA1B CFL1 PFN1 MYL6 ACTG1 EEF2 GNAS NACA HNRNPA1 YBX1
    SERF2 OAZ1 PTMA FAU ATP5F1E COX7C NDUFA4 UBA52 EIF1 H3-3B JUN FOS DUSP1 ZFP36 BTG1 CALM1 CALM2 SLC25A6
    PABPC1 HNRNPU SRSF3 TXN PRDX1 LDHA
    """
)
_GENERIC = _words(
    """
    AAMP ABCF1 ACADVL ADRM1 AKT1 ANAPC5 AP2M1 ARF1 ARPC2 ATF4 ATP1A1 ATP6V0B BANF1 BCAP31 BSG BUD31 CANX CAPNS1
    CCT3 CDC37 CHCHD2 CIRBP CLTA CNBP COPE CSDE1 CTNNB1 CYC1 DAD1 DDX5 DNAJB1 DYNLL1 EDF1 EIF3K EIF4A1 EIF5A ERH
    ESD EWSR1 FIS1 FKBP2 FUS G3BP1 GABARAP GDI2 GPX4 GSTP1 H2AZ2 HDGF HDLBP HMGB1 HNRNPK HSBP1 IDH2 ILF2 IMPDH2
    JTB KDELR1 KHDRBS1 LAMP1 LSM4 MAPK1 MCL1 MDH2 MIF MORF4L1 MRPL12 NCL NDUFB9 NHP2 NME1 NONO NPM1 OS9 P4HB
    PARK7 PCBP1 PEBP1 PGK1 PHB2 POLR2L PPP1CA PRDX2 PRKAR1A PSMA7 PSMB1 PSMD8 RAB7A RAC1 RAN RBM39 RHOA RNF7
    SAP18 SDHB SEC61B SELENOW SET SF3B2 SKP1 SLC25A3 SNRPD2 SOD1 SSB STAT3 STUB1 SUMO2 TALDO1 TARDBP TCEA1
    TIMM13 TMED9 TPI1 TRIM28 TUFM UBE2D3 UQCRH VCP VDAC1 XRCC6 YWHAB YWHAE YWHAZ ZNF706
    """
)


def gene_names(n_generic: int) -> list[str]:
    """Return the measured genes: markers, lineage markers, shared, mitochondrial and up to `n_generic` generic ones."""
    markers = [gene for cell_type in all_types() for gene in cell_type.markers]
    names = [*markers, *LINEAGE_MARKERS, *_SHARED, *MITOCHONDRIAL, *_GENERIC[:n_generic]]
    return sorted(dict.fromkeys(names), key=lambda name: random_key(name))


def random_key(name: str) -> str:
    """Return a fixed pseudo-random key, so that no code can depend on the order of genes."""
    import hashlib

    return hashlib.sha256(name.encode()).hexdigest()


def signatures(seed: int, genes: list[str]) -> Array:
    """Return expression profiles of all types, float64 (types, genes), each summing to 1.

    A type's own markers hold about an eighth of its RNA; shared genes differ a little between types.
    """
    types = all_types()
    column = {gene: j for j, gene in enumerate(genes)}
    base = np.zeros(len(genes))
    rng = random_stream(seed, "expression")
    for names, mean in ((_SHARED, 12.0), (MITOCHONDRIAL, 9.0), (_GENERIC, 1.6)):
        present = [column[g] for g in names if g in column]
        base[present] = mean * rng.lognormal(0, 0.7, len(names))[: len(present)]
    table = base * rng.lognormal(0, 0.25, (len(types), len(genes)))
    for i, cell_type in enumerate(types):
        own = random_stream(seed, "markers", cell_type.name)
        for j, level in zip([column[g] for g in cell_type.markers], own.lognormal(2.5, 0.7, 99), strict=False):
            table[:, j] += 0.03 * level
            table[i, j] += level
    known = [t.name for t in types]
    for gene, holders in LINEAGE_MARKERS.items():
        level = random_stream(seed, "lineage", gene).lognormal(1.8, 0.4, len(known))
        table[:, column[gene]] += np.where([n in holders for n in known], level, 0.1)
    return table / table.sum(axis=1, keepdims=True)


def negative_binomial(rng: np.random.Generator, mean: Array, dispersion: float) -> Array:
    """Draw gamma-Poisson counts with variance ``mean + dispersion * mean**2``; int32, shape of `mean`."""
    shape = 1.0 / dispersion
    return rng.poisson(mean * rng.gamma(shape, dispersion, mean.shape)).astype(np.int32)


def depth_of(section: Section, ratio: float) -> float:
    """Return capture relative to the deepest patient: 1 for the sheet's first patient, 1/ratio for its last."""
    return float(ratio**-section.fraction)


def bleed(mean: Array, centres: Array, pitch_um: float, share: float) -> Array:
    """Move a share of each spot's transcripts to the neighbours within 1.5 pitches; totals of the section are kept.

    Parameters
    ----------
    mean
        Expected counts (spots, genes).
    centres
        Spot centres, um (spots, 2).
    pitch_um
        Distance between spots.
    share
        What leaves a spot, 0 to 1.
    """
    from scipy.spatial import cKDTree

    if share <= 0:
        return mean
    weights = cKDTree(centres).sparse_distance_matrix(cKDTree(centres), 1.5 * pitch_um, output_type="coo_matrix")
    near = weights.tocsr()
    near.data = np.exp(-0.5 * (near.data / (0.6 * pitch_um)) ** 2)
    near.setdiag(0)
    near.eliminate_zeros()
    total = np.asarray(near.sum(axis=1)).ravel()
    leaving = np.where(total > 0, share, 0.0)
    received = near.T @ (mean * (leaving / np.maximum(total, 1e-12))[:, None])
    return mean * (1 - leaving)[:, None] + received


def spot_counts(
    spec: Mapping[str, Any],
    section: Section,
    options: SimulationOptions,
    types: list[CellType],
    cells: Array,
    centres: Array,
) -> Array:
    """Return counts of a section, int32 (spots, genes).

    Parameters
    ----------
    spec
        Validated cohort entry: seed, umi_per_cell, genes, dispersion.
    section, options
        The section and the cohort's options.
    types
        The tissue's types, the columns of `cells`.
    cells
        Cells under each spot (spots, types).
    centres
        Spot centres, um (spots, 2).
    """
    seed = int(spec["seed"])
    genes = gene_names(int(spec["generic_genes"]))
    profile = signatures(seed, genes)
    names = [t.name for t in all_types()]
    rows = [names.index(t.name) for t in types]
    content = np.array([rna_content(t, options.rna_content) for t in types])
    local = profile[rows].copy()
    shift = random_stream(seed, "patient expression", section.patient).normal(0, 1, local.shape)
    local *= np.exp(options.patient_expression * shift)
    local /= local.sum(axis=1, keepdims=True)
    mean = (cells * content) @ local * float(spec["umi_per_cell"])
    mean += 0.02 * mean.mean(axis=0)  # ambient RNA: an empty spot still shows a little
    mean = bleed(mean, centres, section.pitch_um, options.spot_bleed)
    mean *= np.exp(options.platform_effect * random_stream(seed, "platform").normal(0, 1, len(genes)))
    rng = random_stream(seed, "counts", section.sample)
    capture = rng.lognormal(0, 0.2, len(mean)) * depth_of(section, options.depth_ratio)
    counts = negative_binomial(rng, mean * capture[:, None], float(spec["dispersion"]))
    if options.zero_umi_spot and section.rank == section.n_patients - 1 and section.order == 0:
        counts[len(counts) // 2] = 0
    return counts
