"""Targets: what an experiment predicts, for observations in tissue, on a kept tile and labelled."""

from histoloom.targets.artefact import Target, read_target
from histoloom.targets.build import build_target

__all__ = ["Target", "build_target", "read_target"]
