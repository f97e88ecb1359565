"""Observations as GeoJSON for QuPath 0.4 and later: drag the file onto the open slide.

Coordinates are level-0 px of the picture that QuPath shows. It crops a slide that states a scanned area
(``openslide.bounds-x``; MRXS, SCN, some SVS) to that area, so its left top corner is subtracted. The file says by how
much, in a member ``histoloom`` of the collection. A property ``classification`` gives an object its class and colour,
and ``measurements`` its numbers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.samples.section import open_section

if TYPE_CHECKING:
    from shapely import Polygon

    from histoloom.samples.section import Section

logger = logging.getLogger(__name__)

CASE_COLOURS = {"hit": (0, 158, 115), "false positive": (213, 94, 0), "miss": (0, 114, 178)}
_COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
            (127, 127, 127))  # fmt: skip
_SQUARES = frozenset({"Xenium", "Visium HD"})


def write_section(
    *,
    sample: Path,
    out: Path,
    genes: Sequence[str] = (),
    cells: Path | None = None,
    nuclei: Path | None = None,
    in_tissue_only: bool = True,
    crop: bool = True,
    column: str = "region",
) -> None:
    """Write a section's spots or cells, the counts of `genes` among their measurements.

    A spot is a disc of its true size, a pseudo-spot its square, a cell its outline with its nucleus (from
    `histoloom.samples.polygons.write_polygons`; without `cells` a disc of the median size). `column` of obs is the
    object's class, by default the region that the publisher annotated. `crop`: in the frame of a slide cropped to its
    scanned area, else of all level 0.
    """
    section = open_section(sample)
    offset = offset_of(section.metadata, crop)
    unknown = [gene for gene in genes if gene not in section.var.index]
    if unknown:
        raise InputError(sample, f"has no gene {', '.join(unknown)}.", "use names of var.", code="export-unknown-gene")
    inside = section.obs["in_tissue"].to_numpy(dtype=bool) if in_tissue_only else np.ones(len(section.obs), dtype=bool)
    features = _section_features(section, np.flatnonzero(inside), list(genes), cells, nuclei, offset, column)
    _write(features, out, offset)


def offset_of(facts: Mapping[str, Any], crop: bool) -> np.ndarray:
    """Return the left top corner (x, y), level-0 px, of what QuPath shows of a section's slide."""
    return np.array(facts.get("slide_bounds", (0, 0)) if crop else (0, 0), dtype=np.int64)


def write_predictions(
    *,
    values: pd.DataFrame,
    measured: pd.DataFrame,
    centres: np.ndarray,
    side: float,
    out: Path,
    offset: np.ndarray | None = None,
) -> None:
    """Write predictions (n, types) as squares around `centres` (n, 2), level-0 px, of the class of the highest type.

    The types that are highest in most tiles have the colours that differ most.
    `measured` (n, columns) are the measurements; what is NaN is left out. `offset`: as `offset_of` returns.
    """
    import shapely

    offset = np.zeros(2, dtype=np.int64) if offset is None else offset
    centres = centres - offset
    squares = shapely.box(*np.round(np.hstack([centres - side / 2, centres + side / 2]), 2).T)
    rows = measured.to_dict("records")
    measurements = [{str(k): _short(v) for k, v in row.items() if np.isfinite(v)} for row in rows]
    classes = values.idxmax(axis=1).astype(str)
    colours = class_colours(list(classes.value_counts().index))
    _write(
        (
            _feature(shape, "tile", str(name), row, (kind, colours[kind]), isLocked=True)
            for shape, name, row, kind in zip(squares, values.index, measurements, classes, strict=True)
        ),
        out,
        offset,
    )


