"""The cell types: how a nucleus of each looks, where it lives, and which genes it marks.

Sizes are those of a textbook on histology, in um: a resting lymphocyte's nucleus is about 6.5 um, a carcinoma's
10-14 um and uneven, a fibroblast's a spindle of 15 x 3.5 um.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from histoloom_simulation.options import Section, SimulationOptions

REGIONS = ("glass", "stroma", "tumour", "fat", "immune", "gland", "vessel")
GLASS, STROMA, TUMOUR, FAT, IMMUNE, GLAND, VESSEL = range(7)
REGION_LABELS = {  # the pathologist's words in her2st's tables
    STROMA: "connective tissue",
    TUMOUR: "invasive cancer",
    FAT: "adipose tissue",
    IMMUNE: "immune infiltrate",
    GLAND: "breast glands",
    VESSEL: "undetermined",
}
REFERENCE_ONLY, TISSUE_ONLY, PATIENT_ONLY = "keratinocyte", "smooth_muscle", "pericyte"
TWINS = ("T_cell", "B_cell")
PAIRS = {
    "attracting": ("plasma_cell", "macrophage"),
    "repelling": ("mast_cell", "NK_cell"),
    "independent": ("macrophage", "mast_cell"),
}


@dataclass(frozen=True)
class CellType:
    """One type of cell.

    Attributes
    ----------
    length_um, width_um
        Axes of the nucleus, um; `size_cv` is the spread of both.
    stain
        Haematoxylin of the nucleus, optical density.
    vesicular
        0 = dense and even, 1 = pale inside a dark membrane.
    clumps
        Contrast of the chromatin's texture.
    nucleolus
        Whether one is drawn.
    bend
        Curvature of the nucleus, 1/um (kidney and wavy shapes).
    body_um, body_eosin, body_haem
        Radius of the cytoplasm, um, and its stain (optical density); `offset_um` moves the nucleus off its centre.
    density
        Cells per um2 by region; `scattered` types ignore regions and use ``everywhere``.
    rna
        Relative RNA content, scaled by the effect.
    markers
        Genes that mark the type.
    """

    name: str
    length_um: float
    width_um: float
    stain: float
    rna: float
    markers: tuple[str, ...]
    size_cv: float = 0.08
    vesicular: float = 0.0
    clumps: float = 0.15
    nucleolus: bool = False
    bend: float = 0.0
    body_um: float = 0.0
    body_eosin: float = 0.0
    body_haem: float = 0.0
    offset_um: float = 0.0
    everywhere: float = 0.0
    density: Mapping[int, float] = field(default_factory=dict)


def _genes(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# The order is not alphabetical on purpose: code that assumes sorted types fails here.
_TYPES = (
    CellType("cancer_epithelial", 11.5, 9.0, 0.95, 1.0,
             _genes("ERBB2 EPCAM KRT19 KRT8 KRT18 MUC1 GRB7 CDH1 TFF3 ESR1 KRT7 STARD3 S100A14 CLDN4 AGR2"),
             size_cv=0.17, vesicular=0.45, clumps=0.28, nucleolus=True, body_um=7.6, body_eosin=0.10, body_haem=0.09,
             density={TUMOUR: 0.0150}),
    CellType("T_cell", 6.6, 6.2, 1.45, 0.0,
             _genes("CD3D CD3E CD2 IL7R TRAC CD8A CD4 CD247 LCK IL32 CCL5 TRBC2 CD27"),
             size_cv=0.06, clumps=0.12, body_um=4.0, body_haem=0.05,
             density={IMMUNE: 0.0300, STROMA: 0.0008, TUMOUR: 0.0004}),
    CellType("fibroblast", 15.0, 3.6, 1.05, 0.45,
             _genes("COL1A1 COL1A2 COL3A1 DCN LUM FAP PDGFRA FBLN1 SFRP2 POSTN COL6A3 MMP2 CTSK"),
             size_cv=0.12, clumps=0.15, bend=0.010, density={STROMA: 0.0030, IMMUNE: 0.0008, VESSEL: 0.0008}),
    CellType("adipocyte", 8.0, 2.4, 1.2, 0.5,
             _genes("ADIPOQ PLIN1 FABP4 LEP CIDEC LPL PLIN4 GPD1 AQP7 CD36 TUSC5 ADH1B")),
    CellType("B_cell", 8.2, 7.8, 0.95, 0.05,
             _genes("MS4A1 CD79A CD79B CD19 BANK1 TCL1A PAX5 FCRL5 CD22 BLK VPREB3 CD37"),
             size_cv=0.06, vesicular=0.5, clumps=0.2, body_um=5.0, body_haem=0.04),
    CellType("endothelial", 11.0, 3.0, 1.2, 0.4,
             _genes("PECAM1 VWF CDH5 CLDN5 PLVAP EGFL7 RAMP2 ENG ESAM KDR TIE1 ECSCR"),
             size_cv=0.1, bend=0.010, density={STROMA: 0.0008, FAT: 0.0002, TUMOUR: 0.0002}),
    CellType("plasma_cell", 7.4, 6.8, 1.25, 0.85,
             _genes("IGKC JCHAIN MZB1 IGHG1 XBP1 DERL3 SDC1 IGHA1 TNFRSF17 FKBP11 SSR4 PRDX4"),
             size_cv=0.06, clumps=0.5, body_um=6.4, body_eosin=0.12, body_haem=0.34, offset_um=2.4, everywhere=0.00036),
    CellType("luminal_epithelial", 8.0, 6.0, 1.2, 0.8,
             _genes("KRT15 ELF5 LTF SLPI KIT SCGB2A2 PIP MUCL1 ANKRD30A SCGB1D2 ALDH1A3 PROM1"),
             size_cv=0.06, clumps=0.15, body_um=6.5, body_eosin=0.14, body_haem=0.04),
    CellType("macrophage", 9.6, 6.0, 0.75, 0.7,
             _genes("CD68 CD163 C1QA C1QB C1QC LYZ MARCO MSR1 FCER1G TYROBP AIF1 APOE SPP1"),
             size_cv=0.1, vesicular=0.35, bend=0.07, body_um=9.0, body_eosin=0.06, body_haem=0.02,
             offset_um=2.5, everywhere=0.00034),
    CellType("mast_cell", 6.8, 6.2, 0.9, 0.6,
             _genes("TPSAB1 TPSB2 CPA3 MS4A2 HDC GATA2 HPGDS SLC18A2 RGS13 ADCYAP1 TPSD1"),
             size_cv=0.06, body_um=6.4, body_eosin=0.35, body_haem=0.62, everywhere=0.00036),
    CellType("NK_cell", 10.2, 6.4, 1.5, 0.15,
             _genes("NKG7 GNLY KLRD1 KLRF1 PRF1 GZMB NCAM1 FGFBP2 XCL1 XCL2 SPON2 CTSW"),
             size_cv=0.06, clumps=0.1, bend=-0.03, everywhere=0.00034),
    CellType("pericyte", 15.0, 3.6, 1.05, 0.45,  # drawn like a fibroblast: only its RNA tells
             _genes("RGS5 PDGFRB NOTCH3 CSPG4 KCNJ8 ABCC9 HIGD1B COX4I2 NDUFA4L2 MCAM"),
             size_cv=0.12, clumps=0.15, bend=0.010, everywhere=0.00045),
    CellType(TISSUE_ONLY, 20.0, 3.2, 0.95, 0.55,
             _genes("ACTA2 MYH11 DES CNN1 LMOD1 SYNPO2 ACTG2 PLN MYOCD SMTN TAGLN"),
             size_cv=0.1, density={STROMA: 0.0055, VESSEL: 0.0020}),
    CellType(REFERENCE_ONLY, 9.0, 7.0, 1.0, 0.6,
             _genes("KRT5 KRT14 KRT1 KRT10 KRT6A SFN DSG3 DSC3 TP63 SBSN KRTDAP"),
    ),
)  # fmt: skip
LINEAGE_MARKERS = {
    "PTPRC": ("T_cell", "B_cell", "plasma_cell", "macrophage", "mast_cell", "NK_cell"),
    "CORO1A": ("T_cell", "B_cell", "macrophage", "NK_cell"),
    "CD74": ("B_cell", "macrophage"),
    "CST7": ("T_cell", "NK_cell"),
    "SRGN": ("mast_cell", "macrophage", "NK_cell", "T_cell"),
    "KRT23": ("cancer_epithelial", "luminal_epithelial", REFERENCE_ONLY),
    "ELF3": ("cancer_epithelial", "luminal_epithelial"),
    "SPARC": ("fibroblast", "pericyte", "endothelial", TISSUE_ONLY),
    "CALD1": ("fibroblast", "pericyte", TISSUE_ONLY),
    "IGFBP7": ("endothelial", "pericyte", TISSUE_ONLY),
    "VIM": ("fibroblast", "endothelial", "pericyte", "macrophage", "T_cell"),
}


def all_types() -> tuple[CellType, ...]:
    """Return every type the generator knows, in its own order."""
    return _TYPES


def tissue_types(options: SimulationOptions) -> list[CellType]:
    """Return the types that live in the tissue, as the effects say how they look."""
    kept = [t for t in _TYPES if t.name != REFERENCE_ONLY and (options.tissue_only_type or t.name != TISSUE_ONLY)]
    if options.same_morphology:
        first = next(t for t in kept if t.name == TWINS[0])
        kept = [_drawn_like(t, first) if t.name == TWINS[1] else t for t in kept]
    return kept


def _drawn_like(cell_type: CellType, model: CellType) -> CellType:
    """Return a type that keeps its own life and RNA but looks like another."""
    return replace(
        model,
        name=cell_type.name,
        rna=cell_type.rna,
        markers=cell_type.markers,
        everywhere=cell_type.everywhere,
        density=cell_type.density,
    )


def reference_types(options: SimulationOptions) -> list[str]:
    """Return the names of the reference's types, in an order that is neither the tissue's nor alphabetical."""
    names = [
        t.name for t in _TYPES if t.name != TISSUE_ONLY and (options.reference_only_type or t.name != REFERENCE_ONLY)
    ]
    return names[1::2] + names[0::2]


def rna_content(cell_type: CellType, ratio: float) -> float:
    """Return RNA molecules of a cell relative to the poorest type: from 1 to `ratio`."""
    return float(ratio**cell_type.rna)


def patient_only_level(section: Section) -> float:
    """Return the factor on the patient-only type's density: 0 for one patient, up to 3, not in the sheet's order."""
    n = section.n_patients
    order = [*range(1, n, 2), *range(0, n, 2)]
    return 3.0 * order[section.rank] / max(n - 1, 1) if n > 1 else 1.5
