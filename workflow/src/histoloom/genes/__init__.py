"""Matching of gene names: one canonical key, the Ensembl id, through a pinned table (light at import)."""

from histoloom.genes.ensembl import ENSEMBL_GENE
from histoloom.genes.matching import BY_ID, BY_NAME, GeneKeys, GeneMatcher, preferred_ids
from histoloom.genes.table import GeneMapping, GeneTable, load_gene_table, to_ensembl

__all__ = [
    "BY_ID",
    "BY_NAME",
    "ENSEMBL_GENE",
    "GeneKeys",
    "GeneMapping",
    "GeneMatcher",
    "GeneTable",
    "load_gene_table",
    "preferred_ids",
    "to_ensembl",
]
