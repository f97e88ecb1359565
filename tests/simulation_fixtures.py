"""Specs of simulated cohorts for tests: the schema's defaults, the tracked sheet, small arrays."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pandas as pd

from histoloom.schemas import check, load_schema

SHEET = Path(__file__).resolve().parent.parent / "config" / "cohorts" / "simulated.tsv"


def sheet_rows() -> list[dict[str, str]]:
    """Return the rows of the tracked sheet."""
    return pd.read_csv(SHEET, sep="\t", dtype=str, keep_default_na=False).to_dict("records")


def simulated_spec(*, rows: list[dict[str, str]] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a validated cohort entry with defaults filled in; `changes` are keys of the entry."""
    spec = {"source": "simulated", "sheet": "simulated.tsv", **copy.deepcopy(changes)}
    check(spec, load_schema("cohort.simulated"), "test")
    spec["sheet_rows"] = sheet_rows() if rows is None else rows
    return spec


def sheet_row(name: str, **changes: str) -> dict[str, str]:
    """Return one row of the tracked sheet, changed."""
    return {**next(r for r in sheet_rows() if r["sample"] == name), **changes}
