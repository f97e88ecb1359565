"""Which pairs of types are colocalized beyond chance, with the false discovery rate under control."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.checks.base import Labels, Tables, by_sections, check_files, sections_of
from histoloom.errors import InputError
from histoloom.lattice import lattice_of
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.colocalization import diagnostic_rows, has_positions, map_rows
from histoloom.metrics.moran import morans_r, null_maps, permutation_p, protocol_weights
from histoloom.metrics.uncertainty import false_discovery
from histoloom.obs_keys import obs_keys
from histoloom.report.coloc import as_matrix, cluster_order
from histoloom.report.style import DIVERGING, drawing, heading, note, short_names
from histoloom.stats import Floats, mean_defined

logger = logging.getLogger(__name__)

_LEAST = 20


inputs = check_files


def read_positions(paths: Sequence[Path], cohort: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return array coordinates, pitch and px of a cohort's observations, and QC flags by section."""
    sections, qc_flags = sections_of(paths, cohort)
    if not sections:
        problem = "none of its sections was given."
        raise InputError(f"cohort '{cohort}'", problem, "name sections of this cohort.", code="check-no-section")
    parts = []
    for section in sections:
        obs = section.obs
        part = obs[["cohort", "sample", "array_row", "array_col"]].astype({"array_row": float, "array_col": float})
        part["pitch_um"] = float(section.metadata.get("pitch_um") or "nan")
        part["x"], part["y"] = section.spatial.T
        part["lattice"] = lattice_of(part["array_row"], part["array_col"])
        parts.append(
            part.astype({"cohort": object, "sample": object}).set_axis(obs_keys(cohort, section.sample, obs.index))
        )
    return pd.concat(parts), qc_flags


def _maps(types: list[str], observed: Floats, null: Floats, place: Mapping[str, Any]) -> Tables:
    """Return rows of R, p and q; q is over the pairs i < j: a type with itself is no colocalization and no test."""
    p = permutation_p(observed, null)
    index = np.triu_indices(len(p), 1)
    q = np.full(p.shape, np.nan)
    q[index] = q[index[::-1]] = false_discovery(p[index])
    maps = {"morans_r": observed, "morans_p": p, "morans_q": q}
    return [map_rows(metric, types, matrix, place) for metric, matrix in maps.items()]


def score_significance(spec: Mapping[str, Any], labels: Labels, positions: pd.DataFrame) -> Tables:
    """Return ``morans_r`` of the labels (z-scores within the section) with permutation p and q.

    A cohort's R is the mean over patients of means over sections, its null that mean under the same permutations; q is
    over the pairs i < j. ``w_neighbours`` and ``w_self_share`` per section and rolled up. Flagged sections enter no
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
        if len(index) < _LEAST:
            logger.warning("%s/%s: %d placed observations, no Moran's R", place["cohort"], place["sample"], len(index))
            continue
        placed, values = obs.iloc[index], labels.values[index]
        weights = protocol_weights(placed, moran)
        observed = morans_r(values, weights)
        array = placed[["array_row", "array_col"]].to_numpy(dtype=float)
        lattice, least = str(placed["lattice"].iloc[0]), int(spec.get("least_shift", 3))
        options: dict[str, Any] = {"scheme": scheme, "count": count, "seed": seed, "least": least, "lattice": lattice}
        null = null_maps(values, weights, array, **options)
        parts += _maps(types, observed, null, {**place, "aggregation": "section", "n": len(index)})
        diagnostics.append(diagnostic_rows(weights, place))
        if not place["qc_flag"]:
            means.setdefault(place["patient"], []).append((observed, null))
    if diagnostics:
        parts.append(roll_up(pd.concat(diagnostics, ignore_index=True), types=False))
    if means:
        cohort = {"cohort": labels.cohort, "aggregation": "cohort", "n": len(means)}
        observed, null = (
            mean_defined([mean_defined([item[k] for item in items]) for items in means.values()]) for k in range(2)
        )
        parts += _maps(types, observed, null, cohort)
    return parts


score = by_sections(read_positions, score_significance)


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw Moran's R of the labels; pairs beyond chance are marked."""
    rows = rows[rows["aggregation"] == "cohort"]
    w = rows[rows["metric"].isin(["w_neighbours", "w_self_share"])].groupby("metric")["value"].mean()
    maps = rows[rows["metric"].isin(["morans_r", "morans_q"])]
    types = sorted(set(maps["target"]) | set(maps["target2"]))
    with drawing(out, 2.9 + 0.27 * max(len(types), 10), 2.6 + 0.24 * max(len(types), 10)) as fig:
        ax = fig.subplots()
        if len(types) < 2:
            note(ax, "no section with array coordinates and without a QC flag")
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
        heading(fig, f"{title}\n{text}")
