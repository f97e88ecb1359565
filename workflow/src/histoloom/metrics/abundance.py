"""CC and L1 of abundance predictions, in every aggregation of the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from histoloom.metrics.aggregate import add_ratio, mean_by, over_types, roll_up, to_cohort, to_patients
from histoloom.obs_keys import section_keys
from histoloom.stats import Floats, pearson_columns, pearson_rows

if TYPE_CHECKING:
    from histoloom.metrics.scored import Scored

_PLACE = ["fold", "cohort", "patient", "sample", "qc_flag"]


def _sections(obs: pd.DataFrame) -> Iterator[tuple[dict[str, str], np.ndarray]]:
    """Yield each tested section of each fold with the positions of its observations."""
    for key, index in sorted(obs.groupby(_PLACE, observed=True, sort=True).indices.items()):
        yield dict(zip(_PLACE, cast("tuple[str, ...]", key), strict=True)), np.asarray(index)


def _absolute_error(prediction: Floats, reference: Floats) -> tuple[Floats, np.ndarray]:
    valid = np.isfinite(prediction) & np.isfinite(reference)
    n = valid.sum(axis=0)
    total = np.abs(np.where(valid, prediction - reference, 0.0)).sum(axis=0)
    return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0), n


def _frame(place: dict[str, str], types: list[str], metric: str, value: Floats, n: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {"metric": metric, "target": types, "value": value, "n": n, "n_nan": np.isnan(value).astype(int), **place}
    )


def section_values(
    scored: Scored, prediction: Floats, reference: Floats, means: pd.DataFrame | None, *, errors: bool = True
) -> pd.DataFrame:
    """Return cc and, if wanted, l1 and the train-mean predictor's l1, per fold, section and type.

    Parameters
    ----------
    scored
        For observations and types.
    prediction, reference
        (n, types).
    means
        Mean training target per fold; None leaves the mean predictor out.
    errors
        Whether to return l1.
    """
    parts = []
    for place, index in _sections(scored.obs):
        x, y = prediction[index], reference[index]
        parts.append(_frame(place, scored.types, "cc", *pearson_columns(x, y)))
        if not errors:
            continue
        parts.append(_frame(place, scored.types, "l1", *_absolute_error(x, y)))
        if means is not None:
            mean = np.broadcast_to(means.loc[place["fold"]].to_numpy(dtype=float), y.shape)
            parts.append(_frame(place, scored.types, "l1_mean_predictor", *_absolute_error(mean, y)))
    return pd.concat(parts, ignore_index=True)


def between_part(prediction: Floats, reference: Floats, section: np.ndarray) -> Floats:
    """Return the part of each column's pooled cc that comes from differences between section means.

    A pooled covariance is the covariance of section means plus the mean covariance within sections; divided by the
    pooled standard deviations, both parts add up to the pooled cc.

    Parameters
    ----------
    prediction, reference
        (n, types); an observation where either is NaN is left out of its column.
    section
        (n,) which section an observation lies in.

    Returns
    -------
    ndarray
        (types,); NaN where the cc is.
    """
    valid = np.isfinite(prediction) & np.isfinite(reference)
    n = np.maximum(valid.sum(axis=0), 1)
    centred = []
    for values in (prediction, reference):
        filled = np.where(valid, values, 0.0)
        centred.append(np.where(valid, filled - filled.sum(axis=0) / n, 0.0))
    code = np.unique(section, return_inverse=True)[1]
    between = np.zeros(prediction.shape[1])
    for s in range(int(code.max(initial=-1)) + 1):
        here = code == s
        size = np.maximum(valid[here].sum(axis=0), 1)
        between += centred[0][here].sum(axis=0) * centred[1][here].sum(axis=0) / size
    scale = np.sqrt((centred[0] ** 2).sum(axis=0) * (centred[1] ** 2).sum(axis=0))
    defined = np.isfinite(pearson_columns(prediction, reference)[0]) & (scale > 0)
    return np.divide(between, scale, out=np.full(len(scale), np.nan), where=defined)


def section_means(scored: Scored, reference: Floats) -> Floats:
    """Return the predictor that knows each test section's mean and nothing else, (n, types)."""
    section = section_keys(scored.obs).to_numpy()
    found: Floats = pd.DataFrame(reference).groupby(section).transform("mean").to_numpy()
    return found


