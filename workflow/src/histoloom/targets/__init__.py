"""Targets: what an experiment predicts, for observations in tissue, on a kept tile and labelled."""

from histoloom.targets.artefact import Target, read_target
from histoloom.targets.build import build_target
from histoloom.targets.expression import Expression, build_expression_target, read_expression
from histoloom.targets.make import make_target

__all__ = [
    "Expression",
    "Target",
    "build_expression_target",
    "build_target",
    "make_target",
    "read_expression",
    "read_target",
]
