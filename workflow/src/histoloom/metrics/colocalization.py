"""Rows of Moran's R and of map similarity, per section and over a cohort's sections side by side."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.moran import HIST2CELL, map_similarity, morans_r, protocol_weights, weight_diagnostics
from histoloom.metrics.rows import value_row
from histoloom.metrics.scored import PLACE
from histoloom.obs_keys import section_keys
from histoloom.stats import Floats

if TYPE_CHECKING:
    from histoloom.metrics.scored import Scored

logger = logging.getLogger(__name__)

_MIN_OBSERVATIONS = 3


def map_rows(metric: str, types: list[str], matrix: Floats, place: Mapping[str, Any]) -> pd.DataFrame:
    """Return a symmetric map as rows of pairs i <= j."""
    first, second = np.triu_indices(len(types))  # R is symmetric, as the weights are
    names, value = np.asarray(types, dtype=object), matrix[first, second]
    pairs = {"target": names[first], "target2": names[second], "n_nan": np.isnan(value).astype(int)}
    return pd.DataFrame({"metric": metric, "value": value, **pairs, **place})


def _similarity_rows(first: Floats, second: Floats, place: Mapping[str, Any]) -> pd.DataFrame:
    similarity, n, n_nan = map_similarity(first, second)
    rows = [{"metric": metric, "gene_set": form, "value": value} for (metric, form), value in similarity.items()]
    return pd.DataFrame(rows).assign(n=n, n_nan=n_nan, **place)


def has_positions(obs: pd.DataFrame, moran: Mapping[str, Any]) -> np.ndarray:
    """Say which observations have the positions that a protocol asks for."""
    columns = ["x", "y"] if moran.get("protocol") == HIST2CELL else ["array_row", "array_col", "pitch_um"]
    if any(column not in obs for column in columns):
        return np.zeros(len(obs), dtype=bool)
    return np.isfinite(obs[columns].to_numpy(dtype=np.float64)).all(axis=1)


def diagnostic_rows(weights: Any, place: Mapping[str, Any]) -> pd.DataFrame:
    """Return what a reader must know of a section's W, as metric rows."""
    numbers = weight_diagnostics(weights)
    return pd.DataFrame([value_row(place, metric, value, weights.shape[0]) for metric, value in numbers.items()])


def _groups(obs: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.Index]]:
    """Yield each section of each fold, then each cohort without flagged sections, every observation once."""
    for key, labels in sorted(obs.groupby(PLACE, observed=True, sort=True).groups.items()):
        if len(labels) >= _MIN_OBSERVATIONS:
            yield {**dict(zip(PLACE, cast("tuple[str, ...]", key), strict=True)), "aggregation": "section"}, labels
    pooled = obs[obs["qc_flag"] == ""].drop_duplicates(["cohort", "sample", "obs_id"])
    for cohort, labels in sorted(pooled.groupby("cohort", observed=True, sort=True).groups.items()):
        yield {"cohort": str(cohort), "aggregation": "pooled"}, labels


def score_colocalization(scored: Scored, moran: Mapping[str, Any]) -> list[pd.DataFrame]:
    """Return rows of ``morans_r`` (prediction), ``morans_r_reference`` and the similarity of the two maps.

    Section rows and pooled rows (all sections of a cohort without a QC flag, W block-diagonal, z-scores over all of
    them) of both maps, pairs i <= j; similarity also per patient and cohort, with its form in ``gene_set``;
    ``w_neighbours`` and ``w_self_share`` per section. Observations without array coordinates are left out, with a
    warning. For `moran` see `histoloom.metrics.moran.protocol_weights`.
    """
    known = has_positions(scored.obs, moran)
    if not known.all():
        names = sorted(section_keys(scored.obs[~known]))
        logger.warning("no Moran's R without array coordinates and pitch: %s", ", ".join(dict.fromkeys(names)))
    obs = scored.obs[known]
    parts: list[pd.DataFrame] = []
    for against, reference in scored.reference.items():
        tables: list[pd.DataFrame] = []
        similar: list[pd.DataFrame] = []
        for place, labels in _groups(obs):
            index, weights = labels.to_numpy(), protocol_weights(obs.loc[labels], moran)
            known = np.isfinite(reference[index]).all(axis=0)
            predicted, expected = morans_r(scored.prediction[index], weights), np.full((len(known),) * 2, np.nan)
            expected[np.ix_(known, known)] = morans_r(reference[index][:, known], weights)
            tables.append(map_rows("morans_r_reference", scored.types, expected, {**place, "n": len(index)}))
            if against == "labels":
                tables.append(map_rows("morans_r", scored.types, predicted, {**place, "n": len(index)}))
                if place["aggregation"] == "section":
                    tables.append(diagnostic_rows(weights, place))
            similarity = _similarity_rows(predicted, expected, place)
            (similar if place["aggregation"] == "section" else tables).append(similarity)
        if similar:
            tables.append(roll_up(pd.concat(similar, ignore_index=True), types=False))
        parts += [table.assign(against=against) for table in tables]
    return parts
