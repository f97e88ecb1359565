"""HEST-bench's linear probe of an embedding, and the same with a penalty chosen within the training patients.

Jaume et al., HEST-1k: a dataset for spatial transcriptomics and histology image analysis, NeurIPS 2024,
arXiv:2406.16192; constants from its public benchmark code: StandardScaler, PCA with 256 components, ridge with
alpha = 100 / (d * genes) where d is the number of components, solver lsqr, no intercept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from histoloom.models.base import FoldData, JobContext, Model, Spec
from histoloom.models.linear import LinearMap, as_map
from histoloom.stats import mean_defined, pearson_columns

logger = logging.getLogger(__name__)

ALPHA_NUMERATOR = 100.0
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PCARidgeSpec(Spec):
    """Keys of ``model.pca_ridge``."""

    alpha: Literal["published", "inner"] = "published"
    components: int | None = 256
    alphas: tuple[float, ...] = tuple(float(a) for a in np.logspace(-4, 6, 21))
    seed: int = 1


class PCARidge(Model):
    """StandardScaler, PCA and ridge without intercept, all fitted to a fold's training observations."""

    spec_type = PCARidgeSpec
    fitted_type = LinearMap

    def fit(self, data: FoldData, job: JobContext) -> LinearMap:
        """Fit a fold; scaler, PCA and ridge become one linear map of the features."""
        x, y = data.train.inputs.features().astype(np.float64), data.train.dense.astype(np.float64)
        alpha, how = self.choose_alpha(x, y, data.train.patient)
        scaler, components, mean, reduced = self.reduce(x)
        weights = solve(reduced, y, alpha)
        choices = {"how": how, "alpha": alpha, "components": components.shape[1], "n_train": len(x)}
        logger.info("%s: %s", data.name, choices)
        return LinearMap(self.spec, as_map(*scaler, components @ weights, -mean @ weights), choices)

    def reduce(self, x: Floats) -> tuple[tuple[Floats, Floats], Floats, Floats, Floats]:
        """Return mean and scale of the columns, (D, d) components, their (d,) offset, and x reduced."""
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(x)
        if self.spec.components is None:
            return (scaler.mean_, scaler.scale_), np.eye(x.shape[1]), np.zeros(x.shape[1]), scaler.transform(x)
        pca = PCA(n_components=self.width(x), random_state=self.spec.seed)
        # Not fit, then transform: lsqr's tolerance makes something of the last digits.
        reduced = pca.fit_transform(scaler.transform(x))
        return (scaler.mean_, scaler.scale_), pca.components_.T, pca.mean_ @ pca.components_.T, reduced

    def width(self, x: Floats) -> int:
        """Return the number of features that ridge gets."""
        return x.shape[1] if self.spec.components is None else min(self.spec.components, *x.shape)

    def choose_alpha(self, x: Floats, y: Floats, patients: Sequence[Any] | npt.NDArray[Any]) -> tuple[float, str]:
        """Return the penalty of a training set and how it was chosen; nothing else is looked at.

        With one training patient there is nothing to choose by: the published alpha is taken, and the words say so.
        """
        published = ALPHA_NUMERATOR / (self.width(x) * y.shape[1])
        if self.spec.alpha == "published":
            return published, "fixed: published"
        patients = np.asarray(patients)
        names = np.unique(patients)
        if len(names) < 2:
            logger.warning("one training patient (%s): the published alpha is taken", names[0])
            return published, "fixed: published, no inner fold with one training patient"
        scores = np.full((len(names), len(self.spec.alphas)), np.nan)
        for i, held in enumerate(names):
            out = patients == held
            (center, scale), components, mean, inside = self.reduce(x[~out])
            outside = (x[out] - center) / scale @ components - mean
            for j, alpha in enumerate(self.spec.alphas):
                r, _ = pearson_columns(outside @ solve(inside, y[~out], alpha), y[out])
                scores[i, j] = mean_defined(r)
        best = float(self.spec.alphas[int(np.nanargmax(mean_defined(scores)))])
        if best in (min(self.spec.alphas), max(self.spec.alphas)):
            logger.warning("the best alpha, %g, is at the edge of those tried: try further ones", best)
        return best, "inner folds of training patients"


def solve(x: Floats, y: Floats, alpha: float) -> Floats:
    """Return (d, T) weights of the benchmark's ridge."""
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=alpha, solver="lsqr", fit_intercept=False, random_state=0, max_iter=1000)
    return np.atleast_2d(model.fit(x, y).coef_).T
