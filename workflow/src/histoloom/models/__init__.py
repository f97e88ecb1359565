"""Models: fit all folds and training seeds, predict test observations, apply to new slides."""

from histoloom.models.apply import apply_model
from histoloom.models.run import predict_model, train_model

__all__ = ["apply_model", "predict_model", "train_model"]
