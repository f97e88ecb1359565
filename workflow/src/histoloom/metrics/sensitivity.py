"""How much labels depend on choices: the same observations labelled in several ways, compared pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.identity import canonical_json
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.labelled import Labels, sections_of
from histoloom.stats import pearson_columns


def _at_one_level(first: Labels, second: Labels, merge: Mapping[str, Sequence[str]]) -> tuple[Labels, Labels]:
    """Sum the types of one side that are one type on the other."""
    for new, olds in merge.items():
        if new in second.types and new not in first.types:
            first = _summed(first, new, olds)
        elif new in first.types and new not in second.types:
            second = _summed(second, new, olds)
    return first, second


def _summed(labels: Labels, new: str, olds: Sequence[str]) -> Labels:
    """Replace the types that `labels` has of `olds` by their sum."""
    there = [name for name in olds if name in labels.types]
    if not there:
        return labels
    rest = [name for name in labels.types if name not in there]
    columns = [labels.types.index(name) for name in there]
    kept = labels.values[:, [labels.types.index(name) for name in rest]]
    values = np.column_stack([kept, labels.values[:, columns].sum(axis=1)])
    return replace(labels, types=[*rest, new], values=values)


def differences(names: Sequence[str], variants: Sequence[Labels]) -> dict[str, dict[str, Any]]:
    """Return, by entry, the choices in which the entries differ, with the cells that nuclei made it expect."""
    specs = [dict(item.metadata.get("spec") or {}) for item in variants]
    keys = sorted({key for spec in specs for key in spec})
    differ = [key for key in keys if len({canonical_json(spec.get(key)) for spec in specs}) > 1]
    found = {}
    for name, spec, item in zip(names, specs, variants, strict=True):
        chosen = {key: spec[key] for key in differ if key in spec}
        if chosen.get("n_cells_per_location") == "nuclei":
            cells = sorted({float(fit["n_cells_per_location"]) for fit in item.metadata.get("qc") or []})
            chosen["n_cells_per_location"] = "nuclei: " + ", ".join(f"{value:g}" for value in cells)
        found[name] = chosen
    return found


def score_sensitivity(spec: Mapping[str, Any], names: Sequence[str], variants: Sequence[Labels]) -> list[pd.DataFrame]:
    """Compare labels of one cohort that differ in a choice (cells per location, alpha, grouping, reference).

    Parameters
    ----------
    spec
        The check's entry; ``merge``: new name -> types. Where one entry has the new name and the other the types, the
        other's are summed: labels at two levels of a reference meet at the coarser one.
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
        first, second = _at_one_level(first, second, spec.get("merge") or {})
        common = [name for name in first.types if name in second.types]
        position = second.obs.index.get_indexer(first.obs.index)
        if not common or not (position >= 0).any():
            what = "type" if not common else "observation"
            raise InputError(
                f"checks.{spec.get('name', '?')}", f"labels '{a}' and '{b}' share no {what}.",
                "compare labels of the same sections with the same types.",
            )  # fmt: skip
        mine = first.values[:, [first.types.index(name) for name in common]]
        theirs = second.values[:, [second.types.index(name) for name in common]]
        rows, ratios = [], []
        for place, index in sections_of(first):
            index = index[position[index] >= 0]
            x, y = mine[index], theirs[position[index]]
            value, n = pearson_columns(x, y)
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
