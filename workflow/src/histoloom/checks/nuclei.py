"""Total abundance, labelled or predicted, against counted nuclei, spot by spot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom import paths
from histoloom.artefacts import read_metadata
from histoloom.checks.base import Labels, Tables, by_sections, check_files, legend_once
from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.rows import value_row
from histoloom.obs_keys import obs_keys, section_keys
from histoloom.report.style import PALETTE, drawing, heading, note
from histoloom.stats import pearson_columns

inputs = partial(check_files, pattern=paths.NUCLEI)


def read_nuclei(paths: Sequence[Path], cohort: str) -> tuple[pd.Series, dict[str, str]]:
    """Return counted nuclei by ``cohort/sample/obs_id``, and qc_flags by section, of a cohort."""
    parts, qc_flags = [], {}
    for path in paths:
        metadata = read_metadata(path)
        if metadata.get("cohort") != cohort:
            continue
        table, sample = pd.read_parquet(path), str(metadata["sample"])
        qc_flags[sample] = str(metadata.get("qc_flag") or "")
        parts.append(table["nuclei"].astype(float).set_axis(obs_keys(cohort, sample, table["obs_id"])))
    if not parts:
        problem = "nuclei of none of its sections were counted."
        raise InputError(f"cohort '{cohort}'", problem, "count them first.", code="check-no-nuclei")
    return pd.concat(parts), qc_flags


def score_nuclei(spec: Mapping[str, Any], labels: Labels, nuclei: pd.Series) -> Tables:
    """Compare total abundance with counted nuclei, spot by spot.

    ``nuclei_cc`` (Pearson's r of total abundance with the count) and ``nuclei_ratio`` (sum of abundance over sum of
    nuclei), per section, patient and cohort; both NaN for proportions, whose total is 1 or nearly so. ``nuclei_median``
    per section.
    """
    shares = "proportion" in str(labels.metadata.get("units", ""))
    counted = nuclei.reindex(labels.obs.index).to_numpy(dtype=float)
    total = np.nansum(labels.values, axis=1)
    rows, medians = [], []
    for place, index in labels.sections():
        known = index[np.isfinite(counted[index])]
        r, n = pearson_columns(total[known, None], counted[known, None])
        nuclei_sum = counted[known].sum()
        ratio = float(total[known].sum() / nuclei_sum) if nuclei_sum > 0 else np.nan
        for metric, number in (("nuclei_cc", float(r[0])), ("nuclei_ratio", ratio)):
            rows.append(value_row(place, metric, np.nan if shares else number, int(n[0])))
        median = float(np.median(counted[known])) if len(known) else np.nan
        medians.append(value_row(place, "nuclei_median", median, len(known)))
    return [roll_up(pd.DataFrame(rows), types=False), pd.DataFrame(medians).assign(aggregation="section")]


score = by_sections(read_nuclei, score_nuclei)


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the correlation of total abundance with counted nuclei, and their ratio, by section and model."""
    sections = rows[rows["aggregation"] == "section"]
    sections = sections.assign(name=section_keys(sections)).sort_values(["cohort", "sample"], kind="stable")
    models, names = sorted(sections["model"].unique()), list(sections["name"].unique())
    median = sections[sections["metric"] == "nuclei_median"].groupby("name")["value"].first()
    with drawing(out, 8.6, 1.9 + 0.3 * max(len(names), 3)) as fig:
        axes = fig.subplots(1, 2, sharey=True)
        for ax, metric in zip(axes, ("nuclei_cc", "nuclei_ratio"), strict=True):
            for i, model in enumerate(models):
                points = sections[(sections["metric"] == metric) & (sections["model"] == model)]
                shift = (i - (len(models) - 1) / 2) * 0.6 / max(len(models), 1)
                y = np.array([names.index(name) for name in points["name"]]) + shift
                ax.plot(points["value"], y, "o", ms=5, color=PALETTE[i % len(PALETTE)], label=model)
            ax.grid(axis="x", color="#E6E6E6", lw=0.6)
            if not np.isfinite(sections.loc[sections["metric"] == metric, "value"]).any():
                note(ax, "undefined: proportions have no total")
        axes[0].axvline(0, color="black", lw=0.6)
        axes[0].set_xlabel("Pearson's r over spots")
        axes[1].axvline(1, color="black", lw=0.6, ls="--")
        axes[1].set_xlabel("total abundance / counted nuclei")
        axes[0].set_yticks(range(len(names)), [f"{n} ({median.get(n, np.nan):.0f} nuclei)" for n in names])
        axes[0].invert_yaxis()
        legend_once(fig)
        subject = spec.get("labels") or f"held-out predictions of {spec.get('experiment')}"
        heading(fig, f"{title}\ntotal abundance of {subject} against nuclei counted under the spot (median)")
