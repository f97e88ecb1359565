"""Targets: what an experiment predicts, for observations in tissue, on a kept tile and with a known answer."""

from histoloom.targets.base import Target, TargetKind, kind_of, make_target, read_target

__all__ = ["Target", "TargetKind", "kind_of", "make_target", "read_target"]
