"""Outlines of a Xenium run's cells and nuclei on the H&E, as GeoParquet 1.0.

10x publishes vertices in um, one row each. Here every outline is one row: cell_id, and geometry as WKB polygon in
level-0 px of the slide (x = column, y = row). The file says so in its ``geo`` metadata, so geopandas, QGIS or DuckDB
open it; written with pyarrow alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from histoloom.artefacts import KEY, identities_of
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity
from histoloom.samples.alignment import read_alignment, to_slide
from histoloom.samples.tables import as_text

logger = logging.getLogger(__name__)

_REMEDY = "fetch it again, or give the section a reason in the sheet's 'exclude' column."


def write_polygons(
    *, boundaries: Path, out: Path, cohort: str, sample: str, alignment: Path | None, pixel_size_um: float
) -> None:
    """Write the outlines of a boundary table, placed on the slide.

    `boundaries`: ``cell_boundaries.parquet`` or ``nucleus_boundaries.parquet``: cell_id, vertex_x, vertex_y in um,
    optional label_id (a cell may have several nuclei). `alignment`: the H&E's alignment csv; None: outlines are placed
    on the morphology image. `pixel_size_um`: um per pixel of the morphology image.
    """
    ids, starts, um = _read_rings(boundaries)
    matrix = np.eye(3) if alignment is None else read_alignment(alignment)
    vertices = to_slide(um, matrix, pixel_size_um)
    try:
        rings = shapely.linearrings(vertices, indices=np.repeat(np.arange(len(ids)), np.diff(starts)))
    except ValueError as error:
        raise InputError(boundaries, f"an outline is no ring ({error}).", _REMEDY, code="outline-ring") from error
    geometry = pa.array(shapely.to_wkb(shapely.polygons(rings)).tolist(), pa.large_binary())
    table = pa.table({"cell_id": pa.array(ids.tolist(), pa.string()), "geometry": geometry})
    box = [*vertices.min(axis=0).tolist(), *vertices.max(axis=0).tolist()]
    column = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": None, "bbox": box}
    geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}
    used: dict[str, str | Path] = {"boundaries": boundaries, **({"alignment": alignment} if alignment else {})}
    metadata = {
        "cohort": cohort,
        "sample": sample,
        "frame": "level-0 px of the slide, x = column, y = row" if alignment else "px of the morphology image",
        "n": len(ids),
        "identity": make_identity(
            "polygons", {"cohort": cohort, "sample": sample, "pixel_size_um": pixel_size_um}, identities_of(used)
        ),
    }
    stamped = {b"geo": json.dumps(geo).encode(), KEY.encode(): canonical_json(metadata).encode()}
    pq.write_table(table.replace_schema_metadata(stamped), out, compression="zstd")
    logger.info("%s/%s: %d outlines from %s", cohort, sample, len(ids), boundaries)


def _read_rings(path: Path) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return ids (n,), first vertex of each outline (n + 1,) and vertices (v, 2) in um."""
    if not path.is_file():
        raise InputError(path, "the boundary table is missing.", _REMEDY, code="boundaries-missing")
    try:
        names = pq.read_schema(path).names
        missing = [c for c in ("cell_id", "vertex_x", "vertex_y") if c not in names]
        if missing:
            problem = f"no column {', '.join(missing)}; found: {', '.join(names)}."
            raise InputError(path, problem, _REMEDY, code="boundaries-columns")
        columns = ["cell_id", "vertex_x", "vertex_y", *(["label_id"] if "label_id" in names else [])]
        table = pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(path, f"no readable parquet ({error}).", _REMEDY, code="boundaries-unreadable") from error
    if table.num_rows == 0:
        raise InputError(path, "the table has no vertices.", _REMEDY, code="boundaries-empty")
    um = np.column_stack([table[c].to_numpy().astype(np.float64) for c in ("vertex_x", "vertex_y")])
    if not np.isfinite(um).all():
        raise InputError(path, "a vertex is no number.", _REMEDY, code="boundaries-vertex")
    codes = np.asarray(table["cell_id"].combine_chunks().dictionary_encode().indices)
    new = np.ones(len(um), bool)
    new[1:] = codes[1:] != codes[:-1]
    if "label_id" in columns:
        labels = np.asarray(table["label_id"].to_numpy(zero_copy_only=False))
        new[1:] |= labels[1:] != labels[:-1]
    first = np.flatnonzero(new)
    starts = np.append(first, len(um)).astype(np.int64)
    ids = as_text(table["cell_id"].take(pa.array(first)).to_numpy(zero_copy_only=False))
    if (np.diff(starts) < 3).any():
        problem = f"the outline of cell '{ids[np.argmin(np.diff(starts))]}' has under 3 vertices."
        raise InputError(path, problem, _REMEDY, code="outline-ring")
    if "label_id" not in columns and len(set(ids.tolist())) != len(ids):
        problem = "the vertices of a cell do not lie together."
        raise InputError(path, problem, "sort the table by cell_id, vertex order kept.", code="boundaries-order")
    return ids, starts, um


def read_polygons(path: Path) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Yield (cell_id, closed ring (k, 2)) of a file that `write_polygons` wrote."""
    try:
        handle = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        problem = f"no readable parquet ({error})."
        raise InputError(path, problem, "write the outlines again.", code="outlines-unreadable") from error
    metadata: Mapping[bytes, bytes] = handle.schema_arrow.metadata or {}
    if b"geo" not in metadata or "cell_id" not in handle.schema_arrow.names:
        problem = "no GeoParquet of outlines with cell_id."
        raise InputError(path, problem, "write the outlines again.", code="outlines-format")
    for batch in handle.iter_batches(batch_size=4096, columns=["cell_id", "geometry"]):
        for name, shape in zip(batch["cell_id"].to_pylist(), batch["geometry"].to_pylist(), strict=True):
            yield name, shapely.get_coordinates(shapely.from_wkb(shape))


def largest_outlines(path: Path | None) -> dict[str, npt.NDArray[np.float64]]:
    """Return each cell's largest outline, a closed ring (k, 2); a cell may have several nuclei. None: no outlines."""
    largest: dict[str, npt.NDArray[np.float64]] = {}
    for name, ring in read_polygons(path) if path else ():
        if name not in largest or shapely.Polygon(ring).area > shapely.Polygon(largest[name]).area:
            largest[name] = ring
    return largest


def count_outlined(path: Path, obs_ids: Collection[str], outlined: Collection[str]) -> int:
    """Return how many cells of a section have an outline."""
    known = set(outlined)
    n = sum(name in known for name in obs_ids)
    if n == 0:
        examples = f"{', '.join(list(obs_ids)[:3])}, ... against {', '.join(list(outlined)[:3])}, ..."
        problem = f"none of the section's {len(obs_ids)} cells has an outline: {examples}"
        remedy = "take boundaries and cells from one bundle, or set the cohort's `outlines: false`."
        raise InputError(path, problem, remedy, code="outlines-of-another")
    if n < len(obs_ids):
        logger.warning("%s: %d of %d cells have no outline", path, len(obs_ids) - n, len(obs_ids))
    return n
