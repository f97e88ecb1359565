"""How much labels depend on choices: the same observations labelled in several ways, compared pair by pair."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom import paths
from histoloom.checks.base import Labels, Plan, Result, Tables, common_types, correlated, read_labels
from histoloom.identity import canonical_json
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.rows import value_row
from histoloom.report.style import PALETTE, SEQUENTIAL, drawing, heading, short_names


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels of all entries that are compared, in folders of their names."""
    files = [paths.LABELS.format(labels=name, cohort=c) for c in entry["cohorts"] for name in entry["labels"]]
    return {"labels": files, "against": []}


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Compare the entries cohort by cohort; an entry's name is the folder of its files."""
    by_cohort: dict[str, dict[str, Labels]] = {}
    for path in labels:
        item = read_labels(path)
        by_cohort.setdefault(item.cohort, {})[Path(path).parent.name] = item
    for _, items in sorted(by_cohort.items()):
        names, variants = list(items), list(items.values())
        facts = {
            **variants[0].metadata,
            "demo_fit": any(item.metadata.get("demo_fit") for item in variants),
            "variants": differences(names, variants),
        }
        yield "+".join(names), score_sensitivity(spec, names, variants), facts


def _at_one_level(first: Labels, second: Labels, merge: Mapping[str, Sequence[str]]) -> tuple[Labels, Labels]:
    """Sum the types of one side that are one type on the other."""
    for new, olds in merge.items():
        if new in second.types and new not in first.types:
            first = _summed(first, new, olds)
        elif new in first.types and new not in second.types:
            second = _summed(second, new, olds)
    return first, second


def _summed(labels: Labels, new: str, olds: Sequence[str]) -> Labels:
    present = [name for name in olds if name in labels.types]
    if not present:
        return labels
    rest = [name for name in labels.types if name not in present]
    return replace(
        labels, types=[*rest, new], values=np.column_stack([labels.columns(rest), labels.sum_of(present, new)])
    )


def differences(names: Sequence[str], variants: Sequence[Labels]) -> dict[str, dict[str, Any]]:
    """Return, by entry, the choices in which the entries differ, with the cells that nuclei made it expect."""
    specs = [dict(item.metadata.get("spec") or {}) for item in variants]
    keys = sorted({key for spec in specs for key in spec})
    differ = [key for key in keys if len({canonical_json(spec.get(key)) for spec in specs}) > 1]
    choices = {}
    for name, spec, item in zip(names, specs, variants, strict=True):
        chosen = {key: spec[key] for key in differ if key in spec}
        if chosen.get("n_cells_per_location") == "nuclei":
            cells = sorted({float(fit["n_cells_per_location"]) for fit in item.metadata.get("qc") or []})
            chosen["n_cells_per_location"] = "nuclei: " + ", ".join(f"{value:g}" for value in cells)
        choices[name] = chosen
    return choices


def score_sensitivity(spec: Mapping[str, Any], names: Sequence[str], variants: Sequence[Labels]) -> Tables:
    """Compare labels of one cohort that differ in a choice (cells per location, alpha, grouping, reference).

    For each pair of entries (``gene_set`` the first, ``k`` the second) ``cc`` by type (does the map change?) and
    ``abundance_ratio``, total abundance of the second over the first (does the scale change?). ``merge`` of the check:
    new name -> types. Where one entry has the new name and the other the types, the other's are summed: labels at two
    levels of a reference are compared at the coarser one.
    """
    parts: list[pd.DataFrame] = []
    for (a, first), (b, second) in combinations(list(zip(names, variants, strict=True)), 2):
        first, second = _at_one_level(first, second, spec.get("merge") or {})
        common = common_types(spec, first, second)
        own, other = first.columns(common), second.columns(common)
        ratios = []
        for place, index, position in first.shared_sections(second):
            x, y = own[index], other[position]
            ratio = float(y.sum() / x.sum()) if x.sum() > 0 else np.nan
            ratios.append(value_row(place, "abundance_ratio", ratio, len(index)))
        parts.append(correlated(first, second, common, (own, other)).assign(gene_set=a, k=b))
        parts.append(roll_up(pd.DataFrame(ratios), types=False).assign(gene_set=a, k=b))
    return parts


def _choices(names: list[str], rows: pd.DataFrame) -> list[str]:
    """Return each entry's name and, below it, in what it differs from the first."""
    stamp = json.loads(rows["protocol"].iloc[0] or "{}") if len(rows) else {}
    variants = (stamp.get("labels") or {}).get("variants") or {}
    first = variants.get(names[0]) or {}
    lines = []
    for name in names:
        own = [f"{key} {value}" for key, value in (variants.get(name) or {}).items() if value != first.get(key)]
        lines.append(f"{name}\n{', '.join(own)}" if own else name)
    return lines


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw agreement of labels entries as a matrix: CC above the diagonal, ratio of abundance below."""
    names = list(spec["labels"])
    cohort = rows[(rows["aggregation"] == "cohort") & (rows["target"] == "")]
    by_type = rows[(rows["aggregation"] == "cohort") & (rows["target"] != "") & (rows["metric"] == "cc")]
    cc, ratio = np.full((len(names), len(names)), np.nan), np.full((len(names), len(names)), np.nan)
    mean = cohort.groupby(["gene_set", "k", "metric"])["value"].mean().reset_index()
    for a, b, metric, value in mean.itertuples(index=False):
        i, j = names.index(a), names.index(b)
        if metric == "cc":
            cc[min(i, j), max(i, j)] = value
        else:
            ratio[max(i, j), min(i, j)] = value if i < j else 1 / value
    pairs = by_type.sort_values("value", kind="stable").drop_duplicates("target")
    with drawing(out, 6.2 + 0.62 * len(names) + 3.2, 2.2 + 0.5 * max(len(names), 5)) as fig:
        ax, side = fig.subplots(1, 2, width_ratios=[1.45, 1])
        image = ax.imshow(cc, cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        ax.set_facecolor("#EFEFEF")
        for (i, j), value in np.ndenumerate(cc):
            if np.isfinite(value):
                tone = "white" if value < 0.6 else "black"
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=tone)
            elif np.isfinite(ratio[i, j]):
                ax.text(j, i, f"×{ratio[i, j]:.2g}", ha="center", va="center", fontsize=8)
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right")
        ax.set_yticks(range(len(names)), _choices(names, rows))
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title("above: CC; below: total abundance, row over column", fontsize=8.5)
        fig.colorbar(image, ax=ax, shrink=0.7, pad=0.02).set_label("CC, mean over types")
        shown = pairs.iloc[:14]
        side.barh(range(len(shown)), shown["value"], 0.7, color=PALETTE[0])
        for y, row in enumerate(shown.to_dict("records")):
            side.text(0.015, y, f"{row['gene_set']} – {row['k']}", va="center", fontsize=7, color="black",
                      transform=side.get_yaxis_transform(),
                      bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.8})  # fmt: skip
        side.set_yticks(range(len(shown)), short_names(list(shown["target"]), 26))
        side.invert_yaxis()
        side.set_xlim(min(0, float(np.nanmin([0, *shown["value"]]))), 1)
        side.set_title("the two that agree least, by type", fontsize=8.5)
        side.set_xlabel("CC")
        n = rows[rows["aggregation"] == "section"]["sample"].nunique()
        heading(fig, f"{title}\nthe same spots labelled in {len(names)} ways, {n} section{'s'[: n > 1]}")
