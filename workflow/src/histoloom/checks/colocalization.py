"""Which pairs of types are colocalized beyond chance, with the false discovery rate under control."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.checks.base import Plan, Result, each_cohort, heading, label_files
from histoloom.checks.labelled import Labels
from histoloom.errors import InputError
from histoloom.lattice import lattice_of
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.colocalization import diagnostic_rows, has_positions, map_rows
from histoloom.metrics.moran import morans_r, protocol_weights
from histoloom.metrics.significance import false_discovery, null_maps, permutation_p
from histoloom.obs_keys import obs_keys
from histoloom.report.coloc import as_matrix, cluster_order
from histoloom.report.style import DIVERGING, figure, note, save, short_names
from histoloom.samples.section import open_section
from histoloom.stats import Floats, mean_defined

logger = logging.getLogger(__name__)

_LEAST = 20


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the labels and the sections of its cohorts."""
    return label_files(plan, entry)


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Score each cohort by `score_significance`."""
    for name, item in each_cohort(spec, labels):
        yield name, score_significance(spec, item, read_positions(against, item.cohort)), item.metadata


def read_positions(paths: Sequence[Path], cohort: str) -> pd.DataFrame:
    """Return array coordinates, pitch, px and qc_flag of a cohort's observations, index ``cohort/sample/obs_id``."""
    parts = []
    for section in map(open_section, paths):
        if section.cohort != cohort:
            continue
        keys = obs_keys(cohort, section.sample, section.obs.index)
        part = pd.DataFrame({"cohort": cohort, "sample": section.sample}, index=keys)
        for column in ("array_row", "array_col"):
            part[column] = section.obs[column].to_numpy(dtype=float)
        part["pitch_um"] = float(section.metadata.get("pitch_um") or "nan")
        part["x"], part["y"] = section.spatial.T
        part["lattice"] = lattice_of(part["array_row"], part["array_col"])
        part["qc_flag"] = str(section.metadata.get("qc_flag") or "")
        parts.append(part)
    if not parts:
        raise InputError(
            f"cohort '{cohort}'",
            "none of its sections was given.",
            "name sections of this cohort.",
            code="check-no-section",
        )
    return pd.concat(parts)


def _q_matrix(p: Floats) -> Floats:
    """Return q values of the pairs i < j; a type with itself is no colocalization and no test."""
    index = np.triu_indices(len(p), 1)
    q = np.full(p.shape, np.nan)
    q[index] = q[index[::-1]] = false_discovery(p[index])
    return q


