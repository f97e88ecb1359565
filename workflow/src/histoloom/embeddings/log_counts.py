"""A cell's own counts as features: nothing is learnt and no weights are needed. A baseline for embeddings of genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from histoloom.embeddings.cards import CountEncoder, EncoderSpec, Features
from histoloom.genes import GeneMatcher
from histoloom.samples.tables import is_control

_PER = 1e4


class LogCounts(CountEncoder):
    """Log1p of counts per 10,000, one feature per gene; control features are left out."""

    @classmethod
    def from_spec(cls, spec: EncoderSpec, *, threads: int, device: str) -> Self:
        return cls()

    @property
    def dim(self) -> int:
        """Return the number of genes; known once counts were seen."""
        return len(self.feature_names or ())

    def encode_counts(self, counts: Any, genes: Sequence[str], keys: Sequence[str], matcher: GeneMatcher) -> Features:
        """Return float32 (n, genes) for raw counts, CSR (n, all features), genes sorted by name."""
        names = np.asarray(genes, dtype=object)
        kept = np.flatnonzero(~is_control(list(genes)))
        kept = kept[np.argsort(names[kept], kind="stable")]
        self.feature_names = [str(name) for name in names[kept]]
        chosen = np.asarray(counts[:, kept].toarray(), np.float64)
        total = chosen.sum(axis=1, keepdims=True)
        return np.log1p(chosen / np.where(total > 0, total, 1) * _PER).astype(np.float32)
