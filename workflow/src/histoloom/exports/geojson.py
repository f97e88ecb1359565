"""Observations as GeoJSON for QuPath 0.4 and later: drag the file onto the open slide.

Coordinates are level-0 px of the slide. A property ``classification`` gives an object its class and colour, and
``measurements`` its numbers.
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

if TYPE_CHECKING:
    from anndata import AnnData
    from shapely import Polygon

logger = logging.getLogger(__name__)

CASE_COLOURS = {"hit": (0, 158, 115), "false positive": (213, 94, 0), "miss": (0, 114, 178)}
_COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
            (127, 127, 127))  # fmt: skip
_BLOCK = 4096
_SQUARES = frozenset({"Xenium", "Visium HD"})


def write_section(
    *,
    sample: Path,
    out: Path,
    genes: Sequence[str] = (),
    cells: Path | None = None,
    nuclei: Path | None = None,
    in_tissue_only: bool = True,
) -> None:
    """Write a section's spots or cells.

    A spot is a disc of its true size, a pseudo-spot its square, a cell its outline with its nucleus. A region annotated
    by the publisher is the object's class.

    Parameters
    ----------
    sample
        A section's artefact.
    genes
        Genes whose counts become measurements next to ``counts`` and ``genes``.
    cells, nuclei
        Outlines (`histoloom.samples.polygons.write_polygons`); without them a cell is a disc of the median size.
    in_tissue_only
        Leave out observations outside the tissue.

    Raises
    ------
    InputError
        If the file is no section, a gene is not in it, or no cell has an outline.
    """
    import anndata

    facts = read_metadata(sample)
    if "mpp" not in facts or "sample" not in facts:
        raise InputError(sample, "is no section.", "give a file of results/samples/.", code="export-no-section")
    section = anndata.read_h5ad(sample)
    unknown = [gene for gene in genes if gene not in section.var_names]
    if unknown:
        raise InputError(sample, f"has no gene {', '.join(unknown)}.", "use names of var.", code="export-unknown-gene")
    if in_tissue_only:
        section = section[section.obs["in_tissue"].to_numpy()]
    _write(_section_features(section, facts, list(genes), cells, nuclei), out)


def write_predictions(*, values: pd.DataFrame, centres: np.ndarray, side: float, out: Path) -> None:
    """Write predictions as squares, each of the class of its most abundant type.

    Parameters
    ----------
    values
        (n, types), index = obs_id.
    centres
        (n, 2) in level-0 px.
    side
        Of a square, level-0 px.
    """
    import shapely

    colours = _class_colours([str(name) for name in values.columns])
    squares = shapely.box(*np.round(np.hstack([centres - side / 2, centres + side / 2]), 2).T)
    measurements = [{str(k): _short(v) for k, v in row.items()} for row in values.to_dict("records")]
    classes = values.idxmax(axis=1).astype(str)
    _write(
        (
            _feature(shape, "tile", str(name), row, (kind, colours[kind]), isLocked=True)
            for shape, name, row, kind in zip(squares, values.index, measurements, classes, strict=True)
        ),
        out,
    )


def write_cases(*, cases: pd.DataFrame, sample: Path, out: Path, side_um: float) -> None:
    """Write a section's hits, false positives and misses as annotations of that class.

    Parameters
    ----------
    cases
        From `histoloom.report.errors.find_cases`, of all sections.
    sample
        The section's artefact. A section without a case gives an empty collection.
    side_um
        Side of the square around a case.
    """
    import shapely

    facts = read_metadata(sample)
    half = side_um / float(facts["mpp"]) / 2
    own = cases[(cases["cohort"] == facts["cohort"]) & (cases["sample"] == facts["sample"])]
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
    )


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _class_colours(names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    return {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}


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


def _write(features: Iterable[Mapping[str, Any]], out: Path) -> None:
    """Write a FeatureCollection, one feature per line."""
    count = 0
    with out.open("w", encoding="utf-8") as handle:
        handle.write('{"type":"FeatureCollection","features":[')
        for count, feature in enumerate(features, 1):
            handle.write(",\n" if count > 1 else "\n")
            handle.write(json.dumps(feature, separators=(",", ":"), allow_nan=False, ensure_ascii=False))
        handle.write("]}\n")
    logger.info("%s: %d objects", out, count)


def _section_features(
    section: AnnData, facts: Mapping[str, Any], genes: list[str], cells: Path | None, nuclei: Path | None
) -> Iterator[dict[str, Any]]:
    """Yield features in the section's order."""
    import shapely
    from shapely.geometry import mapping

    from histoloom.samples.polygons import count_outlined, largest_outlines

    outlines, cores = largest_outlines(cells), largest_outlines(nuclei)
    if cells:
        count_outlined(cells, section.obs_names, outlines)
    centres = np.asarray(section.obsm["spatial"])
    radius = facts["spot_diameter_um"] / facts["mpp"] / 2
    square = facts.get("source_facts", {}).get("st_technology") in _SQUARES
    is_cell = facts.get("unit") == "cell"
    regions = section.obs["region"].astype(str).to_numpy() if "region" in section.obs else np.full(len(centres), "")
    colours = _class_colours(sorted(set(regions) - {""}))
    depth, number = section.obs["n_counts"].to_numpy(), section.obs["n_genes"].to_numpy()
    columns = section.var_names.get_indexer(genes) if genes else []
    for start in range(0, section.n_obs, _BLOCK):
        block = slice(start, min(start + _BLOCK, section.n_obs))
        counts = section.X[block][:, columns].toarray() if len(columns) else np.empty((_BLOCK, 0))
        for offset, name in enumerate(section.obs_names[block]):
            at = start + offset
            if str(name) in outlines:
                shape = shapely.Polygon(np.round(outlines[str(name)], 2))
            else:
                whole = shapely.Point(centres[at]).buffer(
                    radius, quad_segs=6, cap_style="square" if square else "round"
                )
                shape = shapely.transform(whole, lambda xy: np.round(xy, 2))
            measured = {"counts": int(depth[at]), "genes": int(number[at])}
            measured |= {gene: int(value) for gene, value in zip(genes, counts[offset], strict=True)}
            region = (regions[at], colours[regions[at]]) if regions[at] else None
            feature = _feature(shape, "cell" if is_cell else "detection", str(name), measured, region)
            if is_cell and str(name) in cores:
                feature["nucleusGeometry"] = mapping(shapely.Polygon(np.round(cores[str(name)], 2)))
            yield feature
