"""The attainable correlation: how far labels repeat themselves when the counts are drawn again.

``r`` between labels of two halves of the counts, per type over a section's spots; reliability of the whole by Spearman
and Brown, ``2 r / (1 + r)``; ceiling of the correlation of anything with the labels, ``sqrt(reliability)`` (Spearman
1904, doi:10.2307/1412159): a prediction that equals the true abundance has that correlation and no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from histoloom.metrics.rows import value_rows
from histoloom.obs_keys import obs_keys, section_keys
from histoloom.stats import Floats, pearson_columns

IDENTIFIABLE = 0.3
"""A type with a lower reliability is listed apart: what is predicted of it is noise for the greater part."""


def reliability(r: Floats) -> Floats:
    """Return the reliability of the whole from the correlation of its halves; 0 where they do not correlate."""
    r = np.asarray(r, dtype=np.float64)
    positive = np.where(np.isnan(r), np.nan, np.maximum(r, 0.0))
    whole: Floats = 2.0 * positive / (1.0 + positive)
    return whole


def halves_rows(place: Mapping[str, str], types: Sequence[str], first: Floats, second: Floats) -> pd.DataFrame:
    """Return ``halves_r``, ``reliability`` and ``ceiling`` of one section from two halves of its counts, per type."""
    r, n = pearson_columns(first, second)
    share = reliability(r)
    numbers = {"halves_r": r, "reliability": share, "ceiling": np.sqrt(share)}
    return pd.concat([value_rows(place, types, m, value, n) for m, value in numbers.items()], ignore_index=True)


def attainable(metrics: pd.DataFrame, ceilings: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Return CC next to its ceiling, per cohort and type, most reliable types first.

    `ceilings` are rows of ceiling checks of the same labels. Columns: cohort, target, reliability, ceiling,
    identifiable (bool), n_sections, then ``cc_<model>`` and ``share_<model>`` = CC / ceiling. Both are means over the
    sections that both have; the ratio is of means, since a single section's ceiling can be next to nothing.
    """
    keys = ["cohort", "patient", "sample", "target"]

    def sections(rows: pd.DataFrame, metric: str) -> pd.Series:
        chosen = rows[
            (rows["metric"] == metric) & (rows["aggregation"] == "section") & (rows["target"] != "")
            & (rows["train_seed"] == -1) & (rows["qc_flag"] == "")
        ]  # fmt: skip
        return chosen.groupby(keys, sort=True)["value"].mean()

    table = pd.DataFrame({name: sections(ceilings, name) for name in ("reliability", "ceiling")})
    own = metrics[metrics["against"] == "labels"]
    for model in models:
        table[f"cc_{model}"] = sections(own[own["model"] == model], "cc").reindex(table.index)
    scored = sorted(set(section_keys(own[own["aggregation"] == "section"])))
    sections_of_rows = obs_keys(table.index.get_level_values("cohort"), table.index.get_level_values("sample"))
    table = table[sections_of_rows.isin(scored)] if scored else table
    by_patient = table.groupby(["cohort", "target", "patient"], sort=True).mean()
    means = by_patient.groupby(["cohort", "target"], sort=True).mean()
    counts = table["ceiling"].groupby(["cohort", "target"], sort=True).count()
    means.insert(2, "identifiable", means["reliability"] >= IDENTIFIABLE)
    means.insert(3, "n_sections", counts.reindex(means.index).astype(int))
    for model in models:
        cc, top = means[f"cc_{model}"], means["ceiling"]
        means[f"share_{model}"] = np.where(means["identifiable"] & (top > 0), cc / top.where(top > 0), np.nan)
    return means.reset_index().sort_values(
        ["cohort", "reliability"], ascending=[True, False], kind="stable", ignore_index=True
    )
