"""What a deconvolution leaves unexplained, per pathologist's region."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.checks.base import Plan, Result, draw_by_region, each_cohort, heading, label_files
from histoloom.checks.labelled import Labels, read_regions
from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels and the sections of its cohorts."""
    return label_files(plan, entry)


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Score each cohort by `score_residual`."""
    for name, item in each_cohort(spec, labels):
        regions, qc_flags = read_regions(against, item.cohort)
        yield name, score_residual(spec, item.flagged(qc_flags), regions), item.metadata


def score_residual(spec: Mapping[str, Any], labels: Labels, regions: pd.Series) -> list[pd.DataFrame]:
    """Return what a deconvolution leaves unexplained, per pathologist's region.

    Parameters
    ----------
    spec
        The check's entry.
    labels
        Of one cohort, by a method that explains counts.
    regions
        Region by ``cohort/sample/obs_id``; "" where not annotated.

    Returns
    -------
    list of DataFrame
        ``excess_residual`` (mean over spots, see `histoloom.labels.residual`) with target = region, per section,
        patient and cohort; the region ``all`` holds every observation. ``n_nan`` counts spots without one.
    """
    if "excess_residual" not in labels.obs:
        raise InputError(
            f"checks.{spec.get('name', '?')}",
            f"labels '{spec['labels']}' ({labels.metadata.get('method')}) explain no counts.",
            "check labels made by cell2location or nnls.",
            code="check-no-residual",
        )
    region = regions.reindex(labels.obs.index).fillna("").to_numpy()
    left = labels.obs["excess_residual"].to_numpy(dtype=float)
    rows = []
    for place, index in labels.sections():
        for name in ["all", *sorted(set(region[index]) - {""})]:
            excess = left[index if name == "all" else index[region[index] == name]]
            known = np.isfinite(excess)
            value = float(excess[known].mean()) if known.any() else np.nan
            numbers = {"value": value, "n": int(known.sum()), "n_nan": int((~known).sum())}
            rows.append({"metric": "excess_residual", "target": name, **numbers, **place})
    return [roll_up(pd.DataFrame(rows), types=False)]


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw what a deconvolution leaves unexplained, per region."""
    values = rows.loc[rows["aggregation"] == "section", "value"]
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    room = 0.05 * max(high - low, 1e-6)
    text = f"{spec['labels']}: loss of r against counts drawn from the fit (0: only counting noise is left)"
    draw_by_region(rows, "excess residual", (low - room * (low < 0), high + room), heading(title, text), out)
