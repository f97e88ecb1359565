"""Checks that look at the tissue: counted nuclei, unexplained counts, and which regions the tile filter removes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.labelled import Labels, sections_of
from histoloom.obs_keys import obs_keys
from histoloom.stats import pearson_columns


def read_nuclei(paths: Sequence[Path], cohort: str) -> tuple[pd.Series, dict[str, str]]:
    """Return counted nuclei by ``cohort/sample/obs_id``, and qc_flags by section, of a cohort."""
    found, qc_flags = [], {}
    for path in paths:
        metadata = read_metadata(path)
        if metadata.get("cohort") != cohort:
            continue
        table = pd.read_parquet(path)
        qc_flags[str(metadata["sample"])] = str(metadata.get("qc_flag") or "")
        keys = obs_keys(cohort, str(metadata["sample"]), table["obs_id"])
        found.append(pd.Series(table["nuclei"].to_numpy(dtype=float), index=pd.Index(keys)))
    if not found:
        raise InputError(f"cohort '{cohort}'", "nuclei of none of its sections were counted.", "count them first.")
    return pd.concat(found), qc_flags


def score_nuclei(spec: Mapping[str, Any], labels: Labels, nuclei: pd.Series) -> list[pd.DataFrame]:
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
    for place, index in sections_of(labels):
        known = index[np.isfinite(counted[index])]
        r, n = pearson_columns(total[known, None], counted[known, None])
        nuclei_sum = counted[known].sum()
        ratio = float(total[known].sum() / nuclei_sum) if nuclei_sum > 0 else np.nan
        for metric, found in (("nuclei_cc", float(r[0])), ("nuclei_ratio", ratio)):
            value = np.nan if shares else found
            rows.append({"metric": metric, "value": value, "n": int(n[0]), "n_nan": int(np.isnan(value)), **place})
        median = float(np.median(counted[known])) if len(known) else np.nan
        medians.append(
            {"metric": "nuclei_median", "value": median, "n": len(known), "n_nan": int(np.isnan(median)), **place}
        )
    return [
        roll_up(pd.DataFrame(rows).assign(target=""), types=False),
        pd.DataFrame(medians).assign(aggregation="section"),
    ]


def score_kept(
    tiles: Sequence[Path], regions: pd.Series, cohort: str, qc_flags: Mapping[str, str]
) -> list[pd.DataFrame]:
    """Return the share of tiles that the background filter keeps, per pathologist's region.

    Parameters
    ----------
    tiles
        Tile tables of all cohorts.
    regions
        Region by ``cohort/sample/obs_id``; "" where not annotated.
    cohort
        The cohort to score.
    qc_flags
        By section.

    Returns
    -------
    list of DataFrame
        ``kept`` and ``background`` (dropped as background) with target = region, per section, patient and cohort; the
        region ``all`` counts every observation, annotated or not.
    """
    rows = []
    for path in tiles:
        metadata = read_metadata(path)
        if metadata.get("cohort") != cohort:
            continue
        sample, table = str(metadata["sample"]), pd.read_parquet(path)
        keys = obs_keys(cohort, sample, table["obs_id"])
        region = regions.reindex(keys).fillna("").to_numpy()
        kept, background = table["kept"].to_numpy(dtype=bool), (table["reason"] == "background").to_numpy()
        place = {"fold": "", "cohort": cohort, "sample": sample, "patient": str(metadata.get("patient", "")),
                 "qc_flag": qc_flags.get(sample, "")}  # fmt: skip
        for name in ["all", *sorted(set(region) - {""})]:
            here = np.ones(len(table), dtype=bool) if name == "all" else region == name
            for metric, values in (("kept", kept), ("background", background)):
                share = float(values[here].mean())
                rows.append(
                    {"metric": metric, "target": name, "value": share, "n": int(here.sum()), "n_nan": 0, **place}
                )
    if not rows:
        raise InputError(f"cohort '{cohort}'", "none of its tile tables was given.", "name sections of this cohort.")
    return [roll_up(pd.DataFrame(rows), types=False)]


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
        )
    region = regions.reindex(labels.obs.index).fillna("").to_numpy()
    left = labels.obs["excess_residual"].to_numpy(dtype=float)
    rows = []
    for place, index in sections_of(labels):
        for name in ["all", *sorted(set(region[index]) - {""})]:
            here = left[index if name == "all" else index[region[index] == name]]
            known = np.isfinite(here)
            value = float(here[known].mean()) if known.any() else np.nan
            numbers = {"value": value, "n": int(known.sum()), "n_nan": int((~known).sum())}
            rows.append({"metric": "excess_residual", "target": name, **numbers, **place})
    return [roll_up(pd.DataFrame(rows), types=False)]
