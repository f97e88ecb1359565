"""Label methods next to each other: agreement, ground truth, a pathologist's regions, seconds and memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom import paths
from histoloom.checks.base import (
    Labels,
    Plan,
    Result,
    common_types,
    correlated,
    read_labels,
    read_regions,
    section_files,
)
from histoloom.checks.regions import score_regions
from histoloom.metrics.rows import value_row
from histoloom.report.style import PALETTE, SEQUENTIAL, drawing, heading
from histoloom.stats import pearson_columns, score_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COSTS = {"seconds": "seconds", "peak_rss_mb": "peak memory, MB", "peak_gpu_mb": "peak GPU memory, MB"}


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels of all entries, their efficiency records, and what they are held against.

    That is the ground truth's labels (``against``) and, for a pathologist's regions (``pairs``), sections.
    """
    labels, against = [], []
    for cohort in entry["cohorts"]:
        for name in entry["labels"]:
            labels.append(paths.LABELS.format(labels=name, cohort=cohort))
            for part in plan.labels.jobs(name, cohort):
                against.append(paths.LABELS_EFFICIENCY.format(labels=name, cohort=cohort, part=part))
        if entry["against"]:
            against.append(paths.LABELS.format(labels=entry["against"], cohort=cohort))
    if entry["pairs"]:
        against += section_files(plan, entry["cohorts"], paths.SAMPLE)
    return {"labels": labels, "against": against}


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Compare label methods cohort by cohort; an entry's name is the folder of its files.

    Abundances become proportions first, so that methods in cells and methods in proportions can be compared. Rows:
    ``cc`` of two entries by type (``gene_set`` the first, ``k`` the second), of an entry with the ground truth
    (``gene_set`` is ``truth``; a label that is constant where the truth varies scores 0), ``auroc`` of `score_regions`,
    and the entry's cost in this run.
    """
    records = [path for path in against if path.suffix == ".json"]
    sections = [path for path in against if path.suffix == ".h5ad" and path.parts[-3] == "samples"]
    tables = [path for path in against if path.suffix == ".h5ad" and path.parts[-3] == "labels"]
    truth = {item.cohort: _shares(item) for item in map(read_labels, tables)}
    by_cohort: dict[str, dict[str, Labels]] = {}
    for path in labels:
        item = read_labels(path)
        by_cohort.setdefault(item.cohort, {})[Path(path).parent.name] = _shares(item)
    for cohort, items in sorted(by_cohort.items()):
        for (a, first), (b, second) in combinations(items.items(), 2):
            rows = _agreement(spec, first, second, pearson_columns).assign(gene_set=a, k=b)
            yield f"{a}+{b}", [rows], first.metadata
        for name, item in items.items():
            parts = [_costs(records, name, cohort)]
            if cohort in truth:
                parts.append(_agreement(spec, item, truth[cohort], score_columns).assign(gene_set="truth"))
            if spec["pairs"]:
                regions, flags = read_regions(sections, cohort)
                parts += score_regions(spec, item.flagged(flags), regions)
            yield name, parts, item.metadata


def _shares(labels: Labels) -> Labels:
    total = labels.values.sum(axis=1, keepdims=True)
    return replace(labels, values=labels.values / np.where(total > 0, total, 1))


def _agreement(spec: Mapping[str, Any], first: Labels, second: Labels, correlate: Any) -> pd.DataFrame:
    common = common_types(spec, first, second)
    return correlated(first, second, common, (first.columns(common), second.columns(common)), correlate)


def _costs(records: Sequence[Path], name: str, cohort: str) -> pd.DataFrame:
    """Return seconds of all of an entry's jobs and their peaks of memory, as rows of the cohort."""
    own = [json.loads(path.read_text()) for path in records if path.parts[-3:-1] == (name, cohort)]
    place = {"cohort": cohort, "aggregation": "cohort"}
    rows = [value_row(place, "seconds", sum(record["seconds"] for record in own), len(own))] if own else []
    for key in ("peak_rss_mb", "peak_gpu_mb"):
        known = [record[key] for record in own if record.get(key) is not None]
        rows += [value_row(place, key, max(known), len(known))] if known else []
    return pd.DataFrame(rows)


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw agreement as a matrix; ground truth, regions and cost as bars, one panel for each that was measured."""
    names = list(spec["labels"])
    cohort = rows[rows["aggregation"] == "cohort"]
    pairs = cohort[(cohort["metric"] == "cc") & (cohort["target"] == "") & (cohort["gene_set"] != "truth")]
    agreement = np.eye(len(names))
    for a, b, value in pairs.groupby(["gene_set", "k"])["value"].mean().reset_index().itertuples(index=False):
        agreement[names.index(a), names.index(b)] = agreement[names.index(b), names.index(a)] = value
    truth = cohort[(cohort["gene_set"] == "truth") & (cohort["target"] == "")].groupby("model")["value"].mean()
    regions = cohort[cohort["metric"] == "auroc"]
    panels = [
        *([("CC with the ground truth", truth, (0.0, 1.0))] if len(truth) else []),
        *([("AUROC in regions, mean", regions.groupby("model")["value"].mean(), (0.5, 1.0))] if len(regions) else []),
        *(
            (text, costs.groupby("model")["value"].max(), None)
            for metric, text in _COSTS.items()
            if len(costs := cohort[cohort["metric"] == metric])
        ),
    ]
    with drawing(out, 3.6 + 0.45 * len(names) + 2.0 * len(panels), 2.2 + 0.42 * max(len(names), 4)) as fig:
        width = 1.5 + 0.25 * len(names)
        axes = fig.subplots(1, 1 + len(panels), squeeze=False, width_ratios=[width, *[1.0] * len(panels)])[0]
        _matrix(axes[0], agreement, names)
        for ax, (text, values, limits) in zip(axes[1:], panels, strict=True):
            _bars(ax, text, values.reindex(names), limits)
        sections = rows[rows["aggregation"] == "section"].drop_duplicates(["cohort", "sample"])
        counted = f"{sections['patient'].nunique()} patients, {len(sections)} sections"
        heading(fig, f"{title}\n{len(names)} label methods on the same spots, {counted}; proportions of each spot")


def _matrix(ax: Axes, values: np.ndarray, names: Sequence[str]) -> None:
    ax.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")
    for (i, j), value in np.ndenumerate(values):
        text, tone = f"{value:.2f}" if np.isfinite(value) else "–", "white" if value < 0.6 else "black"
        if i != j:
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color=tone)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("agreement: CC, mean over types", fontsize=8.5)


def _bars(ax: Axes, title: str, values: pd.Series, limits: tuple[float, float] | None) -> None:
    ax.barh(range(len(values)), values, 0.7, color=PALETTE[0])
    ax.set_yticks(range(len(values)), [""] * len(values))
    ax.set_ylim(len(values) - 0.5, -0.5)
    if limits:
        ax.set_xlim(min(limits[0], float(values.min(skipna=True))), limits[1])
    else:
        ax.margins(x=0.35)
    for y, value in enumerate(values):
        if np.isfinite(value):
            text = f"{value:.2f}" if limits else f"{value:,.0f}"
            ax.text(value, y, f" {text}", va="center", fontsize=8, clip_on=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, fontsize=8.5)
