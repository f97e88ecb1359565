"""Models: fit folds and training seeds, predict test observations, apply to new slides."""

from histoloom.models.steps import apply_models, fit_models, predict_models

__all__ = ["apply_models", "fit_models", "predict_models"]
