"""The one kind of error a user is meant to read."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used: says where, what is wrong and how to mend it.

    Parameters
    ----------
    where
        The file, sheet row or config key at fault, as the user knows it.
    problem
        What was found and what was expected.
    remedy
        What the user can do about it.
    """

    def __init__(self, where: str | Path, problem: str, remedy: str) -> None:
        self.where, self.problem, self.remedy = str(where), problem, remedy
        super().__init__(f"{where}: {problem} Remedy: {remedy}")
