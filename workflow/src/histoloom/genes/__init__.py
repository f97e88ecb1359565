"""Gene names meet here: one canonical key, the Ensembl id, through a pinned table (light at import)."""

from histoloom.genes.meet import BY_ID, BY_NAME, GeneKeys, Meeting, own_names
from histoloom.genes.table import GeneMapping, GeneTable, load_gene_table, to_ensembl

__all__ = [
    "BY_ID",
    "BY_NAME",
    "GeneKeys",
    "GeneMapping",
    "GeneTable",
    "Meeting",
    "load_gene_table",
    "own_names",
    "to_ensembl",
]
