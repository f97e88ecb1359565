"""Findings of `make doctor`, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OK, WARN, FAIL = "ok", "note", "FAIL"
"""A note may slow a run down or ask for a look; only FAIL means that it cannot succeed."""
_WIDTH = 92
_SHOWN = 4


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes
    ----------
    subject
        What was looked at.
    state
        `OK`, `WARN` or `FAIL`.
    message
        What it is, and after a FAIL what to do.
    """

    subject: str
    state: str
    message: str


def as_table(findings: Sequence[Finding]) -> str:
    """Return an aligned table and one closing sentence."""
    from tabulate import tabulate

    rows = [(finding.subject, finding.state, finding.message) for finding in findings]
    table = tabulate(
        rows,
        headers=("subject", "state", "message"),
        tablefmt="simple",
        maxcolwidths=[None, None, _WIDTH],
        disable_numparse=True,
        # An address must stay whole, to be copied.
        break_long_words=False,
        break_on_hyphens=False,
    )
    failed = [finding.subject for finding in findings if finding.state == FAIL]
    closing = "Nothing stands in the way of this run."
    if failed:
        closing = f"This run cannot succeed here: {', '.join(dict.fromkeys(failed))}."
    return f"{table}\n\n{closing}"


def format_list(names: Sequence[str]) -> str:
    """Return the first few names and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def gigabytes(count: float) -> str:
    """Return bytes as MB or GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
