"""Check of labels: which pairs of types are colocalized beyond chance, with the false discovery rate under control."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.lattice import lattice_of
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.colocalization import diagnostic_rows, has_positions
from histoloom.metrics.labelled import Labels, sections_of
from histoloom.metrics.moran import morans_r, protocol_weights, upper_pairs
from histoloom.metrics.significance import false_discovery, null_maps, permutation_p
from histoloom.obs_keys import obs_keys
from histoloom.samples.section import open_section
from histoloom.stats import Floats

logger = logging.getLogger(__name__)

_LEAST = 20


def read_positions(paths: Sequence[Path], cohort: str) -> pd.DataFrame:
    """Return array coordinates, pitch, px and qc_flag of a cohort's observations, index ``cohort/sample/obs_id``."""
    found = []
    for path in paths:
        section = open_section(path)
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
        found.append(part)
    if not found:
        raise InputError(f"cohort '{cohort}'", "none of its sections was given.", "name sections of this cohort.")
    return pd.concat(found)


def _pairs(metric: str, types: list[str], matrix: Floats, **place: Any) -> pd.DataFrame:
    first, second, index = upper_pairs(types)
    value = matrix[index]
    return pd.DataFrame(
        {"metric": metric, "target": first, "target2": second, "value": value, "n_nan": np.isnan(value).astype(int),
         **place}
    )  # fmt: skip


def _q_matrix(p: Floats) -> Floats:
    """Return q values of the pairs i < j; a type with itself is no colocalization and no test."""
    index = np.triu_indices(len(p), 1)
    found = np.full(p.shape, np.nan)
    found[index] = found[index[::-1]] = false_discovery(p[index])
    return found


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
    for place, index in sections_of(labels):
        index = index[known[index]]
        place["qc_flag"] = str(obs["qc_flag"].iloc[index[0]]) if len(index) else place["qc_flag"]
        if len(index) < _LEAST:
            logger.warning("%s/%s: %d placed observations, no Moran's R", place["cohort"], place["sample"], len(index))
            continue
        here, values = obs.iloc[index], labels.values[index]
        weights = protocol_weights(here, moran)
        observed = morans_r(values, weights)
        array = here[["array_row", "array_col"]].to_numpy(dtype=float)
        null = null_maps(
            values,
            weights,
            array,
            scheme=scheme,
            count=count,
            seed=seed,
            least=int(spec.get("least_shift", 3)),
            lattice=str(here["lattice"].iloc[0]),
        )
        p = permutation_p(observed, null)
        for metric, matrix in (("morans_r", observed), ("morans_p", p), ("morans_q", _q_matrix(p))):
            parts.append(_pairs(metric, types, matrix, aggregation="section", n=len(index), **place))
        diagnostics.append(diagnostic_rows(weights, place))
        if not place["qc_flag"]:
            means.setdefault(place["patient"], []).append((observed, null))
    if diagnostics:
        parts.append(roll_up(pd.concat(diagnostics, ignore_index=True).assign(target=""), types=False))
    if means:
        cohort = {"cohort": labels.obs["cohort"].iloc[0], "aggregation": "cohort", "n": len(means)}
        observed, null = (
            _mean([_mean([item[k] for item in items]) for items in means.values()]) for k in range(2)
        )  # fmt: skip
        p = permutation_p(observed, null)
        for metric, matrix in (("morans_r", observed), ("morans_p", p), ("morans_q", _q_matrix(p))):
            parts.append(_pairs(metric, types, matrix, **cohort))
    return parts


def _mean(items: Sequence[Floats]) -> Floats:
    """Return the mean of arrays where all are defined there, or of those that are."""
    stacked = np.stack(items)
    defined = np.isfinite(stacked)
    total, count = np.where(defined, stacked, 0.0).sum(axis=0), defined.sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
