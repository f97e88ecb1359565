"""How sure a cohort's mean is: patients are the unit, and a handful of them makes no interval."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MIN_PATIENTS = 5
"""With fewer patients, points are shown: no interval, no p."""
_RESAMPLES = 10_000


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
