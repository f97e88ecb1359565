"""Total abundance against counted nuclei, spot by spot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom import paths
from histoloom.artefacts import read_metadata
from histoloom.checks.base import Plan, Result, each_cohort, heading, label_files
from histoloom.checks.labelled import Labels
from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up
from histoloom.obs_keys import obs_keys
from histoloom.report.style import PALETTE, figure, note, save
from histoloom.stats import pearson_columns


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels and the counted nuclei of its cohorts."""
    return label_files(plan, entry, paths.NUCLEI)


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Score each cohort, or each model's predictions of it, by `score_nuclei`."""
    for name, item in each_cohort(spec, labels):
        nuclei, qc_flags = read_nuclei(against, item.cohort)
        yield name, score_nuclei(item.flagged(qc_flags), nuclei), item.metadata


def read_nuclei(paths: Sequence[Path], cohort: str) -> tuple[pd.Series, dict[str, str]]:
    """Return counted nuclei by ``cohort/sample/obs_id``, and qc_flags by section, of a cohort."""
    parts, qc_flags = [], {}
    for path in paths:
        metadata = read_metadata(path)
        if metadata.get("cohort") != cohort:
            continue
        table = pd.read_parquet(path)
        qc_flags[str(metadata["sample"])] = str(metadata.get("qc_flag") or "")
        keys = obs_keys(cohort, str(metadata["sample"]), table["obs_id"])
        parts.append(pd.Series(table["nuclei"].to_numpy(dtype=float), index=pd.Index(keys)))
    if not parts:
        raise InputError(
            f"cohort '{cohort}'",
            "nuclei of none of its sections were counted.",
            "count them first.",
            code="check-no-nuclei",
        )
    return pd.concat(parts), qc_flags


def score_nuclei(labels: Labels, nuclei: pd.Series) -> list[pd.DataFrame]:
    """Compare total abundance with counted nuclei, spot by spot.

    Returns
    -------
    list of DataFrame
        ``nuclei_cc`` (Pearson's r of total abundance with the count) and ``nuclei_ratio`` (sum of abundance over sum
        of nuclei; NaN for proportions, whose total is 1 or nearly so), per section, patient and cohort;
        ``nuclei_median`` per section.
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
            value = np.nan if shares else number
            rows.append({"metric": metric, "value": value, "n": int(n[0]), "n_nan": int(np.isnan(value)), **place})
        median = float(np.median(counted[known])) if len(known) else np.nan
        medians.append(
            {"metric": "nuclei_median", "value": median, "n": len(known), "n_nan": int(np.isnan(median)), **place}
        )
    return [
        roll_up(pd.DataFrame(rows).assign(target=""), types=False),
        pd.DataFrame(medians).assign(aggregation="section"),
    ]


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the correlation of total abundance with counted nuclei, and their ratio, by section and model."""
    sections = rows[rows["aggregation"] == "section"]
    models = sorted(sections["model"].unique())
    place = sections[["cohort", "sample"]].drop_duplicates().sort_values(["cohort", "sample"])
    names = [f"{a}/{b}" for a, b in place.itertuples(index=False)]
    medians = sections[sections["metric"] == "nuclei_median"].drop_duplicates(["cohort", "sample"])
    median = {f"{r['cohort']}/{r['sample']}": r["value"] for r in medians.to_dict("records")}
    with figure(8.6, 1.9 + 0.3 * max(len(names), 3)) as fig:
        axes = fig.subplots(1, 2, sharey=True)
        for ax, metric in zip(axes, ("nuclei_cc", "nuclei_ratio"), strict=True):
            for i, model in enumerate(models):
                points = sections[(sections["metric"] == metric) & (sections["model"] == model)]
                y = np.array([names.index(f"{a}/{b}") for a, b in zip(points["cohort"], points["sample"], strict=True)])
                shift = (i - (len(models) - 1) / 2) * 0.6 / max(len(models), 1)
                ax.plot(points["value"], y + shift, "o", ms=5, color=PALETTE[i % len(PALETTE)], label=model)
            ax.grid(axis="x", color="#E6E6E6", lw=0.6)
        if not np.isfinite(sections.loc[sections["metric"] == "nuclei_cc", "value"]).any():
            axes[0].text(0.5, 0.5, "undefined: proportions have no total", ha="center", transform=axes[0].transAxes,
                         color="#555555")  # fmt: skip
        axes[0].axvline(0, color="black", lw=0.6)
        axes[0].set_xlabel("Pearson's r over spots")
        axes[1].axvline(1, color="black", lw=0.6, ls="--")
        axes[1].set_xlabel("total abundance / counted nuclei")
        if not np.isfinite(sections.loc[sections["metric"] == "nuclei_ratio", "value"]).any():
            note(axes[1], "proportions have no total")
        axes[0].set_yticks(range(len(names)), [f"{n} ({median.get(n, np.nan):.0f} nuclei)" for n in names])
        axes[0].invert_yaxis()
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside right center", frameon=False)
        what = spec.get("labels") or f"held-out predictions of {spec.get('experiment')}"
        fig.suptitle(**heading(title, f"total abundance of {what} against nuclei counted under the spot (median)"))
        save(fig, out)
