"""Which genes an expression experiment predicts: a panel per fold, chosen on its training sections by default.

Kinds: ``hvg`` (largest variance of raw counts) and ``heg`` (largest mean), each among genes that a share of the spots
of every section it looks at expresses, as HEST-bench made its lists; ``hvg_union``, the union of each section's highly
variable genes, as CMRCNet and BLEEP choose; ``marker``, a given list; ``published``, a list that a task came with
(chosen by its makers on all of its sections, test ones included, and stamped so); ``all``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from histoloom.artefacts import identities_of, write_parquet
from histoloom.errors import InputError
from histoloom.folds.artefact import read_folds
from histoloom.folds.roles import roles_of
from histoloom.identity import make_identity
from histoloom.obs_keys import section_keys
from histoloom.targets import read_target
from histoloom.targets.base import read_counts
from histoloom.targets.hvg import hvg_union

logger = logging.getLogger(__name__)

COLUMNS = ["fold", "gene", "set", "k", "rank", "selected_on"]
MIN_SHARE = 0.1
"""Share of a section's spots that must express a gene of a panel."""
BY: Mapping[str, Literal["var", "mean"]] = {"hvg": "var", "heg": "mean"}


def ranked_genes(
    counts: Any, sections: Iterable[str], genes: Sequence[str], *, by: Literal["var", "mean"] = "var"
) -> list[str]:
    """Rank the genes that 10 % of the spots of every section express, as the benchmark does.

    By variance or mean of the (n, genes) raw counts over all observations together, the highest first; ties by name,
    since the order of columns must not decide.
    """
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(counts, dtype=np.float64)
    which = np.asarray([str(name) for name in sections], dtype=object)
    expressed = np.ones(matrix.shape[1], bool)
    for name in sorted(set(which)):
        part = matrix[which == name]
        expressed &= np.asarray((part > 0).sum(axis=0)).ravel() >= MIN_SHARE * part.shape[0]
    mean = np.asarray(matrix.mean(axis=0)).ravel()
    score = np.asarray(matrix.multiply(matrix).mean(axis=0)).ravel() - mean**2 if by == "var" else mean
    left = sorted((int(i) for i in np.flatnonzero(expressed)), key=lambda i: (-score[i], str(genes[i])))
    return [str(genes[i]) for i in left]


def top_genes(
    counts: Any, sections: Iterable[str], genes: Sequence[str], k: int = 50, *, by: Literal["var", "mean"] = "var"
) -> list[str]:
    """Return the k best of `ranked_genes`."""
    ranked = ranked_genes(counts, sections, genes, by=by)
    if len(ranked) < k:
        problem = f"{len(ranked)} genes are in {100 * MIN_SHARE:.0f} % of every section's spots, {k} are wanted."
        raise InputError("gene panel", problem, "lower `target.panel.k`.", code="panel-too-few")
    return ranked[:k]


def panel_table(
    counts: Any, genes: Sequence[str], section: np.ndarray, folds: Mapping[str, np.ndarray], panel: Mapping[str, Any]
) -> pd.DataFrame:
    """Return the panel of each fold, from CSR (n, genes) raw counts and the roles of observations by fold.

    A fold without test observations takes its panel from training ones.
    """
    kind, parts = panel["genes"], []
    for fold, roles in folds.items():
        if kind in BY or kind == "hvg_union":
            on = panel["selected_on"] if (roles == "test").any() or panel["selected_on"] == "dataset" else "train"
            rows = np.flatnonzero(
                {"train": roles == "train", "test_truth": roles == "test", "dataset": roles != ""}[on]
            )
            if kind == "hvg_union":
                chosen = hvg_union(counts[rows], section[rows], genes, panel["k"])
            else:
                chosen = top_genes(counts[rows], section[rows], genes, panel["k"], by=BY[kind])
        else:
            on, chosen = kind, list(genes)
        ranks = np.arange(1, len(chosen) + 1)
        table = pd.DataFrame({"fold": fold, "gene": chosen, "rank": ranks, "set": kind, "k": len(chosen)})
        parts.append(table.assign(selected_on=on))
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def select_panel(*, spec: Mapping[str, Any], target: Path, folds: Path, out: Path) -> None:
    """Write ``targets/{experiment}/panel.parquet``: fold, gene, set, k, rank, selected_on."""
    panel, data = dict(spec["target"]["panel"]), read_target(target)
    section = section_keys(data.obs).to_numpy()
    roles = roles_of(read_folds(folds)[0], data.obs)
    # Harmony was given the union of all sections' genes, and what it returns has no others.
    chosen = {"genes": "all"} if spec["target"].get("batch_correction") == "harmony" else panel
    table = panel_table(read_counts(target), data.outputs, section, roles, chosen)
    per_fold = table.groupby("gene")["fold"].nunique()
    logger.info("%d genes in all, %d of them in every fold's panel", len(per_fold), (per_fold == len(roles)).sum())
    inputs = identities_of({"target": target, "folds": folds})
    write_parquet(table, out, {"panel": panel, "identity": make_identity("panel", panel, inputs)})
