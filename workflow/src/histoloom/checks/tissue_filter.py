"""Share of tiles that the background filter keeps, per pathologist's region."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom import paths
from histoloom.artefacts import read_metadata
from histoloom.checks.base import Plan, Result, draw_by_region, heading, section_files
from histoloom.checks.labelled import read_regions
from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up
from histoloom.obs_keys import obs_keys


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the tile tables and the sections of its cohorts."""
    tiles = section_files(plan, entry["cohorts"], paths.TILES, tiles=entry["tiles"])
    return {"labels": tiles, "against": section_files(plan, entry["cohorts"], paths.SAMPLE)}


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    """Score each cohort by `score_kept`."""
    for cohort in spec["cohorts"]:
        regions, qc_flags = read_regions(against, cohort)
        yield f"tiles {spec['tiles']}", score_kept(labels, regions, cohort, qc_flags), {}


def score_kept(
    tiles: Sequence[Path], regions: pd.Series, cohort: str, qc_flags: Mapping[str, str]
) -> list[pd.DataFrame]:
    """Return the share of tiles that the background filter keeps, per pathologist's region.

    Parameters
    ----------
    tiles
        Tile tables of all cohorts.
    regions
        Region by ``cohort/sample/obs_id``; "" where not annotated.
    cohort
        The cohort to score.
    qc_flags
        By section.

    Returns
    -------
    list of DataFrame
        ``kept`` and ``background`` (dropped as background) with target = region, per section, patient and cohort; the
        region ``all`` counts every observation, annotated or not.
    """
    rows = []
    for path in tiles:
        metadata = read_metadata(path)
        if metadata.get("cohort") != cohort:
            continue
        sample, table = str(metadata["sample"]), pd.read_parquet(path)
        keys = obs_keys(cohort, sample, table["obs_id"])
        region = regions.reindex(keys).fillna("").to_numpy()
        kept, background = table["kept"].to_numpy(dtype=bool), (table["reason"] == "background").to_numpy()
        place = {"fold": "", "cohort": cohort, "sample": sample, "patient": str(metadata.get("patient", "")),
                 "qc_flag": qc_flags.get(sample, "")}  # fmt: skip
        for name in ["all", *sorted(set(region) - {""})]:
            inside = np.ones(len(table), dtype=bool) if name == "all" else region == name
            for metric, values in (("kept", kept), ("background", background)):
                share = float(values[inside].mean())
                rows.append(
                    {"metric": metric, "target": name, "value": share, "n": int(inside.sum()), "n_nan": 0, **place}
                )
    if not rows:
        raise InputError(
            f"cohort '{cohort}'",
            "none of its tile tables was given.",
            "name sections of this cohort.",
            code="check-no-section",
        )
    return [roll_up(pd.DataFrame(rows), types=False)]


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    """Draw the share of tiles that the background filter keeps, per region."""
    text = f"tiles {spec['tiles']}: what the background filter keeps of each region"
    draw_by_region(rows[rows["metric"] == "kept"], "share of tiles kept", (0.0, 1.0), heading(title, text), out)
