"""histoloom: H&E histology and spatial transcriptomics, from raw downloads to tables.

One module or sub-package per stage of the workflow. A stage imports only from its left:
sources, samples, tiles, embeddings, references, labels, targets, folds, models, metrics, report.
The package never mentions Snakemake; `scripts/` adapts it to rules.

In a notebook: `read_predictions`, `read_labels`, `read_metrics`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histoloom.notebook import read_labels, read_metrics, read_predictions

__version__ = "0.1.0"
__all__ = ["read_labels", "read_metrics", "read_predictions"]


def __getattr__(name: str) -> Any:
    """Import the readers at their first use: the workflow imports this package at every start."""
    if name in __all__:
        from histoloom import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'histoloom' has no attribute '{name}'")
