"""HEST-1k's table of samples, and sheet rows made from it (light at import)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from histoloom.errors import InputError
from histoloom.identity import sha256_text

COLUMNS = (
    "id",
    "dataset_title",
    "patient",
    "subseries",
    "st_technology",
    "spots_under_tissue",
    "pixel_size_um_embedded",
    "pixel_size_um_estimated",
    "hest_version_added",
)
MAX_DISAGREEMENT = 0.05
"""Above this relative difference of the two published pixel sizes, a row says that the sheet decides."""


def read_hest_table(path: str | Path) -> pd.DataFrame:
    """Read ``HEST_v*.csv``; every cell as text, index = id."""
    path = Path(path)
    if not path.is_file():
        problem = "HEST's table of samples is missing."
        raise InputError(path, problem, "fetch HEST_v1_1_0.csv of mahmoodlab/HEST.", code="hest-table-missing")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        problem = f"no column {', '.join(missing)}."
        raise InputError(path, problem, "use a release of HEST's table, unchanged.", code="hest-table-columns")
    twice = table["id"][table["id"].duplicated()]
    if len(twice):
        raise InputError(path, f"id '{twice.iloc[0]}' is there twice.", "use one release.", code="hest-table-id-twice")
    return table.set_index("id", drop=False)


def patient_id(row: Mapping[str, str]) -> str:
    """Return an id for a sample's person, safe to compare across cohorts.

    "Patient 1" names several people, so the id starts with a hash of the title; where the patient is
    empty every sample is a person of its own. Both can be wrong (one donor under several samples, several patients
    under one number): look at ``subseries`` and correct the sheet by hand.
    """
    if not row["patient"]:
        return row["id"]
    person = re.sub(r"[^A-Za-z0-9]+", "", row["patient"].lower())
    return f"hest-{sha256_text(row['dataset_title'])[:6]}-{person}"


def hest_rows(ids: Sequence[str], table: pd.DataFrame) -> list[dict[str, str]]:
    """Make rows of a ``source: hest`` sheet.

    Returns mpp is the estimated pixel size, with ``mpp_decides`` where the embedded one differs by more than 5 %.
    """
    rows = []
    known: dict[str, dict[str, str]] = {row["id"]: row for row in table.to_dict("records")}  # type: ignore[misc]
    for sample in ids:
        if sample not in known:
            near = difflib.get_close_matches(sample, list(known), n=1)
            problem = f"is not in the table of {len(table)} samples.{f' Nearest: {near[0]}.' if near else ''}"
            remedy = "fix the id, or take a newer table."
            raise InputError(f"HEST id '{sample}'", problem, remedy, code="hest-table-sample")
        row = known[sample]
        estimated, embedded = row["pixel_size_um_estimated"], row["pixel_size_um_embedded"]
        differ = bool(estimated and embedded) and abs(float(embedded) / float(estimated) - 1) > MAX_DISAGREEMENT
        rows.append(
            {
                "sample": sample,
                "patient": patient_id(row),
                "technology": row["st_technology"],
                "mpp": f"{float(estimated):.5f}" if estimated else "",
                "mpp_decides": "yes" if differ else "",
                "x_title": " ".join(row["dataset_title"].split()),
                "x_hest_patient": row["patient"],
                "x_subseries": row["subseries"],
                "x_spots": row["spots_under_tissue"],
                "x_mpp_embedded": embedded,
                "x_hest_version": row["hest_version_added"],
            }
        )
    return rows
