"""Predicted total abundance of held-out observations against counted nuclei."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histoloom import paths
from histoloom.checks.base import Plan, predicted_files
from histoloom.checks.nuclei import draw, score

__all__ = ["draw", "inputs", "score"]


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the predictions of an experiment's models and the counted nuclei of its sections."""
    return predicted_files(plan, entry, paths.NUCLEI)
