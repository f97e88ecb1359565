"""The one kind of error a user is meant to read."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used: where, what is wrong, what to do; tests and tools match the code, never the text."""

    def __init__(self, where: str | Path, problem: str, remedy: str, code: str = "input") -> None:
        self.where, self.problem, self.remedy, self.code = str(where), problem, remedy, code
        super().__init__(f"{where}: {problem} Remedy: {remedy}")
