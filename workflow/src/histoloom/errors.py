"""The one kind of error a user is meant to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used: where, what is wrong, what to do; tests and tools match the code, never the text."""

    def __init__(self, where: str | Path, problem: str, remedy: str, code: str = "input") -> None:
        self.where, self.problem, self.remedy, self.code = str(where), problem, remedy, code
        super().__init__(f"{where}: {problem} Remedy: {remedy}")


def first_few(names: Sequence[str], shown: int = 10) -> str:
    """Return the first names of many for a message, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
