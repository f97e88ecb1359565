"""How sure a cohort's mean is: patients are the unit, and a handful of them makes no interval."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

MIN_PATIENTS = 5
"""With fewer patients, points are shown: no interval, no p."""
_RESAMPLES = 10_000
_ENUMERATED = 16
_PATTERNS = 100_000


def sign_flip_p(differences: npt.ArrayLike, *, seed: int = 0) -> float:
    """Return the two-sided p of a paired sign-flip test of the mean difference against zero.

    Under the null a patient's difference is as likely to have the other sign; the p is the share of all ``2^n`` sign
    patterns whose mean is at least as far from zero (Fisher 1935). It is exact, assumes no distribution and takes
    patients as the unit; it is never below ``2 / 2^n``: five patients reach .0625.

    Parameters
    ----------
    differences
        One value per patient; undefined ones are left out.
    seed
        Above 16 patients, of the 100,000 patterns drawn instead of all.

    Returns
    -------
    float
        NaN with fewer than `MIN_PATIENTS` defined values.
    """
    data = np.asarray(differences, dtype=np.float64)
    data = data[np.isfinite(data)]
    n = len(data)
    if n < MIN_PATIENTS:
        return float("nan")
    limit = abs(data.sum()) * (1 - 1e-12)
    if n <= _ENUMERATED:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        sums = (1.0 - 2.0 * patterns) @ data
        return float((np.abs(sums) >= limit).mean())
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(_PATTERNS, n))
    return float((1 + (np.abs(signs @ data) >= limit).sum()) / (1 + _PATTERNS))


def holm(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return p values after Holm's step-down correction over all defined ones; NaN stay NaN and are no tests."""
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(p, dtype=np.float64)
    found = np.full(values.shape, np.nan)
    defined = np.isfinite(values)
    if defined.any():
        found[defined] = multipletests(values[defined], method="holm")[1]
    return found


def compare_models(rows: pd.DataFrame, models: Sequence[str], *, metric: str = "cc") -> pd.DataFrame:
    """Compare every two models over the patients that both were scored on.

    Parameters
    ----------
    rows
        Metric rows of one experiment.
    models
        Models in the order wanted.
    metric
        A metric with one value over all types per patient.

    Returns
    -------
    DataFrame
        cohort, against, first, second, n_patients, difference (mean of first minus second), n_first_higher, p, p_holm.
        p is NaN below `MIN_PATIENTS`; Holm's correction is over all pairs of one cohort and reference.
    """
    chosen = rows[
        (rows["metric"] == metric) & (rows["aggregation"] == "patient") & (rows["target"] == "")
        & (rows["train_seed"] == -1) & (rows["qc_flag"] == "")
    ]  # fmt: skip
    found = []
    for (cohort, against), part in chosen.groupby(["cohort", "against"], sort=True):
        wide = part.pivot_table(index="patient", columns="model", values="value", dropna=False)
        table = []
        for first, second in combinations([m for m in models if m in wide], 2):
            both = (wide[first] - wide[second]).dropna()
            table.append(
                {"cohort": cohort, "against": against, "first": first, "second": second, "n_patients": len(both),
                 "difference": float(both.mean()) if len(both) else np.nan, "n_first_higher": int((both > 0).sum()),
                 "p": sign_flip_p(both.to_numpy())}
            )  # fmt: skip
        if table:
            frame = pd.DataFrame(table)
            found.append(frame.assign(p_holm=holm(frame["p"].to_numpy())))
    columns = ["cohort", "against", "first", "second", "n_patients", "difference", "n_first_higher", "p", "p_holm"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def bootstrap_interval(values: npt.ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
    """Return a percentile bootstrap interval of the mean over patients.

    Parameters
    ----------
    values
        One value per patient; undefined ones are left out.
    confidence
        Coverage asked for.
    seed
        Seed of the resampling.

    Returns
    -------
    tuple of float or None
        None with fewer than `MIN_PATIENTS` defined values.
    """
    from scipy.stats import bootstrap

    data = np.asarray(values, dtype=np.float64)
    data = data[np.isfinite(data)]
    if len(data) < MIN_PATIENTS:
        return None
    if np.ptp(data) == 0:
        return float(data[0]), float(data[0])
    found = bootstrap(
        (data,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
