"""Features of in situ panels that are no genes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_CONTROL = re.compile(
    r"(NegControl|antisense_|BLANK|Blank-|Unassigned|Deprecated|Intergenic|DeprecatedCodeword|GenomicControl)", re.I
)


def is_control(names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Tell control probes, codewords and blanks by their names, as 10x writes them; (n,) bool."""
    return np.fromiter((_CONTROL.match(str(name)) is not None for name in names), bool, len(names))
