"""Match errors by their code: ``with pytest.raises(InputError, check=has_code("tiles-spec"))``."""

from __future__ import annotations

from collections.abc import Callable

from histoloom.errors import InputError


def has_code(code: str) -> Callable[[InputError], bool]:
    """Return a check for ``pytest.raises`` that accepts errors of one code only."""
    return lambda error: error.code == code
