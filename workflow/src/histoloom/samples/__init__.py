"""Samples: a publisher's raw files to one canonical h5ad per section, with a picture to look at.

Readers are light at import: the workflow's graph asks them for paths. What reads pixels or counts is imported by
the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histoloom.content import refuse_pages
from histoloom.errors import InputError
from histoloom.samples.section import Section, open_section

__all__ = ["Section", "open_section", "read_section"]


def read_section(
    *,
    source: str,
    cohort: str,
    row: Mapping[str, str],
    spec: Mapping[str, Any],
    files: Mapping[str, Path],
    out: Path,
    picture: Path,
) -> None:
    """Read one section, check it and write the sample and its picture.

    `source`: key of `histoloom.kinds.SOURCES`; `files`: the section's files by role, as the reader's `files` names
    them; `out`: h5ad to write (see `histoloom.samples.canonical.build_sample`).
    """
    from histoloom.samples.canonical import build_sample
    from histoloom.samples.qc import draw_section

    paths = {role: Path(path) for role, path in files.items()}
    try:
        refuse_pages(paths.values())
        section, dropped_places = build_sample(source, cohort, row, spec, paths)
    except InputError as error:
        if "exclude" in error.remedy:
            raise
        way_out = f"Or give section '{row.get('sample', '?')}' a reason in the sheet's 'exclude' column."
        raise InputError(error.where, error.problem, f"{error.remedy} {way_out}", code=error.code) from error
    draw_section(section, picture, dropped_places)
    section.write_h5ad(out, compression="gzip", compression_opts=1)
