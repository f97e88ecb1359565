"""Scores of cell-type abundance: CC, amplitude and L1, colocalization, and merged types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histoloom.metrics.colocalization import score_colocalization
from histoloom.metrics.continuous import score_continuous
from histoloom.metrics.rows import assemble
from histoloom.metrics.scored import merge_types

if TYPE_CHECKING:
    import pandas as pd

    from histoloom.metrics.scored import Scored


def score(scored: Scored) -> pd.DataFrame:
    parts = [*score_continuous(scored), *score_colocalization(scored, scored.spec.get("moran") or {})]
    if scored.spec.get("merge"):
        parts += score_continuous(merge_types(scored))
    return assemble(parts)
