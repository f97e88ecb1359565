"""What a deconvolution leaves unexplained, per pathologist's region."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.checks.base import Labels, Tables, by_sections, check_files, draw_by_region, read_regions, where
from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up

inputs = check_files


def score_residual(spec: Mapping[str, Any], labels: Labels, regions: pd.Series) -> Tables:
    """Return ``excess_residual`` (mean over spots, see `histoloom.labels.prepare`), with target = region.

    The region ``all`` holds every observation, annotated or not. ``n_nan`` counts spots without a residual.
    """
    if "excess_residual" not in labels.obs:
        problem = f"labels '{spec['labels']}' ({labels.metadata.get('method')}) explain no counts."
        raise InputError(where(spec), problem, "use labels of cell2location or nnls.", code="check-no-residual")
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


score = by_sections(read_regions, score_residual)


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    values = rows.loc[rows["aggregation"] == "section", "value"]
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    room = 0.05 * max(high - low, 1e-6)
    text = f"{spec['labels']}: loss of r against counts drawn from the fit (0: only counting noise is left)"
    draw_by_region(rows, "excess residual", (low - room * (low < 0), high + room), title, text, out)
