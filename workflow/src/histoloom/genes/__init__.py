"""Gene names meet here: one canonical key, the Ensembl id, through a pinned table (light at import)."""

from histoloom.genes.table import GeneMapping, GeneTable, load_gene_table, to_ensembl

__all__ = ["GeneMapping", "GeneTable", "load_gene_table", "to_ensembl"]
