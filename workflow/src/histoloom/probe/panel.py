"""Which genes are scored: a panel per fold, chosen on its training sections unless another choice is named.

Kinds: ``hvg`` (largest variance of raw counts) and ``heg`` (largest mean), each among genes that a share of the spots
of every section it looks at expresses, as HEST-bench made its lists; ``published``, a list that a task came with
(chosen by its makers on all of its sections, test ones included, and stamped so).
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
from histoloom.folds import read_folds, roles_of
from histoloom.folds.splits import ALL
from histoloom.identity import make_identity
from histoloom.obs_keys import section_keys
from histoloom.targets import Expression, read_expression

logger = logging.getLogger(__name__)

COLUMNS = ["fold", "gene", "set", "k", "rank", "selected_on"]
MIN_SHARE = 0.1
"""Share of a section's spots that must express a gene of a panel."""
PUBLISHED = "published"
_BY: Mapping[str, Literal["var", "mean"]] = {"hvg": "var", "heg": "mean"}


def top_genes(
    counts: Any, sections: Iterable[str], genes: Sequence[str], k: int = 50, *, by: Literal["var", "mean"] = "var"
) -> list[str]:
    """Choose a panel as the benchmark does: expressed in 10 % of the spots of every section, then the top k of all.

    Parameters
    ----------
    counts
        (n, genes) raw counts, sparse or dense.
    sections
        Section of each observation, n.
    genes
        Names of the columns.
    k
        Genes to choose.
    by
        Variance or mean over all observations together.

    Returns
    -------
    list of str
        The highest first; ties by name, since the order of columns must not decide.

    Raises
    ------
    InputError
        If fewer than `k` genes are left.
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
    if len(left) < k:
        raise InputError(
            "gene panel",
            f"{len(left)} genes are expressed in {100 * MIN_SHARE:.0f} % of every section's spots, {k} are wanted.",
            "lower `panel.k`.",
        )
    return [str(genes[i]) for i in left[:k]]


def panel_table(target: Expression, folds: Mapping[str, np.ndarray], panel: Mapping[str, Any]) -> pd.DataFrame:
    """Return the panel of each fold.

    Parameters
    ----------
    target
        The experiment's target.
    folds
        Role of each observation by fold.
    panel
        ``genes`` (hvg, heg or published), ``k``, ``selected_on`` (train or dataset).
    """
    kind, on = panel["genes"], panel["selected_on"]
    section = section_keys(target.obs).to_numpy()
    parts = []
    for fold, roles in folds.items():
        if fold == ALL:
            continue
        if kind == PUBLISHED:
            chosen, on = target.genes, PUBLISHED
        else:
            rows = np.flatnonzero(roles == "train") if on == "train" else np.arange(len(section))
            chosen = top_genes(target.counts[rows], section[rows], target.genes, panel["k"], by=_BY[kind])
        parts.append(
            pd.DataFrame({"fold": fold, "gene": chosen, "rank": np.arange(1, len(chosen) + 1)}).assign(
                set=kind, k=len(chosen), selected_on=on
            )
        )
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def select_panel(*, spec: Mapping[str, Any], target: Path, folds: Path, out: Path) -> None:
    """Write ``targets/{experiment}/panel.parquet``.

    Parameters
    ----------
    spec
        The experiment's entry: ``panel``.
    target, folds
        Its artefacts.
    out
        File to write; columns fold, gene, set, k, rank, selected_on.

    Raises
    ------
    InputError
        If a fold's sections express too few genes.
    """
    data = read_expression(target)
    table = panel_table(data, roles_of(read_folds(folds)[0], data.obs), spec["panel"])
    per_fold = table.groupby("gene")["fold"].nunique()
    logger.info("%d genes in all, %d of them in every fold's panel", len(per_fold), (per_fold == per_fold.max()).sum())
    identity = make_identity("panel", {"panel": spec["panel"]}, identities_of({"target": target, "folds": folds}))
    write_parquet(table, out, {"panel": dict(spec["panel"]), "identity": identity})
