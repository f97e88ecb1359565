"""What an Ensembl gene id looks like."""

import re

ENSEMBL_GENE = re.compile(r"(ENS[A-Z]{0,6}G[0-9]{11})(\.[0-9]+)?(_PAR_Y)?")
"""The stable id, its version, and the mark of a pseudoautosomal copy; use `fullmatch`."""
