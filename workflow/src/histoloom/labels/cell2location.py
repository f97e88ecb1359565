"""Deconvolution by cell2location, through its public API."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.checkpoints import Checkpoint, resume_identity
from histoloom.devices import device_kind
from histoloom.errors import InputError
from histoloom.job_resources import advice_when_too_large, deconvolution_mb
from histoloom.labels.artefact import GroupLabels, LabelTask
from histoloom.labels.prepare import Prepared, prepare, reconstruction
from histoloom.obs_keys import obs_keys
from histoloom.references.fitting import device_options, fit_settings, history_summary, import_cell2location

logger = logging.getLogger(__name__)
_STATISTICS = {"mean": "means", "q05": "q05", "std": "stds"}  # layer: name in the exported posterior


def label_cell2location(task: LabelTask) -> GroupLabels:
    """Fit cell2location to a group of sections; posterior mean abundance (cells) with layers q05 and std.

    Sections are batches of one fit. The prior mean of cells per spot is ``n_cells_per_location``; abundance is linear
    in it. Source: Kleshchevnikov et al. 2022, doi 10.1038/s41587-021-01139-4.
    """
    data, spec = prepare(task), task.spec
    _check_memory(data, task)
    n_cells, n_cells_from = expected_cells(task, data.obs)
    model, visium = fit(data, task, n_cells)
    loss = model.history["elbo_train"].to_numpy(float).ravel()
    if not np.isfinite(loss).all():
        problem = f"the loss is not finite after epoch {int(np.argmin(np.isfinite(loss)))}."
        raise InputError(task.where, problem, "lower `lr`.", code="cell2location-loss")
    types = list(data.signatures.columns)
    statistics = {layer: _statistic(visium, name, types) for layer, name in _STATISTICS.items()}
    posterior = model.samples["post_sample_means"]

    def expected(rows: np.ndarray) -> np.ndarray:
        return np.asarray(model.module.model.compute_expected(posterior, model.adata_manager, ind_x=rows)["mu"])

    by_section, excess = reconstruction(data.counts, expected, data.obs["sample"], task.seed)
    elbo = history_summary(loss, float(spec["elbo_tolerance"]))
    qc: dict[str, Any] = {
        "genes": data.genes,
        "elbo": elbo,
        "passed": elbo["converged"],
        "demo_fit": int(spec["max_epochs"]) < int(spec["demo_below_epochs"]),
        "reconstruction_r": by_section,
        "mean_total_abundance": round(float(statistics["mean"].sum(axis=1).mean()), 6),
        "n_cells_per_location": n_cells,
        "n_cells_from": n_cells_from,
    }
    if not elbo["converged"]:
        logger.warning(
            "%s: the ELBO still falls by %s over the last tenth of %d epochs (limit %s): raise max_epochs",
            task.where, elbo["fall_last_tenth"], len(loss), spec["elbo_tolerance"],
        )  # fmt: skip
    mean = statistics.pop("mean")
    return GroupLabels(data.obs.assign(excess_residual=excess), mean, types, "cells", statistics, data.dropped, qc)


def _check_memory(data: Prepared, task: LabelTask) -> None:
    """Refuse a fit that would die of its size; where the grant is unknown, it is started."""
    (n_obs, n_genes), n_types = data.counts.shape, data.signatures.shape[1]
    need = deconvolution_mb(n_obs, n_genes, n_types, int(task.spec["posterior_samples"]))
    logger.info("%s: %d spots x %d genes x %d types, about %.0f MB", task.where, n_obs, n_genes, n_types, need)
    advice = None if task.granted_mb is None else advice_when_too_large(need, task.granted_mb, n_obs, n_genes)
    if advice is not None:
        raise InputError(task.where, *advice, code="labels-memory")


def expected_cells(task: LabelTask, obs: pd.DataFrame) -> tuple[float, str]:
    """Return the prior mean of cells per spot of a group, and where it comes from in words.

    With ``n_cells_per_location: nuclei`` it is the median of the nuclei counted under the spots of `obs`. A nuclei
    counter that misses cells makes the prior low, and with it every abundance: shares and correlations stay.
    """
    asked, fallback = task.spec["n_cells_per_location"], float(task.spec["n_cells_fallback"])
    if asked != "nuclei":
        return float(asked), "config"
    if not task.nuclei:
        return fallback, "fallback: the sections are read without slides"
    counted = []
    for path in task.nuclei:
        sample, table = str(read_metadata(path)["sample"]), pd.read_parquet(path)
        labelled = obs.loc[obs["sample"] == sample, "obs_id"]
        counted.append(table.set_index(table["obs_id"].astype(str))["nuclei"].reindex(labelled).dropna())
    nuclei = pd.concat(counted)
    median = float(nuclei.median()) if len(nuclei) else 0.0
    if median <= 0:
        reason = f"median of 0 nuclei under {len(nuclei)} spots"
        logger.warning("%s: %s, %g cells are expected", task.where, reason, fallback)
        return fallback, f"fallback: {reason}"
    logger.info("%s: %g cells per spot are expected, the median of nuclei under %d", task.where, median, len(nuclei))
    return median, f"median of nuclei under {len(nuclei)} spots"


def fit(data: Prepared, task: LabelTask, n_cells: float) -> tuple[Any, Any]:
    """Return the trained model and its AnnData with the posterior; a fit goes on from an earlier try's checkpoint."""
    import anndata as ad

    spec: Mapping[str, Any] = task.spec
    model_class = import_cell2location().Cell2location
    obs = data.obs.set_axis(obs_keys(data.obs["sample"], data.obs["obs_id"]), axis=0)[["sample"]].astype("category")
    visium = ad.AnnData(data.counts.astype(np.float32), obs=obs, var=data.signatures[[]].copy())
    device = task.device
    identity = resume_identity(
        task.identity["sha256"], ("labels", "references", "genes"), device=device_kind(device), threads=task.threads
    )
    checkpoint, epochs = Checkpoint(task.scratch, "fit", identity), int(spec["max_epochs"])
    with fit_settings(
        seed=task.seed, threads=task.threads, epochs=epochs, checkpoint=checkpoint, device=device, what=task.group
    ) as train_options:
        model_class.setup_anndata(adata=visium, batch_key="sample")
        alpha, batch_size, lr = float(spec["detection_alpha"]), spec["batch_size"], float(spec["lr"])
        model = model_class(visium, cell_state_df=data.signatures, N_cells_per_location=n_cells, detection_alpha=alpha)
        try:
            with checkpoint:
                model.train(max_epochs=epochs, batch_size=batch_size, train_size=1, lr=lr, **train_options)
        except ValueError as error:
            # How pyro reports parameters that have left the numbers.
            if "to satisfy the constraint" not in str(error):
                raise
            problem = "the fit diverged: its parameters are not finite."
            raise InputError(task.where, problem, "lower `lr`.", code="cell2location-diverged") from error
        sampling = {"num_samples": int(spec["posterior_samples"]), "batch_size": visium.n_obs, **device_options(device)}
        return model, model.export_posterior(visium, sample_kwargs=sampling)


def _statistic(visium: Any, name: str, types: list[str]) -> np.ndarray:
    frame = visium.obsm[f"{name}_cell_abundance_w_sf"]
    return np.asarray(frame[[f"{name}cell_abundance_w_sf_{t}" for t in types]].to_numpy(), dtype=float)
