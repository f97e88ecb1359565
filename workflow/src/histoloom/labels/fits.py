"""What label methods that train a model share: spots as AnnData, refusal of too large fits, training, its history."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from histoloom.errors import InputError
from histoloom.job_resources import advice_when_too_large
from histoloom.labels.artefact import LabelTask
from histoloom.labels.prepare import Prepared
from histoloom.obs_keys import obs_keys
from histoloom.references.fitting import history_summary, trained

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


def as_anndata(data: Prepared) -> AnnData:
    """Return the spots' raw counts, float32 CSR, with the section as category ``sample``."""
    import anndata as ad

    obs = data.obs.set_axis(obs_keys(data.obs["sample"], data.obs["obs_id"]), axis=0)[["sample"]].astype("category")
    return ad.AnnData(data.counts.astype(np.float32), obs=obs, var=data.signatures[[]].copy())


def check_memory(task: LabelTask, data: Prepared, need_mb: float, more: str) -> None:
    """Refuse a fit that would die of its size; where the grant is unknown, it is started. `more` is for the log."""
    n_obs, n_genes = data.counts.shape
    logger.info("%s: %d spots x %d genes x %s, about %.0f MB", task.where, n_obs, n_genes, more, need_mb)
    advice = None if task.granted_mb is None else advice_when_too_large(need_mb, task.granted_mb, n_obs, n_genes)
    if advice is not None:
        raise InputError(task.where, *advice, code="labels-memory")


def fitted(
    task: LabelTask, step: str, epochs: int, make: Callable[[], Any], *, pyro: bool = False, **options: Any
) -> AbstractContextManager[Any]:
    """Return a trained model of scvi-tools, as a context; see `histoloom.references.fitting.trained`."""
    return trained(
        make, seed=task.seed, threads=task.threads, epochs=epochs, device=task.device, scratch=task.scratch, name=step,
        artefact=task.identity["sha256"], stages=("labels", "references", "genes"), what=f"{task.group}, {step}",
        pyro=pyro, batch_size=task.spec["batch_size"], lr=float(task.spec["lr"]), **options,
    )  # fmt: skip


def fit_facts(task: LabelTask, data: Prepared, model: Any) -> dict[str, Any]:
    """Return the facts of a fit: genes, history of its loss, whether it passed, whether it is one for a demo.

    `model` is None for a method without a history. A loss that is not finite is an error.
    """
    spec = task.spec
    facts = {"genes": data.genes, "demo_fit": int(spec["max_epochs"]) < int(spec["demo_below_epochs"])}
    if model is None:
        return facts
    loss = model.history["elbo_train"].to_numpy(float).ravel()
    if not np.isfinite(loss).all():
        problem = f"the loss is not finite after epoch {int(np.argmin(np.isfinite(loss)))}."
        raise InputError(task.where, problem, "lower `lr`.", code="labels-loss")
    elbo = history_summary(loss, float(spec["elbo_tolerance"]))
    if not elbo["converged"]:
        logger.warning(
            "%s: the ELBO still falls by %s over the last tenth of %d epochs (limit %s): raise max_epochs",
            task.where, elbo["fall_last_tenth"], len(loss), spec["elbo_tolerance"],
        )  # fmt: skip
    return {**facts, "elbo": elbo, "passed": elbo["converged"]}
