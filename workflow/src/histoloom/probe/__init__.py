"""HEST-bench's probe: how much of a gene panel a frozen embedding predicts by ridge regression.

A measure of encoders, not a model of the workflow: `probe_folds` scores any embedding over patient folds, `probe_table`
lays the scores beside published rows.
"""

from histoloom.probe.ridge import Probe, probe_folds, top_genes
from histoloom.probe.table import probe_table

__all__ = ["Probe", "probe_folds", "probe_table", "top_genes"]
