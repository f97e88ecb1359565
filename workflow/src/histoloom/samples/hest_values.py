"""Ids and numbers as HEST-1k writes them."""

from __future__ import annotations

import math
import re
from typing import Any

_PADDED = re.compile(r"[0-9]+x[0-9]+")


def plain_id(name: str) -> str:
    """Return an id without the zeros that pad its numbers: ``010x013`` -> ``10x13``; barcodes stay."""
    if not _PADDED.fullmatch(name):
        return name
    return "x".join(str(int(number)) for number in name.split("x"))


def number(value: Any) -> float | None:
    """Return a positive finite number of a metadata json, None for anything else (NaN, "", null)."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) and result > 0 else None
