"""Patient ids that may be one person: folds go by them, so that a second spelling is a leak."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cache

logger = logging.getLogger(__name__)
_LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")


def warn_of_similar_patients(sheets: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """Ask about patients of cohorts' sheets whose ids differ in case or leading zeros only."""
    by_form: dict[str, dict[str, str]] = {}
    for cohort, rows in sheets.items():
        for row in rows:
            form = _LEADING_ZEROS.sub("", row["patient"].lower())
            by_form.setdefault(form, {}).setdefault(row["patient"], f"{cohort}/{row['sample']}")
    for similar in by_form.values():
        if len(similar) > 1:
            _ask(", ".join(f"'{patient}' ({section})" for patient, section in similar.items()))


@cache
def _ask(patients: str) -> None:
    text = "patients %s count as different people; if they are one, spell the id alike in every sheet, or a fold leaks"
    logger.warning(text, patients)
