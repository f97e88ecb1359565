"""Projections of cells by a fold's contrastive heads, as a file; how well pairs find one another in them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from histoloom.artefacts import Table, identities_of, write_table
from histoloom.devices import lease_device
from histoloom.errors import InputError
from histoloom.folds.seeds import derive_seed
from histoloom.identity import make_identity
from histoloom.models.alignment import AlignmentSpec, in_batch_retrieval
from histoloom.models.artefact import load_models
from histoloom.models.setup import Files, Setup
from histoloom.networks.cell_transformers import info_nce

logger = logging.getLogger(__name__)


def represent_cells(
    *,
    model: Path,
    spec: Mapping[str, Any],
    experiment: Mapping[str, Any],
    files: Files,
    out: Path,
    retrieval: Path,
    device: str = "auto",
) -> None:
    """Write the projections of all cells of an experiment by the heads of one fold.

    h5ad: X the joint space, the mean of both projections (n, width) float32; obsm ``genes`` and ``morphology``, the
    projections as the heads give them, not normalised; obs as in the target, and ``role`` in the fold (train, val,
    test; empty: dropped). `retrieval`: csv with role, direction, k, batch, n, value, chance; and the loss per role.
    """
    setup, saved = Setup(spec, experiment, files), load_models(model)
    ((name, seed),) = saved.names()
    if saved.metadata["identity"]["sha256"] != setup.identity(name, seed)["sha256"]:
        problem = "was trained from something else than this run has."
        raise InputError(model, problem, "remove it and train again.", code="model-other-run")
    (fold,) = (fold for fold in setup.folds if fold.name == name)
    fitted: Any = saved.fitted(name, seed)
    with lease_device(device) as leased:
        projected = fitted.aligned(setup.inputs, leased).project(setup.inputs)
    settings: AlignmentSpec = getattr(fitted.spec, "alignment", fitted.spec)
    genes, morphology = projected[:, : settings.width], projected[:, settings.width :]
    obs = setup.target.obs.copy()
    roles = np.full(len(obs), "", dtype=object)
    for role in ("train", "val", "test"):
        roles[getattr(fold, role)] = role
    obs["role"] = roles
    rows = []
    for role in ("train", "test"):
        own = getattr(fold, role)
        if len(own) > 1:
            stream = derive_seed(experiment["seed"], "retrieval", name)
            rows += _measured(role, genes[own], morphology[own], settings, stream)
    table = pd.DataFrame(rows, columns=["role", "measure", "direction", "k", "batch", "n", "value", "chance"])
    table.to_csv(retrieval, index=False)
    for row in table[table["measure"] == "retrieval"].itertuples():
        logger.info("%s: %s %s: top %d of %d: %.4f (chance %.4f)", name, row.role, row.direction, row.k, row.batch,
                    row.value, row.chance)  # fmt: skip
    metadata = {
        "experiment": str(experiment.get("name", "")),
        "model": str(spec["name"]),
        "fold": name,
        "train_seed": seed,
        "trained_on": "all cells, test ones included" if settings.sees_test_inputs else "training cells",
        "protocol": setup.protocol(saved.metadata["choices"]),
        "identity": make_identity(
            "representations", {"fold": name, "train_seed": seed}, identities_of({"models": [model]})
        ),
    }
    obsm = {"spatial": setup.target.spatial, "genes": genes, "morphology": morphology}
    var = pd.DataFrame(index=pd.Index([f"joint{i}" for i in range(settings.width)], dtype=object))
    write_table(Table(obs, var, (genes + morphology) / 2, {}, obsm, metadata), out)


def _measured(
    role: str, genes: np.ndarray, morphology: np.ndarray, spec: AlignmentSpec, seed: int
) -> list[tuple[str, str, str, int, int, int, float, float]]:
    size = min(spec.batch_size, len(genes))
    shares = in_batch_retrieval(genes, morphology, size, seed)
    n = len(genes) // size * size
    rows = [(role, "retrieval", way, k, size, n, share, min(k / size, 1.0)) for (way, k), share in shares.items()]
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(genes))[:n])
    both = [torch.from_numpy(values)[order].split(size) for values in (genes, morphology)]
    loss = float(np.mean([[float(v) for v in info_nce(g, m, spec.temperature)] for g, m in zip(*both, strict=True)]))
    return [*rows, (role, "loss", "both", 0, size, n, loss, float(np.log(size)))]
