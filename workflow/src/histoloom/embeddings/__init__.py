"""Embeddings: frozen encoders over tiles. What is fitted to data (scaler, PCA) belongs to a model, never here.

An encoder is a class with `encode`, a line in `histoloom.kinds.ENCODERS` and a card in ``resources/encoders.yaml``.
"""

from histoloom.embeddings.artefact import EmbeddingReader, open_embeddings
from histoloom.embeddings.cards import EncoderSpec
from histoloom.embeddings.engine import embed_batch

__all__ = ["EmbeddingReader", "EncoderSpec", "embed_batch", "open_embeddings"]
