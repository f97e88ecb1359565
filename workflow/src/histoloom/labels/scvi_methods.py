"""Deconvolution by stereoscope and DestVI, through scvi-tools, and by Tangram, through its own package.

All three learn from the reference's cells, not from signatures, and give proportions of cells.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_elements
from histoloom.errors import InputError
from histoloom.job_resources import mapping_mb
from histoloom.labels.artefact import GroupLabels, LabelTask
from histoloom.labels.fits import as_anndata, check_memory, fit_facts, fitted
from histoloom.labels.prepare import Prepared, prepare
from histoloom.references.fitting import import_scvi

if TYPE_CHECKING:
    from anndata import AnnData


def label_stereoscope(task: LabelTask) -> GroupLabels:
    """Fit stereoscope: a negative binomial model of the reference, then each spot as a mixture of it.

    Source: Andersson et al. 2020, doi 10.1038/s42003-020-01247-y, as scvi-tools has it.
    """
    external = import_scvi().external
    return _two_fits(task, external.RNAStereoscope, external.SpatialStereoscope)


def label_destvi(task: LabelTask) -> GroupLabels:
    """Fit DestVI: a conditional variational autoencoder of the reference, then each spot as a mixture of its decoder.

    Sections are batches of one fit. Source: Lopez et al. 2022, doi 10.1038/s41587-022-01272-8, as scvi-tools has it.
    """
    model = import_scvi().model
    return _two_fits(task, model.CondSCVI, model.DestVI, weight_obs=False, prior="mog")


def _two_fits(task: LabelTask, reference: Any, mixture: Any, **options: Any) -> GroupLabels:
    """Fit a model of scvi-tools to the reference, and another to the spots that starts from it."""
    data, cells, spots = _read(task)
    reference.setup_anndata(cells, labels_key="cell_type")
    mixture.setup_anndata(spots)
    with fitted(task, "reference", task.spec["reference_epochs"], lambda: reference(cells, **options)) as first:
        pass
    with fitted(task, "spots", task.spec["max_epochs"], lambda: mixture.from_rna_model(spots, first)) as model:
        return _labels(task, data, model.get_proportions(), model)


def label_tangram(task: LabelTask) -> GroupLabels:
    """Map the reference onto the spots by Tangram and normalise each spot's share of every type to a sum of 1.

    ``mode: clusters`` maps the mean of each type, ``cells`` every cell. Totals are normalised to the same depth, as its
    authors advise. Source: Biancalani et al. 2021, doi 10.1038/s41592-021-01264-7.
    """
    import scanpy as sc
    import tangram

    spec, (data, cells, spots) = task.spec, _read(task)
    sc.pp.normalize_total(cells)
    options: dict[str, Any] = {"mode": spec["mode"], "density_prior": "rna_count_based"}
    if spec["mode"] == "clusters":
        options["cluster_label"] = "cell_type"
    with contextlib.redirect_stdout(io.StringIO()):
        tangram.pp_adatas(cells, spots, genes=None, gene_to_lowercase=False)
        mapped = tangram.map_cells_to_space(
            cells, spots, device=task.device, num_epochs=int(spec["max_epochs"]), learning_rate=float(spec["lr"]),
            random_state=task.seed, verbose=False, **options,
        )  # fmt: skip
    shares = pd.DataFrame(np.asarray(mapped.X).T, columns=mapped.obs["cell_type"].astype(str))
    shares = shares.T.groupby(level=0).sum().T
    return _labels(task, data, shares.div(shares.sum(axis=1), axis=0), None)


def read_cells(task: LabelTask, data: Prepared) -> AnnData:
    """Return the reference's raw counts, float32 CSR (cells, genes of the fit), and ``cell_type``."""
    import anndata as ad
    from scipy.sparse import csr_matrix

    assert task.reference is not None
    parts = read_elements(task.reference, ["X", "obs"])
    counts = csr_matrix(parts["X"])[:, data.reference_columns].astype(np.float32)
    types = parts["obs"]["cell_type"].astype(str).to_numpy(object)
    kept = np.asarray(counts.sum(axis=1)).ravel() > 0
    if lost := sorted(set(types) - set(types[kept])):
        problem = f"no cell of type {', '.join(lost)} has a count on the {counts.shape[1]} genes of the fit."
        raise InputError(task.where, problem, "raise `max_genes`, or drop the type.", code="labels-type-without-counts")
    obs = pd.DataFrame({"cell_type": pd.Categorical(types[kept])}, index=[f"c{i}" for i in np.flatnonzero(kept)])
    return ad.AnnData(counts[kept], obs=obs, var=data.signatures[[]].copy())


def _read(task: LabelTask) -> tuple[Prepared, AnnData, AnnData]:
    """Return the prepared group, the reference's cells and the spots, if a fit of them fits into the memory."""
    data = prepare(task)
    cells, (n_obs, n_genes) = read_cells(task, data), data.counts.shape
    need = mapping_mb(n_obs, cells.n_obs, n_genes, cells.n_obs if task.spec.get("mode") == "cells" else 0)
    check_memory(task, data, need, f"{cells.n_obs} cells")
    return data, cells, as_anndata(data)


def _labels(task: LabelTask, data: Prepared, shares: pd.DataFrame, model: Any) -> GroupLabels:
    mean = shares[list(data.signatures.columns)].to_numpy(np.float64)
    facts = fit_facts(task, data, model)
    return GroupLabels(data.obs, mean, list(data.signatures.columns), "proportion", {}, data.dropped, facts)
