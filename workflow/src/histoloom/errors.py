"""The one kind of error a user is meant to read."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used: where (as the user knows it), what is wrong, and what the user can do about it.

    The code is a short fixed name of the fault, such as ``tiles-spec``: tests and tools match it, never the text.
    """

    def __init__(self, where: str | Path, problem: str, remedy: str, code: str = "input") -> None:
        self.where, self.problem, self.remedy, self.code = str(where), problem, remedy, code
        super().__init__(f"{where}: {problem} Remedy: {remedy}")
