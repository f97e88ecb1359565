"""Which genes a correlation of expression is averaged over: the most expressed, the most variable, markers.

A set is chosen on a fold's training observations (ours), on the test section's own truth (as CMRCNet's code does) or on
raw counts of all sections (as HEST-bench's lists were made). Among the genes that the fold predicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histoloom.folds import read_folds
from histoloom.folds.panel import BY, ranked_genes
from histoloom.folds.roles import roles_of
from histoloom.obs_keys import section_keys
from histoloom.stats import Floats
from histoloom.targets import read_target
from histoloom.targets.base import read_counts

Orders = Mapping[str, Sequence[str]]
"""Genes, best first, by set (heg, hvg)."""


@dataclass(frozen=True)
class GeneSets:
    """What sets are chosen from: sizes `k` of heg and hvg, names of `markers`, and how genes are ranked.

    `train`: by fold, by mean and variance of the values over its training observations; `dataset`: by mean and variance
    of the raw counts of all sections, among genes that 10 % of every section's observations express.
    """

    k: tuple[int, ...] = (50,)
    markers: tuple[str, ...] = ()
    train: Mapping[str, Orders] = field(default_factory=dict)
    dataset: Orders = field(default_factory=dict)

    def on_truth(self, genes: Sequence[str], y: Floats) -> Iterator[tuple[str, int, list[str]]]:
        """Yield (set, k, genes) with the largest sum and variance in the truth (n, genes) itself, then the markers."""
        sizes = {"heg": y.sum(axis=0), "hvg": y.var(axis=0)}
        ranks = {name: [genes[i] for i in np.argsort(-size, kind="stable")] for name, size in sizes.items()}
        yield from self._cut(ranks, genes)

    def on_train(self, genes: Sequence[str], fold: str) -> Iterator[tuple[str, int, list[str]]]:
        """Yield (set, k, genes) as the fold's training observations rank them, then the markers."""
        yield from self._cut(self.train[fold], genes)

    def on_dataset(self, genes: Sequence[str]) -> Iterator[tuple[str, int, list[str]]]:
        """Yield (set, k, genes) as raw counts of all sections rank them, then the markers."""
        yield from self._cut(self.dataset, genes)

    def _cut(self, orders: Orders, genes: Sequence[str]) -> Iterator[tuple[str, int, list[str]]]:
        known = set(genes)
        for name, order in orders.items():
            ranked = [gene for gene in order if gene in known]
            for k in self.k:
                yield name, k, ranked[:k]
        if self.markers:
            yield "marker", len(self.markers), [gene for gene in self.markers if gene in known]


def read_gene_sets(entry: Mapping[str, Any], target: Path, folds: Path) -> GeneSets:
    """Return the sets of an experiment's ``gene_sets`` entry, ranked on its target and folds."""
    data = read_target(target)
    genes, section = data.outputs, section_keys(data.obs).to_numpy()
    train = {
        fold: _ranked(data.values[np.flatnonzero(roles == "train")], genes)
        for fold, roles in roles_of(read_folds(folds)[0], data.obs).items()
    }
    counts = read_counts(target)
    dataset = {name: ranked_genes(counts, section, genes, by=by) for name, by in sorted(BY.items())}
    return GeneSets(tuple(entry.get("k") or (50,)), tuple(entry.get("markers") or ()), train, dataset)


def _ranked(values: Any, genes: Sequence[str]) -> Orders:
    """Rank genes by mean and by variance of (n, genes) values, highest first; ties by name."""
    mean = np.asarray(values.mean(axis=0), np.float64).ravel()
    square = values.multiply(values) if hasattr(values, "multiply") else np.square(values, dtype=np.float64)
    variance = np.asarray(square.mean(axis=0), np.float64).ravel() - mean**2
    return {"heg": _order(mean, genes), "hvg": _order(variance, genes)}


def _order(score: npt.NDArray[np.float64], genes: Sequence[str]) -> list[str]:
    return [str(genes[i]) for i in sorted(range(len(genes)), key=lambda i: (-score[i], str(genes[i])))]
