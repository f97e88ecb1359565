"""Deconvolution by non-negative least squares: fast, without priors, a baseline for costly fits."""

from __future__ import annotations

import numpy as np

from histoloom.labels.artefact import GroupLabels, LabelTask
from histoloom.labels.prepare import prepare, reconstruction


def label_nnls(task: LabelTask) -> GroupLabels:
    """Solve ``min ||D (y - S w)||, w >= 0`` for each spot and give w as proportions of cells.

    y are the spot's counts scaled to a sum of 1, S the signatures in counts per cell scaled by one number (their mean
    total), so that neither the spot's depth nor its number of cells matters while a type's RNA content does: w is a
    share of cells, not of RNA. With ``gene_weights: poisson`` D = 1 / sqrt(mean signature) gives every gene about the
    same variance; with ``none`` D = 1 and the few strongest genes decide.
    """
    from scipy.optimize import nnls

    data = prepare(task)
    signatures = data.signatures.to_numpy(float)
    scale = signatures.sum(axis=0).mean()
    basis = signatures / scale
    level = basis.mean(axis=1)
    positive = level[level > 0]
    weight = np.ones(len(level))
    if task.spec["gene_weights"] == "poisson" and len(positive):
        weight = 1.0 / np.sqrt(np.maximum(level, positive.min()))
    left = basis * weight[:, None]
    totals = np.asarray(data.counts.sum(axis=1)).ravel().astype(float)
    weights = np.zeros((len(totals), basis.shape[1]))
    for row, total in enumerate(totals):
        spot = np.asarray(data.counts[row].todense(), dtype=float).ravel() / total
        weights[row] = nnls(left, spot * weight)[0]
    sums = weights.sum(axis=1)
    solved = sums > 0
    shares = weights[solved] / sums[solved, None]
    obs = data.obs[solved].reset_index(drop=True)
    depth, kept = totals[solved], weights[solved]
    dropped = {
        sample: {**reasons, "no solution": int((~solved & (data.obs["sample"] == sample)).sum())}
        for sample, reasons in data.dropped.items()
    }

    def expected(rows: np.ndarray) -> np.ndarray:
        return np.asarray(kept[rows] @ basis.T * depth[rows, None])

    by_section, excess = reconstruction(data.counts[solved], expected, obs["sample"], task.seed)
    obs = obs.assign(excess_residual=excess)
    qc = {"genes": data.genes, "reconstruction_r": by_section}
    return GroupLabels(obs, shares, list(data.signatures.columns), "proportion", dropped=dropped, qc=qc)
