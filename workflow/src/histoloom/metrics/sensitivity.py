"""How much labels depend on choices: the same observations labelled in several ways, compared pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.correlation import column_correlation
from histoloom.metrics.labelled import Labels, sections_of


def score_sensitivity(spec: Mapping[str, Any], names: Sequence[str], variants: Sequence[Labels]) -> list[pd.DataFrame]:
    """Compare labels of one cohort that differ in a choice (cells per location, alpha, grouping, reference).

    Parameters
    ----------
    spec
        The judge's entry.
    names
        Names of the labels entries.
    variants
        Their gathered labels, in the same order.

    Returns
    -------
    list of DataFrame
        For each pair of entries (``gene_set`` the first, ``k`` the second): ``cc`` per section, type and rolled up
        (does the map change?) and ``abundance_ratio``, total abundance of the second over the first (does the scale
        change?), per section and rolled up.

    Raises
    ------
    InputError
        If two entries share no type or no observation.
    """
    parts: list[pd.DataFrame] = []
    for (a, first), (b, second) in combinations(list(zip(names, variants, strict=True)), 2):
        common = [name for name in first.types if name in second.types]
        position = second.obs.index.get_indexer(first.obs.index)
        if not common or not (position >= 0).any():
            what = "type" if not common else "observation"
            raise InputError(
                f"judges.{spec.get('name', '?')}", f"labels '{a}' and '{b}' share no {what}.",
                "compare labels of the same sections with the same types.",
            )  # fmt: skip
        mine = first.values[:, [first.types.index(name) for name in common]]
        theirs = second.values[:, [second.types.index(name) for name in common]]
        rows, ratios = [], []
        for place, index in sections_of(first):
            index = index[position[index] >= 0]
            x, y = mine[index], theirs[position[index]]
            value, n = column_correlation(x, y)
            rows.append(
                pd.DataFrame(
                    {"metric": "cc", "target": common, "value": value, "n": n,
                     "n_nan": np.isnan(value).astype(int), **place}
                )
            )  # fmt: skip
            ratio = float(y.sum() / x.sum()) if x.sum() > 0 else np.nan
            ratios.append({"metric": "abundance_ratio", "value": ratio, "n": len(index),
                           "n_nan": int(np.isnan(ratio)), **place})  # fmt: skip
        found = [
            roll_up(pd.concat(rows, ignore_index=True), types=True),
            roll_up(pd.DataFrame(ratios).assign(target=""), types=False),
        ]
        parts += [part.assign(gene_set=a, k=b) for part in found]
    return parts
