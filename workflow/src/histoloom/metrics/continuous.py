"""Scores of numbers per observation (abundance, expression), in every aggregation of the protocol.

=====================  ==============================================================================================
metric                 what
=====================  ==============================================================================================
``cc``                 Pearson's r over the observations of a section, per type. NaN where the labels are constant,
                       whatever the model, and of a gene that is constant in the fold's training; 0 where the
                       prediction is constant and the labels are not
``sd_ratio``           SD of the prediction by SD of the labels in the section: ``cc`` does not see amplitude
``slope``              least-squares slope of the prediction on the labels, ``cc x sd_ratio``; undefined as ``cc`` is
``l1``                 mean absolute error
``l1_mean_predictor``  that of the training mean
``l1_skill``           ``1 - l1 / l1_mean_predictor``, both aggregated first
=====================  ==============================================================================================

Order of means: types in a section, then sections of a patient, then patients (`histoloom.metrics.aggregate`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histoloom.metrics.aggregate import add_ratio, mean_by, over_types, roll_up, to_cohort, to_patients
from histoloom.metrics.rows import value_rows
from histoloom.metrics.scored import PLACE
from histoloom.obs_keys import section_keys
from histoloom.stats import Floats, amplitude_columns, centred, is_constant, mean_defined, pairwise, score_columns

if TYPE_CHECKING:
    from histoloom.metrics.scored import Scored

SMALL_SPREAD = 0.1
"""A model whose predictions spread less than this share of the labels' SD is warned of: its CC says little of use."""


def _absolute_error(prediction: Floats, reference: Floats) -> tuple[Floats, np.ndarray]:
    return mean_defined(np.abs(prediction - reference)), np.isfinite(prediction - reference).sum(axis=0)


def section_rows(scored: Scored, prediction: Floats, reference: Floats, *, errors: bool = True) -> pd.DataFrame:
    """Return cc, sd_ratio, slope and, if wanted, l1 and the training mean's l1, per fold, section and type.

    Types that no observation of a fold has a number of, such as genes outside the fold's panel, have no rows when some
    other type has one.
    """
    parts = []
    asked = {
        fold: np.isfinite(reference[index]).any(axis=0)
        for fold, index in scored.obs.groupby("fold", observed=True).indices.items()
    }
    panel = len({mask.tobytes() for mask in asked.values()}) > 1
    for place, index in scored.sections():
        columns = np.flatnonzero(asked[place["fold"]]) if panel else np.arange(len(scored.types))
        types = [scored.types[i] for i in columns]
        x, y = prediction[np.ix_(index, columns)], reference[np.ix_(index, columns)]
        cc, n = score_columns(x, y)
        ratio, slope = amplitude_columns(x, y)
        untrained = scored.untrained(index)[columns]
        cc, ratio, slope = (np.where(untrained, np.nan, values) for values in (cc, ratio, slope))
        numbers = [("cc", cc, n), ("sd_ratio", ratio, n), ("slope", slope, n)]
        if errors:
            numbers.append(("l1", *_absolute_error(x, y)))
            if len(scored.means):
                mean = scored.means.loc[place["fold"]].to_numpy(dtype=float)[columns]
                numbers.append(("l1_mean_predictor", *_absolute_error(np.broadcast_to(mean, y.shape), y)))
        parts += [value_rows(place, types, *number) for number in numbers]
    return pd.concat(parts, ignore_index=True)


def between_part(prediction: Floats, reference: Floats, section: np.ndarray) -> Floats:
    """Return the part of each column's pooled cc that comes from differences between section means.

    A pooled covariance is the covariance of section means plus the mean covariance within sections; divided by the
    pooled standard deviations, both parts add up to the pooled cc. NaN where the cc is.
    """
    prediction, reference, valid = pairwise(prediction, reference)
    x, y = centred(prediction, valid), centred(reference, valid)
    code = np.unique(section, return_inverse=True)[1]
    between = np.zeros(prediction.shape[1])
    for s in range(int(code.max(initial=-1)) + 1):
        rows = code == s
        size = np.maximum(valid[rows].sum(axis=0), 1)
        between += x[rows].sum(axis=0) * y[rows].sum(axis=0) / size
    scale = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    constant = is_constant(prediction) | (scale == 0)
    part = np.divide(between, scale, out=np.zeros(len(scale)), where=~constant)
    return np.where(np.isnan(score_columns(prediction, reference)[0]), np.nan, part)


