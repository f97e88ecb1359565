"""Single-cell references: read, choose cells and genes, compute one expression signature per cell type."""

from histoloom.references.build import build_reference

__all__ = ["build_reference"]
