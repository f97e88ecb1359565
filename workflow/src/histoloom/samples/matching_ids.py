"""How the ids of two files differ that should agree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pandas as pd

_ENDING = re.compile(r"-[0-9A-Za-z]+$")
_CHANGES: dict[str, Callable[[str], str]] = {
    "without their endings such as -1": lambda name: _ENDING.sub("", name),
    "without regard to case": str.lower,
    "without zeros that pad numbers": lambda name: re.sub(r"(?<![0-9])0+(?=[0-9])", "", name),
    "without blanks": lambda name: re.sub(r"\s", "", name),
}


def differences(first: pd.Index, second: pd.Index) -> str:
    """Describe the ids of two files: examples, endings, and the change that would make most of them agree."""
    parts = [f"Ids are like {_examples(first)} in the first and {_examples(second)} in the second file."]
    agreeing = first.isin(second).mean()
    for name, change in _CHANGES.items():
        share = first.map(change).isin(second.map(change)).mean()
        if share > max(0.5, agreeing + 0.1):
            parts.append(f"{100 * share:.0f} % agree {name}.")
    endings = [_endings(ids) for ids in (first, second)]
    if endings[0] != endings[1] and any(endings):
        parts.append(f"Endings: {endings[0] or 'none'}; {endings[1] or 'none'}.")
    return " ".join(parts)


def _examples(ids: pd.Index) -> str:
    return ", ".join(f"'{name}'" for name in ids[:3]) + (", ..." if len(ids) > 3 else "")


def _endings(ids: pd.Index) -> str:
    matches = (_ENDING.search(str(name)) for name in ids)
    counts = Counter(match[0] for match in matches if match)
    return ", ".join(f"{ending} ({number})" for ending, number in counts.most_common(4))
