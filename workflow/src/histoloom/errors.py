"""The one kind of error a user is meant to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used: where, what is wrong, what to do; tests and tools match the code, never the text."""

    def __init__(self, where: str | Path, problem: str, remedy: str, code: str) -> None:
        self.where, self.problem, self.remedy, self.code = str(where), problem, remedy, code
        super().__init__(f"{where}: {problem} Remedy: {remedy}")


class InputErrors(InputError):
    """Several errors in one list; `code` is that of the first."""

    def __init__(self, errors: Sequence[InputError]) -> None:
        self.errors = list(errors)
        self.where, self.problem, self.remedy = errors[0].where, errors[0].problem, errors[0].remedy
        self.code = errors[0].code
        lines = "".join(f"\n {i}. {error}" for i, error in enumerate(errors, 1))
        ValueError.__init__(self, f"{len(errors)} things to correct:{lines}")


class Collected:
    """Collects errors, so that a user reads all of them at once."""

    def __init__(self) -> None:
        self.errors: list[InputError] = []

    @contextmanager
    def each(self) -> Iterator[None]:
        """Keep an error of the block and go on."""
        try:
            yield
        except InputErrors as several:
            self.add(*several.errors)
        except InputError as error:
            self.add(error)

    def add(self, *errors: InputError) -> None:
        """Keep errors, each once."""
        known = {str(error) for error in self.errors}
        self.errors += [error for error in errors if str(error) not in known]

    def stop(self) -> None:
        """Raise what was collected."""
        if self.errors:
            raise self.errors[0] if len(self.errors) == 1 else InputErrors(self.errors)


def first_few(names: Sequence[str], shown: int = 10) -> str:
    """Return the first names of many for a message, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