def pooled_cc(scored: Scored, prediction: Floats, reference: Floats) -> pd.DataFrame:
    """Return cc with a patient's, and with a cohort's, observations thrown together; flagged sections stay outside.

    Next to ``cc`` stand ``cc_between``, its part from differences between sections (see `between_part`), and
    ``cc_section_mean``, the cc of the predictor that knows section means only.
    """
    obs = scored.obs[scored.obs["qc_flag"] == ""]
    flat = section_means(scored, reference)
    section = section_keys(scored.obs).to_numpy()
    parts = []
    for aggregation, by in (("pooled_patient", ["cohort", "patient"]), ("pooled", ["cohort"])):
        for key, labels in sorted(obs.groupby(by, observed=True, sort=True).groups.items()):
            place = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
            index = labels.to_numpy()
            value, n = pearson_columns(prediction[index], reference[index])
            between = between_part(prediction[index], reference[index], section[index])
            known = pearson_columns(flat[index], reference[index])[0]
            for metric, found in (("cc", value), ("cc_between", between), ("cc_section_mean", known)):
                parts.append(_frame(place, scored.types, metric, found, n).assign(aggregation=aggregation))
    if not parts:
        return pd.DataFrame()
    rows = pd.concat(parts, ignore_index=True).fillna({"patient": ""})
    per_patient = rows[rows["aggregation"] == "pooled_patient"]
    # The cohort's pooled_patient rows, patient "": the mean over patients.
    cohort = to_cohort(pd.concat([per_patient, over_types(per_patient)]).assign(qc_flag=""))
    return pd.concat(
        [rows, over_types(rows), cohort.assign(aggregation="pooled_patient", patient="")], ignore_index=True
    )


def spot_cc(scored: Scored, prediction: Floats, reference: Floats) -> pd.DataFrame:
    """Return cc across types within a spot: mean over a section's spots, then over sections and patients.

    Types of very different abundance make this high for any predictor that knows their means.
    """
    value, _ = pearson_rows(prediction, reference)
    spots = scored.obs[_PLACE].assign(value=value)
    sections = mean_by(spots, _PLACE).assign(metric="cc", target="", target2="")
    patients = to_patients(sections)
    cohort = to_cohort(patients)
    return pd.concat([sections, patients, cohort], ignore_index=True).assign(aggregation="spot")


def seed_rows(scored: Scored, reference: Floats) -> pd.DataFrame:
    """Return the cohort-level cc of each training seed by itself, to show the spread over seeds."""
    parts = []
    for seed, prediction in sorted(scored.seeds.items()):
        rows = roll_up(section_values(scored, prediction, reference, None, errors=False), types=True)
        parts.append(rows[rows["aggregation"] == "cohort"].assign(train_seed=seed))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def score_abundance(scored: Scored, means: pd.DataFrame, *, truth_has_units: bool = True) -> list[pd.DataFrame]:
    """Return all rows of cc, l1, l1_mean_predictor and l1_skill.

    Parameters
    ----------
    scored
        Predictions and references.
    means
        Mean training target per fold (folds, types).
    truth_has_units
        Whether the ground truth has the units of the target; where not, no error against it is formed.

    Notes
    -----
    ``l1_skill = 1 - l1 / l1_mean_predictor``, both aggregated first. Against the ground truth the mean predictor is
    still the mean of the training labels: no model trains on the truth.
    """
    parts: list[pd.DataFrame] = []
    for against, reference in scored.reference.items():
        errors = against.startswith("labels") or truth_has_units
        sections = section_values(scored, scored.prediction, reference, means, errors=errors)
        rows = roll_up(sections, types=True)
        found = [rows, pooled_cc(scored, scored.prediction, reference), spot_cc(scored, scored.prediction, reference)]
        if errors:
            found.append(add_ratio(rows, "l1", "l1_mean_predictor", "l1_skill"))
        found.append(seed_rows(scored, reference))
        parts += [part.assign(against=against) for part in found if len(part)]
    return parts
