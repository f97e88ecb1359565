"""How sure a number is. Of a cohort's mean patients are the unit, and a handful of them makes no interval.

The AUROC has DeLong's interval (doi:10.2307/2531595; ranks as in doi:10.1109/LSP.2014.2337313).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.stats import Floats

MIN_PATIENTS = 5  # With fewer patients, points are shown: no interval, no p
_RESAMPLES = 10_000
_PATTERNS = 100_000


def sign_flip_p(differences: npt.ArrayLike, *, seed: int = 0) -> float:
    """Return the two-sided p of a paired sign-flip test of the patients' mean difference against zero.

    Under the null a patient's difference is as likely to have the other sign (Fisher 1935). All ``2^n`` patterns are
    tried up to 16 patients, so that p is exact and never below ``2 / 2^n`` (five patients reach .0625); above, 100,000
    drawn ones, and p is never 0. Undefined values are left out; NaN with fewer than `MIN_PATIENTS`.
    """
    from scipy.stats import permutation_test

    data = np.asarray(differences, dtype=np.float64)
    data = data[np.isfinite(data)]
    if len(data) < MIN_PATIENTS:
        return float("nan")
    # All patterns are tried where there are no more of them than are drawn: up to 16 patients.
    options: dict[str, Any] = {"permutation_type": "samples", "vectorized": True, "rng": np.random.default_rng(seed)}
    return float(permutation_test((data,), np.mean, n_resamples=_PATTERNS - 1, batch=_RESAMPLES, **options).pvalue)


def _correct_defined(p: npt.ArrayLike, correct: Callable[[Floats], Floats]) -> Floats:
    """Correct the p values that are defined; NaN stay NaN and are not counted as tests."""
    values = np.asarray(p, dtype=np.float64)
    corrected = np.full(values.shape, np.nan)
    defined = np.isfinite(values)
    if defined.any():
        corrected[defined] = correct(values[defined])
    return corrected


def holm(p: npt.ArrayLike) -> Floats:
    """Return p values after Holm's step-down correction."""
    from statsmodels.stats.multitest import multipletests

    return _correct_defined(p, lambda defined: multipletests(defined, method="holm")[1])


def false_discovery(p: npt.ArrayLike) -> Floats:
    """Return q values after Benjamini and Hochberg (1995)."""
    from scipy.stats import false_discovery_control

    return _correct_defined(p, false_discovery_control)


def compare_models(rows: pd.DataFrame, models: Sequence[str], *, metric: str = "cc") -> pd.DataFrame:
    """Compare every two models, patient by patient, on the pairs of section and type that both have a number of.

    Means are taken in the order of the headline: types in a section, sections, patients. ``model`` in the rows of one
    experiment tells variants apart. Columns: cohort, against, first, second, n_patients, n_pairs (of section and type),
    difference (mean of first minus second), n_first_higher, p, p_holm. p is NaN below `MIN_PATIENTS`; Holm's correction
    is over all pairs of one cohort and reference.
    """
    chosen = rows[
        (rows["metric"] == metric) & (rows["aggregation"] == "section") & (rows["train_seed"] == -1)
        & (rows["qc_flag"] == "") & rows["model"].isin(list(models))
    ]  # fmt: skip
    by_type = chosen["target"] != ""
    chosen = chosen[by_type] if by_type.any() else chosen
    place = ["patient", "sample", "fold", "target"]
    columns = ["cohort", "against", "first", "second"]
    columns += ["n_patients", "n_pairs", "difference", "n_first_higher", "p", "p_holm"]
    tables = []
    for (cohort, against), part in chosen.groupby(["cohort", "against"], sort=True):
        wide = part.pivot(index=place, columns="model", values="value")
        table = []
        for first, second in combinations([model for model in models if model in wide], 2):
            pairs = (wide[first] - wide[second]).dropna()
            sections = pairs.groupby(level=["patient", "sample", "fold"]).mean().groupby(level=[0, 1]).mean()
            patients = sections.groupby(level="patient").mean()
            numbers = (float(patients.mean()), int((patients > 0).sum()), sign_flip_p(patients.to_numpy()))
            table.append((cohort, against, first, second, len(patients), len(pairs), *numbers))
        if table:
            frame = pd.DataFrame(table, columns=columns[:-1])
            tables.append(frame.assign(p_holm=holm(frame["p"].to_numpy())))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def bootstrap_interval(
    values: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Return a percentile bootstrap interval of the mean over patients; None with fewer than `MIN_PATIENTS` defined.

    A patient is drawn with its weight.
    """
    from scipy.stats import bootstrap

    data = np.asarray(values, dtype=np.float64)
    heavy = np.ones(len(data)) if weights is None else np.asarray(weights, dtype=np.float64)
    data, heavy = data[np.isfinite(data)], heavy[np.isfinite(data)]
    if len(data) < MIN_PATIENTS:
        return None
    if np.ptp(data) == 0:
        return float(data[0]), float(data[0])
    rng, options = np.random.default_rng(seed), {"n_resamples": _RESAMPLES, "method": "percentile"}

    def mean(drawn: npt.NDArray[np.float64], weight: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
        return (drawn * weight).sum(axis=axis) / weight.sum(axis=axis)

    result = bootstrap((data, heavy), mean, paired=True, confidence_level=confidence, rng=rng, **options)
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)


def auroc_with_interval(
    inside: npt.NDArray[np.bool_], score: npt.NDArray[np.float64], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the AUROC of a score (n,) for being inside (n,), and the low and high end of its interval.

    Ties count one half. All NaN when the score is constant: it says nothing. The interval is cut to [0, 1]; NaN with
    fewer than two of either kind. Spots are neighbours and not independent draws, so it is a lower bound of the
    uncertainty.
    """
    from scipy.stats import norm, rankdata
    from sklearn.metrics import roc_auc_score

    if np.ptp(score) == 0:
        return float("nan"), float("nan"), float("nan")
    value = float(roc_auc_score(inside, score))
    positive, negative = score[inside], score[~inside]
    m, n = len(positive), len(negative)
    if min(m, n) < 2:
        return value, float("nan"), float("nan")
    everyone = rankdata(np.concatenate([positive, negative]))
    # Share of the other kind that each observation is ranked above.
    above = (everyone[:m] - rankdata(positive)) / n
    below = 1.0 - (everyone[m:] - rankdata(negative)) / m
    spread = float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
    half = float(norm.ppf(0.5 + confidence / 2)) * spread
    return value, max(0.0, value - half), min(1.0, value + half)
