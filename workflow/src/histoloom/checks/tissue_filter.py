"""Share of tiles that the background filter keeps, per pathologist's region."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom import paths
from histoloom.artefacts import read_metadata
from histoloom.checks.base import Plan, Result, Tables, draw_by_region, place_of, read_regions, section_files
from histoloom.errors import InputError
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.rows import value_row
from histoloom.obs_keys import obs_keys


def inputs(plan: Plan, entry: Mapping[str, Any]) -> dict[str, list[str]]:
    tiles = section_files(plan, entry["cohorts"], paths.TILES, tiles=entry["tiles"])
    return {"labels": tiles, "against": section_files(plan, entry["cohorts"], paths.SAMPLE)}


def score(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> Iterator[Result]:
    for cohort in spec["cohorts"]:
        yield f"tiles {spec['tiles']}", score_kept(labels, cohort, *read_regions(against, cohort)), {}


def score_kept(tiles: Sequence[Path], cohort: str, regions: pd.Series, qc_flags: Mapping[str, str]) -> Tables:
    """Return the shares of tiles ``kept`` and dropped as ``background``, with target = region.

    The region ``all`` counts every observation, annotated or not.
    """
    rows = []
    for path in tiles:
        metadata = read_metadata(path)
        if metadata.get("cohort") != cohort:
            continue
        sample, table = str(metadata["sample"]), pd.read_parquet(path)
        region = regions.reindex(obs_keys(cohort, sample, table["obs_id"])).fillna("").to_numpy()
        kept, background = table["kept"].to_numpy(dtype=bool), (table["reason"] == "background").to_numpy()
        place = place_of(cohort, sample, str(metadata.get("patient", "")), qc_flags.get(sample, ""))
        for name in ["all", *sorted(set(region) - {""})]:
            inside = np.ones(len(table), dtype=bool) if name == "all" else region == name
            for metric, values in (("kept", kept), ("background", background)):
                rows.append(value_row(place, metric, float(values[inside].mean()), int(inside.sum()), target=name))
    if not rows:
        problem = "none of its tile tables was given."
        raise InputError(f"cohort '{cohort}'", problem, "name sections of this cohort.", code="check-no-section")
    return [roll_up(pd.DataFrame(rows), types=False)]


def draw(spec: Mapping[str, Any], rows: pd.DataFrame, title: str, out: Path) -> None:
    text = f"tiles {spec['tiles']}: what the background filter keeps of each region"
    draw_by_region(rows[rows["metric"] == "kept"], "share of tiles kept", (0.0, 1.0), title, text, out)
