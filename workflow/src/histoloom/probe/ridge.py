"""The probe of HEST-bench and the same with an alpha chosen within the training patients.

Jaume et al., HEST-1k: a dataset for spatial transcriptomics and histology image analysis, NeurIPS 2024,
arXiv:2406.16192; constants from its public benchmark code: StandardScaler, PCA with 256 components, ridge with
alpha = 100 / (d * genes) where d is the number of components, solver lsqr, no intercept; Pearson correlation of each
gene over all spots of the test fold, then means over genes and over folds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.errors import InputError
from histoloom.stats import pearson_columns

logger = logging.getLogger(__name__)

COMPONENTS = 256
ALPHA_NUMERATOR = 100.0
ALPHAS = tuple(float(a) for a in np.logspace(-4, 6, 21))
"""What an inner alpha is chosen from; the published one lies far below its plateau for most encoders."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """A probe's settings.

    Attributes
    ----------
    alpha
        ``"published"``: 100 / (d * genes). ``"inner"``: of `alphas`, the best mean correlation over inner folds, each
        of which holds out one training patient.
    components
        Components of the PCA; fewer where an embedding or a fold has fewer; None: no PCA.
    alphas
        What is tried for ``"inner"``.
    seed
        Of the PCA's solver.
    """

    alpha: Literal["published", "inner"] = "published"
    components: int | None = COMPONENTS
    alphas: Sequence[float] = field(default=ALPHAS)
    seed: int = 1


def probe_folds(
    features: npt.ArrayLike,
    expression: npt.ArrayLike,
    patients: Sequence[str],
    folds: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
    genes: Sequence[str],
    probe: Probe | None = None,
) -> pd.DataFrame:
    """Score an embedding over folds.

    Parameters
    ----------
    features
        (n, dim), the embedding.
    expression
        (n, genes), the panel's expression as the benchmark has it: log1p of raw counts, no size factor.
    patients
        Patient of each observation, n; inner folds keep a patient together.
    folds
        Name -> (rows of training, rows of test).
    genes
        Names of the panel.
    probe
        Settings.

    Returns
    -------
    DataFrame
        One row per fold and gene: fold, gene, pcc (NaN where truth or prediction is constant), alpha, n.

    Raises
    ------
    InputError
        If lengths differ, values are not finite, or a patient stands in training and test.
    """
    probe = probe or Probe()
    x, y = np.asarray(features, np.float64), np.asarray(expression, np.float64)
    who = np.asarray([str(p) for p in patients], dtype=object)
    _check(x, y, who, genes)
    rows: list[dict[str, Any]] = []
    for name, (train, test) in folds.items():
        inside, outside = np.asarray(train, np.int64), np.asarray(test, np.int64)
        check_patients(name, who[inside], who[outside])
        alpha = choose_alpha(x[inside], y[inside], who[inside], probe)
        predicted = fit_predict(x[inside], y[inside], x[outside], alpha, probe)
        scores = pearson_columns(predicted, y[outside])[0]
        rows += [
            {"fold": name, "gene": gene, "pcc": float(score), "alpha": alpha, "n": len(outside)}
            for gene, score in zip(genes, scores, strict=True)
        ]
    return pd.DataFrame(rows, columns=["fold", "gene", "pcc", "alpha", "n"])


def check_patients(fold: str, inside: Iterable[str], outside: Iterable[str]) -> None:
    """Refuse a fold with a patient on both sides."""
    shared = sorted(set(inside) & set(outside))
    if shared:
        raise InputError(f"fold {fold}", f"patients in training and test: {', '.join(shared)}.", "fix the folds.")


def choose_alpha(x: Floats, y: Floats, patients: npt.NDArray[np.object_], probe: Probe) -> float:
    """Return the ridge's alpha for a training set; nothing else is looked at.

    With one training patient there is nothing to choose by: the published alpha is taken and said.
    """
    published = ALPHA_NUMERATOR / (width(x, probe) * y.shape[1])
    if probe.alpha == "published":
        return published
    names = sorted(set(patients))
    if len(names) < 2:
        logger.warning("one training patient (%s): no inner fold, the published alpha is taken", ", ".join(names))
        return published
    scores = np.zeros((len(names), len(probe.alphas)))
    for i, held in enumerate(names):
        out = patients == held
        reduced, reduced_out = reduce(x[~out], x[out], probe)
        for j, alpha in enumerate(probe.alphas):
            found = pearson_columns(_ridge(reduced, y[~out], reduced_out, alpha), y[out])[0]
            scores[i, j] = np.nanmean(found) if np.isfinite(found).any() else np.nan
    best = float(probe.alphas[int(np.nanargmax(np.nanmean(scores, axis=0)))])
    if best in (min(probe.alphas), max(probe.alphas)):
        logger.warning("the best alpha, %g, is at the edge of those tried: try further ones", best)
    return best


def fit_predict(x: Floats, y: Floats, x_test: Floats, alpha: float, probe: Probe) -> Floats:
    """Fit scaler, PCA and ridge to a training set and predict, (n_test, genes)."""
    reduced, reduced_test = reduce(x, x_test, probe)
    return _ridge(reduced, y, reduced_test, alpha)


def reduce(x: Floats, x_test: Floats, probe: Probe) -> tuple[Floats, Floats]:
    """Standardise and project; fitted to the training set only."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps: list[Any] = [StandardScaler()]
    if probe.components is not None:
        steps.append(PCA(n_components=width(x, probe), random_state=probe.seed))
    pipeline = make_pipeline(*steps)
    return np.asarray(pipeline.fit_transform(x)), np.asarray(pipeline.transform(x_test))


def _ridge(x: Floats, y: Floats, x_test: Floats, alpha: float) -> Floats:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=alpha, solver="lsqr", fit_intercept=False, random_state=0, max_iter=1000)
    return np.asarray(model.fit(x, y).predict(x_test)).reshape(len(x_test), y.shape[1])


def width(x: Floats, probe: Probe) -> int:
    """Return the number of features that ridge gets."""
    return x.shape[1] if probe.components is None else min(probe.components, *x.shape)


def _check(x: Floats, y: Floats, patients: npt.NDArray[np.object_], genes: Sequence[str]) -> None:
    if x.ndim != 2 or y.shape != (len(x), len(genes)) or len(patients) != len(x):
        raise InputError(
            "probe",
            f"features {x.shape}, expression {y.shape}, {len(patients)} patients and {len(genes)} genes do not fit.",
            "give one row per observation and one column per gene.",
        )
    for name, values in (("features", x), ("expression", y)):
        if not np.isfinite(values).all():
            raise InputError("probe", f"{int((~np.isfinite(values)).sum())} {name} are not finite.", "leave them out.")
