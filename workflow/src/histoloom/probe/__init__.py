"""HEST-bench's probe: how much of a gene panel a frozen embedding predicts by ridge regression.

A measure of encoders: `select_panel` says which genes are scored, `run_probe` predicts them for an experiment,
`probe_folds` scores any embedding that is at hand as arrays.
"""

from histoloom.probe.panel import select_panel, top_genes
from histoloom.probe.ridge import Probe, probe_folds
from histoloom.probe.run import run_probe

__all__ = ["Probe", "probe_folds", "run_probe", "select_panel", "top_genes"]
