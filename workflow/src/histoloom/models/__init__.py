"""Models: fit folds and training seeds, predict test observations, apply to new slides."""

from histoloom.models.fit import fit_models
from histoloom.models.predict import apply_models, predict_models

__all__ = ["apply_models", "fit_models", "predict_models"]
