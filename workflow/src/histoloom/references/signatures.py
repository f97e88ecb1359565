"""One expression signature per cell type: the mean of counts, or cell2location's regression.

Both return genes x types, types sorted: mean counts per cell at the average cell's depth; and a report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.checkpoints import Checkpoints
from histoloom.devices import lease_device

if TYPE_CHECKING:
    from anndata import AnnData


def depth_factors(totals: np.ndarray, types: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Estimate how deeply each batch was sequenced, type composition apart; types and batches are codes (n,).

    Fits ``log(mean total of type t in batch b) = a_t + d_b`` by least squares weighted with the number of cells, so
    that a batch that happens to hold large cells is not taken for a deep one, and returns exp(d). Within each set of
    batches that are linked by common types the weighted mean of d is 0.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n_types, n_batches = int(types.max()) + 1, int(batches.max()) + 1
    frame = pd.DataFrame({"t": types, "b": batches, "total": totals}).groupby(["t", "b"])["total"].agg(["mean", "size"])
    frame = frame[frame["mean"] > 0].reset_index()
    weight = np.sqrt(frame["size"].to_numpy(float))
    design = np.zeros((len(frame), n_types + n_batches))
    design[np.arange(len(frame)), frame["t"]] = 1
    design[np.arange(len(frame)), n_types + frame["b"]] = 1
    solution = np.linalg.lstsq(design * weight[:, None], np.log(frame["mean"]) * weight, rcond=None)[0]
    d = solution[n_types:]
    links = coo_matrix((np.ones(len(frame)), (frame["t"], n_types + frame["b"])), shape=(n_types + n_batches,) * 2)
    component = connected_components(links, directed=False)[1][n_types:]
    cells = np.bincount(batches, minlength=n_batches)
    for c in np.unique(component):
        inside = component == c
        d[inside] -= np.average(d[inside], weights=cells[inside])
    return np.exp(d)


def mean_signatures(reference: AnnData) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Mean of counts per type after dividing out each batch's depth; a batch is a donor within an assay.

    Within a type every cell counts alike: the choice of cells has already given the donors equal shares.
    """
    from scipy.sparse import csr_matrix, diags

    codes, types = pd.factorize(reference.obs["cell_type"].astype(str), sort=True)
    batch = pd.factorize(reference.obs["donor"].astype(str) + "\t" + reference.obs["assay"].astype(str), sort=True)[0]
    counts = csr_matrix(reference.X, dtype=np.float64)
    factors = depth_factors(np.asarray(counts.sum(axis=1)).ravel(), codes, batch)
    member = csr_matrix((1.0 / np.bincount(codes)[codes], (codes, np.arange(len(codes)))))
    means = (member @ diags(1.0 / factors[batch]) @ counts).toarray()
    depth = [round(float(f), 6) for f in (factors.min(), factors.max())]
    report = {"method": "mean", "batches": int(batch.max()) + 1, "depth_range": depth}
    return pd.DataFrame(means.T, index=reference.var_names, columns=list(types)), report


def regression_signatures(
    reference: AnnData, spec: Mapping[str, Any], *, seed: int, threads: int, checkpoints: Checkpoints
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Fit cell2location's negative-binomial regression: batch = donor, covariate = assay where there are several.

    Source: Kleshchevnikov et al. 2022, doi 10.1038/s41587-021-01139-4, Methods ("Reference cell type signatures").
    """
    from histoloom.references.fitting import device_options, history_summary, import_cell2location, trained

    model_class = import_cell2location().RegressionModel
    data = reference.copy()
    data.X = data.X.astype(np.float32)
    covariates = ["assay"] if data.obs["assay"].nunique() > 1 else []
    model_class.setup_anndata(
        adata=data, labels_key="cell_type", batch_key="donor", categorical_covariate_keys=covariates or None
    )
    batch_size = spec["batch_size"]
    with lease_device() as device, trained(
        lambda: model_class(data), seed=seed, threads=threads, epochs=int(spec["max_epochs"]), device=device,
        scratch=checkpoints.folder, name="signatures", artefact=checkpoints.identity, stages=("references",),
        what="signatures", batch_size=batch_size, train_size=1, lr=spec["lr"],
    ) as model:  # fmt: skip
        sampling = {"num_samples": spec["posterior_samples"], "batch_size": batch_size, **device_options(device)}
        fitted = model.export_posterior(data, sample_kwargs=sampling)
    types = [str(t) for t in fitted.uns["mod"]["factor_names"]]
    means = fitted.varm["means_per_cluster_mu_fg"][[f"means_per_cluster_mu_fg_{t}" for t in types]]
    signatures = pd.DataFrame(means.to_numpy(float), index=reference.var_names, columns=types)
    history = history_summary(model.history["elbo_train"].to_numpy(float).ravel())
    return signatures[sorted(types)], {"method": "regression", "covariates": covariates, **history}
