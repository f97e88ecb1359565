"""Deconvolution by stereoscope and DestVI, through scvi-tools, and by Tangram, through its own package.

All three learn from the reference's cells, not from signatures, and give proportions of cells.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_elements
from histoloom.checkpoints import Checkpoint, resume_identity
from histoloom.devices import device_kind
from histoloom.errors import InputError
from histoloom.job_resources import advice_when_too_large, mapping_mb
from histoloom.labels.artefact import GroupLabels, LabelTask
from histoloom.labels.prepare import Prepared, prepare
from histoloom.obs_keys import obs_keys
from histoloom.references.fitting import fit_settings, history_summary, import_scvi

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


def label_stereoscope(task: LabelTask) -> GroupLabels:
    """Fit stereoscope: a negative binomial model of the reference, then each spot as a mixture of it.

    Source: Andersson et al. 2020, doi 10.1038/s42003-020-01247-y, as scvi-tools has it.
    """
    scvi = import_scvi()
    data, spec = prepare(task), task.spec
    cells, spots = read_cells(task, data), as_anndata(data)
    check_memory(task, data, cells)
    reference, mixture = scvi.external.RNAStereoscope, scvi.external.SpatialStereoscope
    reference.setup_anndata(cells, labels_key="cell_type")
    mixture.setup_anndata(spots)
    first = _train(task, "reference", spec["reference_epochs"], lambda: reference(cells))
    model = _train(task, "spots", spec["max_epochs"], lambda: mixture.from_rna_model(spots, first))
    return _labels(task, data, model.get_proportions(), model)


def label_destvi(task: LabelTask) -> GroupLabels:
    """Fit DestVI: a conditional variational autoencoder of the reference, then each spot as a mixture of its decoder.

    Sections are batches of one fit. Source: Lopez et al. 2022, doi 10.1038/s41587-022-01272-8, as scvi-tools has it.
    """
    scvi = import_scvi()
    data, spec = prepare(task), task.spec
    cells, spots = read_cells(task, data), as_anndata(data)
    check_memory(task, data, cells)
    reference, mixture = scvi.model.CondSCVI, scvi.model.DestVI
    reference.setup_anndata(cells, labels_key="cell_type")
    mixture.setup_anndata(spots)
    first = _train(task, "reference", spec["reference_epochs"], lambda: reference(cells, weight_obs=False, prior="mog"))
    model = _train(task, "spots", spec["max_epochs"], lambda: mixture.from_rna_model(spots, first))
    return _labels(task, data, model.get_proportions(), model)


def label_tangram(task: LabelTask) -> GroupLabels:
    """Map the reference onto the spots by Tangram and normalise each spot's share of every type to a sum of 1.

    ``mode: clusters`` maps the mean of each type, ``cells`` every cell. Totals are normalised to the same depth, as its
    authors advise. Source: Biancalani et al. 2021, doi 10.1038/s41592-021-01264-7.
    """
    import scanpy as sc
    import tangram

    data, spec = prepare(task), task.spec
    cells, spots = read_cells(task, data), as_anndata(data)
    check_memory(task, data, cells)
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


def as_anndata(data: Prepared) -> AnnData:
    """Return the spots' raw counts, float32 CSR, with the section as category ``sample``."""
    import anndata as ad

    obs = data.obs.set_axis(obs_keys(data.obs["sample"], data.obs["obs_id"]), axis=0)[["sample"]].astype("category")
    return ad.AnnData(data.counts.astype(np.float32), obs=obs, var=data.signatures[[]].copy())


def check_memory(task: LabelTask, data: Prepared, cells: AnnData) -> None:
    """Refuse a fit that would die of its size; where the grant is unknown, it is started."""
    (n_obs, n_genes), n_cells = data.counts.shape, cells.n_obs
    columns = n_cells if task.spec.get("mode") == "cells" else 0
    need = mapping_mb(n_obs, n_cells, n_genes, columns)
    logger.info("%s: %d spots, %d cells, %d genes, about %.0f MB", task.where, n_obs, n_cells, n_genes, need)
    advice = None if task.granted_mb is None else advice_when_too_large(need, task.granted_mb, n_obs, n_genes)
    if advice is not None:
        raise InputError(task.where, *advice, code="labels-memory")


def _train(task: LabelTask, step: str, epochs: int, make: Callable[[], Any]) -> Any:
    """Make and train a model of scvi-tools; one that an earlier try has begun goes on from its checkpoint."""
    stages, threads = ("labels", "references", "genes"), task.threads
    identity = resume_identity(task.identity["sha256"], stages, device=device_kind(task.device), threads=threads)
    checkpoint = Checkpoint(task.scratch, step, identity)
    with fit_settings(
        seed=task.seed, threads=threads, epochs=epochs, checkpoint=checkpoint, device=task.device,
        what=f"{task.group}, {step}", pyro=False,
    ) as options:  # fmt: skip
        model = make()
        batch_size = int(task.spec["batch_size"])
        with checkpoint:
            model.train(max_epochs=epochs, batch_size=batch_size, lr=task.spec["lr"], **options)
    return model


def _labels(task: LabelTask, data: Prepared, shares: pd.DataFrame, model: Any) -> GroupLabels:
    spec, types = task.spec, list(data.signatures.columns)
    qc: dict[str, Any] = {
        "genes": data.genes,
        "demo_fit": int(spec["max_epochs"]) < int(spec["demo_below_epochs"]),
    }
    if model is not None:
        loss = model.history["elbo_train"].to_numpy(float).ravel()
        if not np.isfinite(loss).all():
            problem = f"the loss is not finite after epoch {int(np.argmin(np.isfinite(loss)))}."
            raise InputError(task.where, problem, "lower `lr`.", code="labels-loss")
        qc["elbo"] = history_summary(loss, float(spec["elbo_tolerance"]))
        qc["passed"] = qc["elbo"]["converged"]
    mean = shares[types].to_numpy(np.float64)
    return GroupLabels(data.obs, mean, types, "proportion", {}, data.dropped, qc)