def pooled_rows(scored: Scored, prediction: Floats, reference: Floats) -> pd.DataFrame:
    """Return cc over a patient's, and over a cohort's, observations together; flagged sections stay outside.

    Next to ``cc`` stand ``cc_between``, its part from differences between sections (see `between_part`), and
    ``cc_section_mean``, the cc of the predictor that knows each test section's mean and nothing else.
    """
    section = section_keys(scored.obs).to_numpy()
    flat = pd.DataFrame(reference).groupby(section).transform("mean").to_numpy()
    parts = []
    for place, index in scored.pooled():
        x, y = prediction[index], reference[index]
        cc, n = score_columns(x, y)
        between, of_means = between_part(x, y, section[index]), score_columns(flat[index], y)[0]
        untrained = scored.untrained(index)
        cc, between = (np.where(untrained, np.nan, values) for values in (cc, between))
        numbers = {"cc": cc, "cc_between": between, "cc_section_mean": of_means}
        parts += [value_rows(place, scored.types, metric, value, n) for metric, value in numbers.items()]
    if not parts:
        return pd.DataFrame()
    rows = pd.concat(parts, ignore_index=True).fillna({"patient": ""})
    rows = pd.concat([rows, over_types(rows)], ignore_index=True)
    cohort = to_cohort(rows[rows["aggregation"] == "pooled_patient"].assign(qc_flag=""))
    return pd.concat([rows, cohort.assign(aggregation="pooled_patient", patient="")], ignore_index=True)


def spot_rows(scored: Scored, prediction: Floats, reference: Floats) -> pd.DataFrame:
    """Return cc across types within a spot: mean over a section's spots, then over sections and patients.

    Types of very different abundance make this high for any predictor that knows their means.
    """
    spots = scored.obs[PLACE].assign(value=score_columns(prediction.T, reference.T)[0])
    sections = mean_by(spots, PLACE).assign(metric="cc", target="", target2="")
    patients = to_patients(sections)
    return pd.concat([sections, patients, to_cohort(patients)], ignore_index=True).assign(aggregation="spot")


def seed_rows(scored: Scored, reference: Floats) -> pd.DataFrame:
    """Return the cohort's cc of each training seed by itself, to show the spread over seeds."""
    parts = []
    for seed, prediction in sorted(scored.seeds.items()):
        sections = section_rows(scored, prediction, reference, errors=False)
        rows = roll_up(sections[sections["metric"] == "cc"], types=True)
        parts.append(rows[rows["aggregation"] == "cohort"].assign(train_seed=seed))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def score_continuous(scored: Scored) -> list[pd.DataFrame]:
    """Return all rows of the module's metrics, against labels and ground truth.

    No error is formed against ground truth whose units are not the target's. Against ground truth the mean predictor is
    still the mean of the training labels: no model is trained on the truth.
    """
    truth_has_units = scored.target.get("truth_units") in {None, scored.target.get("units")}
    parts: list[pd.DataFrame] = []
    for against, reference in scored.reference.items():
        errors = against.startswith("labels") or truth_has_units
        rows = roll_up(section_rows(scored, scored.prediction, reference, errors=errors), types=True)
        others = (build(scored, scored.prediction, reference) for build in (pooled_rows, spot_rows))
        tables = [rows, *others, seed_rows(scored, reference)]
        if errors:
            tables.append(add_ratio(rows, "l1", "l1_mean_predictor", "l1_skill"))
        parts += [table.assign(against=against) for table in tables if len(table)]
    return parts