def score_significance(spec: Mapping[str, Any], labels: Labels, positions: pd.DataFrame) -> list[pd.DataFrame]:
    """Return Moran's R of the labels with permutation p and q.

    Parameters
    ----------
    spec
        The check's entry: ``moran``, ``permutations``, ``scheme``, ``seed``.
    labels
        Of one cohort.
    positions
        Of its observations, from `read_positions`.

    Returns
    -------
    list of DataFrame
        ``morans_r`` (z-scores within the section), ``morans_p`` and ``morans_q`` per section; the same per cohort, R
        being the mean over patients of means over sections, its null that mean under the same permutations; q is over
        the pairs i < j. ``w_neighbours`` and ``w_self_share`` per section and rolled up. Flagged sections enter no
        cohort value.
    """
    moran, count, scheme = spec.get("moran") or {}, int(spec["permutations"]), str(spec["scheme"])
    seed, types = int(spec["seed"]), labels.types
    obs = positions.reindex(labels.obs.index)
    known = has_positions(obs, moran)
    parts: list[pd.DataFrame] = []
    diagnostics: list[pd.DataFrame] = []
    means: dict[str, list[tuple[Floats, Floats]]] = {}
    for place, index in labels.sections():
        index = index[known[index]]
        place["qc_flag"] = str(obs["qc_flag"].iloc[index[0]]) if len(index) else place["qc_flag"]
        if len(index) < _LEAST:
            logger.warning("%s/%s: %d placed observations, no Moran's R", place["cohort"], place["sample"], len(index))
            continue
        placed, values = obs.iloc[index], labels.values[index]
        weights = protocol_weights(placed, moran)
        observed = morans_r(values, weights)
        array = placed[["array_row", "array_col"]].to_numpy(dtype=float)
        null = null_maps(
            values,
            weights,
            array,
            scheme=scheme,
            count=count,
            seed=seed,
            least=int(spec.get("least_shift", 3)),
            lattice=str(placed["lattice"].iloc[0]),
        )
        p = permutation_p(observed, null)
        for metric, matrix in (("morans_r", observed), ("morans_p", p), ("morans_q", _q_matrix(p))):
            parts.append(map_rows(metric, types, matrix, place, aggregation="section", n=len(index)))
        diagnostics.append(diagnostic_rows(weights, place))
        if not place["qc_flag"]:
            means.setdefault(place["patient"], []).append((observed, null))
    if diagnostics:
        parts.append(roll_up(pd.concat(diagnostics, ignore_index=True).assign(target=""), types=False))
    if means:
        cohort = {"cohort": labels.cohort, "aggregation": "cohort", "n": len(means)}
        observed, null = (
            mean_defined([mean_defined([item[k] for item in items]) for items in means.values()]) for k in range(2)
        )
        p = permutation_p(observed, null)
        for metric, matrix in (("morans_r", observed), ("morans_p", p), ("morans_q", _q_matrix(p))):
            parts.append(map_rows(metric, types, matrix, cohort))
    return parts


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw Moran's R of the labels; pairs beyond chance are marked."""
    rows = rows[rows["aggregation"] == "cohort"]
    w = rows[rows["metric"].isin(["w_neighbours", "w_self_share"])].groupby("metric")["value"].mean()
    maps = rows[rows["metric"].isin(["morans_r", "morans_q"])]
    types = sorted(set(maps["target"]) | set(maps["target2"]))
    with figure(2.9 + 0.27 * max(len(types), 10), 2.6 + 0.24 * max(len(types), 10)) as fig:
        ax = fig.subplots()
        if len(types) < 2:
            note(ax, "no section with array coordinates and without a QC flag")
            save(fig, out)
            return
        one = maps[maps["cohort"] == sorted(maps["cohort"].unique())[0]]
        r, q = (as_matrix(one[one["metric"] == name], types) for name in ("morans_r", "morans_q"))
        keep = np.isfinite(np.diagonal(r))
        r, q, names = r[np.ix_(keep, keep)], q[np.ix_(keep, keep)], [t for t, k in zip(types, keep, strict=True) if k]
        order = cluster_order(np.nan_to_num(r))
        r, q, names = r[np.ix_(order, order)], q[np.ix_(order, order)], [names[i] for i in order]
        off = ~np.eye(len(names), dtype=bool)
        limit = max(float(np.nanmax(np.abs(r[off]))), 1e-6)
        image = ax.imshow(np.where(off, r, np.nan), cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_facecolor("#D9D9D9")
        beyond = (q <= spec["fdr"]) & off
        for i, j in np.argwhere(beyond):
            ax.plot(j, i, "o", ms=2.8, mfc="black", mec="white", mew=0.4)
        size = float(np.clip(200 / len(names), 5, 8))
        ax.set_xticks(range(len(names)), short_names(names, 24), rotation=90, fontsize=size)
        ax.set_yticks(range(len(names)), short_names(names, 24), fontsize=size)
        ax.tick_params(length=0)
        fig.colorbar(image, ax=ax, shrink=0.7, pad=0.02).set_label("bivariate Moran's R (diagonal not drawn)")
        tests = int(np.isfinite(q[off]).sum() / 2)
        text = (
            f"{spec['labels']}: {int(beyond.sum() / 2)} of {tests} pairs at FDR {spec['fdr']:g} (dots), "
            f"{spec['permutations']} {spec['scheme']} permutations\n{one['n'].max()} patients; W "
            f"{(spec.get('moran') or {}).get('protocol', 'array')}: {w.get('w_neighbours', np.nan):.1f} neighbours, "
            f"self {w.get('w_self_share', np.nan):.0%} of all weight"
        )
        fig.suptitle(**heading(title, text))
        save(fig, out)
