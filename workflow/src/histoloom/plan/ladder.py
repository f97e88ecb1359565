"""The ladder: how much a model is allowed to know, from a mean to whole morphology."""

from __future__ import annotations

from collections.abc import Iterable

RUNGS = (
    "training mean",
    "section mean",
    "coordinates only",
    "nuclear density",
    "colour only",
    "random-weight encoder",
    "stain and texture",
    "encoder, linear",
    "model",
)
"""From the ground up. A model that does not rise above the rungs below it did not need what it was given."""

_OF_KIND = {"train_mean": "training mean", "section_mean": "section mean", "coordinates": "coordinates only"}
_OF_CARD = {"nuclear_density": "nuclear density", "colour_only": "colour only", "stain_texture": "stain and texture"}
_LINEAR = frozenset({"ridge"})


def rung_of(kind: str, inputs: Iterable[tuple[str, str]]) -> str:
    """Return the rung that a model stands on.

    Parameters
    ----------
    kind
        Kind of the model.
    inputs
        Of each encoder it reads: kind of the card, and where the weights are from.

    Returns
    -------
    str
        One of `RUNGS`. What is made of plain features alone stays on their rung, whatever is fitted to them; several
        inputs count as the highest.
    """
    if kind in _OF_KIND:
        return _OF_KIND[kind]
    found = [
        _OF_CARD.get(card, "random-weight encoder" if weights == "random" else "encoder, linear")
        for card, weights in inputs
    ]
    highest = max(found, key=RUNGS.index, default="model")
    return highest if kind in _LINEAR or is_floor(highest) else "model"


def is_floor(rung: str) -> bool:
    """Whether a rung is there to be stepped on: its predictions are told in numbers, not drawn as maps."""
    return RUNGS.index(rung) < RUNGS.index("stain and texture")
