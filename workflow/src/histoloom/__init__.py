"""histoloom: H&E histology and spatial transcriptomics, from raw downloads to tables.

One module or sub-package per stage of the workflow. A stage imports only from its left:
sources, samples, tiles, embeddings, references, labels, targets, folds, models, metrics, report.
The package never mentions Snakemake; `scripts/` adapts it to rules.
"""

__version__ = "0.1.0"