def write_cases(*, cases: pd.DataFrame, sample: Path, out: Path, side_um: float, crop: bool = True) -> None:
    """Write a section's cases (`histoloom.report.errors.find_cases`) as squares, annotations of their class."""
    import shapely

    facts = read_metadata(sample)
    offset = offset_of(facts, crop)
    half = side_um / float(facts["mpp"]) / 2
    own = cases[(cases["cohort"] == facts["cohort"]) & (cases["sample"] == facts["sample"])]
    own = own.assign(x=own["x"] - offset[0], y=own["y"] - offset[1])
    numbers = ("label", "prediction", "label_rank", "prediction_rank")
    _write(
        (
            _feature(
                shapely.box(*np.round([row["x"] - half, row["y"] - half, row["x"] + half, row["y"] + half], 2)),
                "annotation",
                f"{row['target']}: {row['case']} ({row['obs_id']})",
                {key: _short(row[key]) for key in numbers},
                (row["case"], CASE_COLOURS[row["case"]]),
            )
            for row in own.to_dict("records")
        ),
        out,
        offset,
    )


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def class_colours(names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return a colour for each class: eight, the same paler, then darker; beyond 24 they repeat."""
    base = np.array(_COLOURS)
    tones = np.concatenate([base, (base + 2 * 255) // 3, base // 2]).tolist()
    return {name: tuple(tones[i % len(tones)]) for i, name in enumerate(names)}


def _feature(
    shape: Polygon,
    kind: str,
    name: str,
    measurements: Mapping[str, float],
    classification: tuple[str, Sequence[int]] | None = None,
    **properties: Any,
) -> dict[str, Any]:
    """Return an object as QuPath reads it."""
    from shapely.geometry import mapping

    properties = {"objectType": kind, "name": name, **properties, "measurements": dict(measurements)}
    if classification:
        properties["classification"] = {"name": classification[0], "color": list(classification[1])}
    return {"type": "Feature", "geometry": mapping(shape), "properties": properties}


def _write(features: Iterable[Mapping[str, Any]], out: Path, offset: np.ndarray) -> None:
    """Write a FeatureCollection, one feature per line, and where its coordinates begin on the slide."""
    begin = [int(value) for value in offset]
    frame = {"frame": "scanned area of the slide" if any(begin) else "level 0 of the slide", "offset_px": begin}
    count = 0
    with out.open("w", encoding="utf-8") as handle:
        handle.write('{"type":"FeatureCollection","features":[')
        for count, feature in enumerate(features, 1):
            handle.write(",\n" if count > 1 else "\n")
            handle.write(json.dumps(feature, separators=(",", ":"), allow_nan=False, ensure_ascii=False))
        handle.write(f'],"histoloom":{json.dumps(frame)}}}\n')
    logger.info("%s: %d objects, counted from x=%d, y=%d of level 0", out, count, *begin)


def _section_features(
    section: Section,
    rows: np.ndarray,
    genes: list[str],
    cells: Path | None,
    nuclei: Path | None,
    offset: np.ndarray,
    column: str,
) -> Iterator[dict[str, Any]]:
    """Yield features of observations in the section's order."""
    import shapely
    from shapely.geometry import mapping

    from histoloom.samples.polygons import count_outlined, largest_outlines

    outlines, cores = largest_outlines(cells), largest_outlines(nuclei)
    obs, centres, facts = section.obs.iloc[rows], section.spatial[rows] - offset, section.metadata
    if cells:
        count_outlined(cells, obs.index, outlines)
    radius = facts["spot_diameter_um"] / facts["mpp"] / 2
    ends = "square" if facts.get("source_facts", {}).get("st_technology") in _SQUARES else "round"
    is_cell = facts.get("unit") == "cell"
    regions = obs[column].fillna("").astype(str).to_numpy() if column in obs else np.full(len(obs), "")
    colours = class_colours(sorted({str(region) for region in regions} - {""}))
    depth, number = obs["n_counts"].to_numpy(), obs["n_genes"].to_numpy()
    counts = section.counts[rows][:, section.var.index.get_indexer(pd.Index(genes))].tocsr() if genes else None
    for at, name in enumerate(map(str, obs.index)):
        if name in outlines:
            shape = shapely.Polygon(np.round(outlines[name] - offset, 2))
        else:
            whole = shapely.Point(centres[at]).buffer(radius, quad_segs=6, cap_style=ends)
            shape = shapely.transform(whole, lambda xy: np.round(xy, 2))
        measured = {"counts": int(depth[at]), "genes": int(number[at])}
        if counts is not None:
            measured |= {gene: int(value) for gene, value in zip(genes, counts[[at]].toarray()[0], strict=True)}
        region = (regions[at], colours[regions[at]]) if regions[at] else None
        feature = _feature(shape, "cell" if is_cell else "detection", name, measured, region)
        if is_cell and name in cores:
            feature["nucleusGeometry"] = mapping(shapely.Polygon(np.round(cores[name] - offset, 2)))
        yield feature
