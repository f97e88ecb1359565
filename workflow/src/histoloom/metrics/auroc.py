"""Area under the ROC curve with DeLong's interval (doi:10.2307/2531595; ranks as in doi:10.1109/LSP.2014.2337313)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


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
