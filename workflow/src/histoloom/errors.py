"""The one kind of error a user is meant to read."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used: says where, what is wrong and how to fix it.

    Parameters
    ----------
    where
        The file, sheet row or config key at fault, as the user knows it.
    problem
        What was found and what was expected.
    remedy
        What the user can do about it.
    code
        A short fixed name of the fault, such as ``tiles-spec``. Tests and tools match it, never the text.
    """

    def __init__(self, where: str | Path, problem: str, remedy: str, code: str = "input") -> None:
        self.where, self.problem, self.remedy, self.code = str(where), problem, remedy, code
        super().__init__(f"{where}: {problem} Remedy: {remedy}")
