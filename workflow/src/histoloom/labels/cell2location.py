"""Deconvolution by cell2location, through its public API."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.job_resources import deconvolution_mb
from histoloom.labels.artefact import GroupLabels, LabelTask
from histoloom.labels.fits import as_anndata, check_memory, fit_facts, fitted
from histoloom.labels.prepare import Prepared, prepare, reconstruction
from histoloom.references.fitting import device_options, import_cell2location

logger = logging.getLogger(__name__)
_STATISTICS = {"mean": "means", "q05": "q05", "std": "stds"}  # layer: name in the exported posterior


def label_cell2location(task: LabelTask) -> GroupLabels:
    """Fit cell2location to a group of sections; posterior mean abundance (cells) with layers q05 and std.

    Sections are batches of one fit. The prior mean of cells per spot is ``n_cells_per_location``; abundance is linear
    in it. Source: Kleshchevnikov et al. 2022, doi 10.1038/s41587-021-01139-4.
    """
    data = prepare(task)
    (n_obs, n_genes), n_types = data.counts.shape, data.signatures.shape[1]
    need = deconvolution_mb(n_obs, n_genes, n_types, int(task.spec["posterior_samples"]))
    check_memory(task, data, need, f"{n_types} types")
    n_cells, n_cells_from = expected_cells(task, data.obs)
    model, visium = fit(data, task, n_cells)
    facts = fit_facts(task, data, model)
    types = list(data.signatures.columns)
    statistics = {layer: _statistic(visium, name, types) for layer, name in _STATISTICS.items()}
    posterior = model.samples["post_sample_means"]

    def expected(rows: np.ndarray) -> np.ndarray:
        return np.asarray(model.module.model.compute_expected(posterior, model.adata_manager, ind_x=rows)["mu"])

    by_section, excess = reconstruction(data.counts, expected, data.obs["sample"], task.seed)
    qc: dict[str, Any] = {
        **facts,
        "reconstruction_r": by_section,
        "mean_total_abundance": round(float(statistics["mean"].sum(axis=1).mean()), 6),
        "n_cells_per_location": n_cells,
        "n_cells_from": n_cells_from,
    }
    mean = statistics.pop("mean")
    return GroupLabels(data.obs.assign(excess_residual=excess), mean, types, "cells", statistics, data.dropped, qc)


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
    model_class, spec, spots = import_cell2location().Cell2location, task.spec, as_anndata(data)

    def make() -> Any:
        model_class.setup_anndata(adata=spots, batch_key="sample")
        options = {"N_cells_per_location": n_cells, "detection_alpha": float(spec["detection_alpha"])}
        return model_class(spots, cell_state_df=data.signatures, **options)

    samples = {"num_samples": int(spec["posterior_samples"]), "batch_size": spots.n_obs, **device_options(task.device)}
    try:
        with fitted(task, "fit", int(spec["max_epochs"]), make, pyro=True, train_size=1) as model:
            return model, model.export_posterior(spots, sample_kwargs=samples)
    except ValueError as error:
        # How pyro reports parameters that have left the numbers.
        if "to satisfy the constraint" not in str(error):
            raise
        problem = "the fit diverged: its parameters are not finite."
        raise InputError(task.where, problem, "lower `lr`.", code="cell2location-diverged") from error


def _statistic(visium: Any, name: str, types: list[str]) -> np.ndarray:
    frame = visium.obsm[f"{name}_cell_abundance_w_sf"]
    return np.asarray(frame[[f"{name}cell_abundance_w_sf_{t}" for t in types]].to_numpy(), dtype=float)
