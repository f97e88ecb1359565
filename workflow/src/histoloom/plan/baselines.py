"""Levels of the baseline comparison: how much a model is allowed to know, from a mean to whole morphology."""

from __future__ import annotations

from collections.abc import Iterable

from histoloom.kind_entries import Need
from histoloom.kinds import ENCODERS, LEVELS, MODELS

_LINEAR = "encoder, linear"


def level_of(kind: str, encoders: Iterable[tuple[str, str]]) -> str:
    """Return the level of a model kind, by kind of card and origin of weights of each encoder; the highest counts.

    A model on simple features stays on their level, whatever is fitted.
    """
    model = MODELS[kind]
    if model.baseline and Need.FEATURES not in model.needs:
        return model.baseline
    levels = [
        ENCODERS[card].baseline or ("random-weight encoder" if weights == "random" else _LINEAR)
        for card, weights in encoders
    ]
    highest = max(levels, key=LEVELS.index, default="model")
    return highest if model.baseline == _LINEAR or is_baseline(highest) else "model"


def is_baseline(level: str) -> bool:
    """Whether models of a level only serve for comparison: they are in tables, and no maps are drawn."""
    return LEVELS.index(level) < LEVELS.index("stain and texture")
