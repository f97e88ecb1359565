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
    test = permutation_test(
        (data,), np.mean, permutation_type="samples", vectorized=True, rng=np.random.default_rng(seed),
        n_resamples=np.inf if len(data) <= _ENUMERATED else _PATTERNS - 1, batch=_RESAMPLES,
    )  # fmt: skip
    return float(test.pvalue)


def holm(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return p values after Holm's step-down correction over all defined ones; NaN stay NaN and are no tests."""
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(p, dtype=np.float64)
    corrected = np.full(values.shape, np.nan)
    defined = np.isfinite(values)
    if defined.any():
        corrected[defined] = multipletests(values[defined], method="holm")[1]
    return corrected


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
    tables = []
    for (cohort, against), part in chosen.groupby(["cohort", "against"], sort=True):
        wide = part.pivot(index=place, columns="model", values="value")
        table = []
        for first, second in combinations([model for model in models if model in wide], 2):
            pairs = (wide[first] - wide[second]).dropna()
            sections = pairs.groupby(level=["patient", "sample", "fold"]).mean().groupby(level=[0, 1]).mean()
            patients = sections.groupby(level="patient").mean()
            table.append(
                {"cohort": cohort, "against": against, "first": first, "second": second, "n_patients": len(patients),
                 "n_pairs": len(pairs), "difference": float(patients.mean()) if len(patients) else np.nan,
                 "n_first_higher": int((patients > 0).sum()), "p": sign_flip_p(patients.to_numpy())}
            )  # fmt: skip
        if table:
            frame = pd.DataFrame(table)
            tables.append(frame.assign(p_holm=holm(frame["p"].to_numpy())))
    columns = ["cohort", "against", "first", "second", "n_patients", "n_pairs", "difference", "n_first_higher", "p",
               "p_holm"]  # fmt: skip
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def bootstrap_interval(values: npt.ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
    """Return a percentile bootstrap interval of the mean over patients; None with fewer than `MIN_PATIENTS` defined."""
    from scipy.stats import bootstrap

    data = np.asarray(values, dtype=np.float64)
    data = data[np.isfinite(data)]
    if len(data) < MIN_PATIENTS:
        return None
    if np.ptp(data) == 0:
        return float(data[0]), float(data[0])
    interval = bootstrap(
        (data,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
