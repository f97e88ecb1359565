"""Labels of cells from nuclei that were found and classified on the H&E: the nucleus that each cell is matched to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from histoloom.cells.labels import CellLabelTask
from histoloom.cells.matching import match_greedy, match_optimal
from histoloom.errors import InputError
from histoloom.text_tables import read_text, read_text_table

_OUTLINES = "give a GeoParquet with columns geometry (WKB) and class, as HEST's cellvit_seg folder has it."
_FEATURES = "give features of nuclei with a class in properties.classification.name, as QuPath and CellViT write them."


def label_nuclei(task: CellLabelTask) -> pd.DataFrame:
    """Return label, confidence (where nuclei state it), nucleus and distance_um of matched cells; index cell id.

    Only nuclei nearer than ``max_distance_um`` count. `as_published` is the public code's way, in the order of cells
    (`match_greedy`); `optimal` is one to one, with as many pairs as possible at the least total distance.
    """
    spec, section, path = task.spec, task.section, task.files["nuclei"]
    nuclei = read_nuclei(path)
    task.count(f"nuclei in {path.name}", len(nuclei))
    if section.metadata.get("slide_sha256") is None:
        problem = "was read without an H&E, so its cells have no place on one that nuclei could be matched at."
        remedy = "name `image` and `alignment` in the cohort's sheet."
        raise InputError(task.where, problem, remedy, code="nuclei-no-slide")
    mpp, most = float(section.metadata["mpp"]), float(spec["max_distance_um"])
    cells = section.spatial[task.used] * mpp
    places = nuclei[["x", "y"]].to_numpy(np.float64) * (1.0 if spec["units"] == "um" else mpp)
    if spec["matching"] == "optimal":
        nucleus, distance = match_optimal(cells, places, most)
    else:
        nucleus, distance = match_greedy(cells, places)
    matched = (nucleus >= 0) & (distance < most)
    task.count(f"matched to a nucleus within {most:g} um ({spec['matching']})", matched.sum())
    if not matched.any():
        low, high = (section.spatial.min(axis=0).round(), section.spatial.max(axis=0).round())
        problem = f"no cell has a nucleus within {most:g} um; cells lie at {low} to {high} px of the slide."
        remedy = "give the nuclei of this slide in its level-0 px, or write `units: um`."
        raise InputError(path, problem, remedy, code="nuclei-none-matched")
    own = nuclei.iloc[nucleus[matched]]
    table = own.drop(columns=["x", "y"]).assign(distance_um=distance[matched].round(4))
    return table.set_axis(section.obs.index[task.used][matched], axis=0)


def read_nuclei(path: Path) -> pd.DataFrame:
    """Read nuclei: x, y, label, nucleus and, where stated, confidence (0..1).

    A csv or tsv has columns x, y, label and may have nucleus_id and confidence. GeoJSON may be a list or a collection
    of features; a feature of many points or polygons holds as many nuclei, as CellViT writes them. GeoParquet is that
    of HEST's ``cellvit_seg`` (https://github.com/mahmoodlab/HEST, src/hest/io/seg_readers.py): geometry and class.
    """
    if path.suffix == ".parquet":
        table = _outlines(path)
    elif path.suffix in (".geojson", ".json"):
        table = pd.DataFrame(_features(path), columns=["x", "y", "label", "nucleus"])
    else:
        table = read_text_table(path)
        missing = [column for column in ("x", "y", "label") if column not in table]
        if missing:
            problem = f"lacks the columns {', '.join(missing)}."
            raise InputError(path, problem, "give x, y and label of each nucleus.", code="nuclei-columns")
        names = table["nucleus_id"] if "nucleus_id" in table else pd.Series(table.index, table.index).astype(str)
        table = table[[c for c in ("x", "y", "label", "confidence") if c in table]].assign(nucleus=names)
    numbers = [column for column in ("x", "y", "confidence") if column in table]
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")
    bad = ~np.isfinite(table[["x", "y"]].to_numpy(np.float64)).all(axis=1)
    if bad.any() or not len(table):
        problem = (
            f"nucleus {table['nucleus'][bad].iloc[0]} has no place ({int(bad.sum())} such)."
            if len(table)
            else ("holds no nucleus.")
        )
        raise InputError(path, problem, "give x and y of each nucleus.", code="nuclei-place")
    if "confidence" in table and not table["confidence"].between(0, 1).all():
        row = table[~table["confidence"].between(0, 1)].iloc[0]
        problem = f"nucleus {row['nucleus']} has a confidence outside 0..1."
        raise InputError(path, problem, "give shares, or leave the column out.", code="nuclei-confidence")
    return table[table["label"] != ""]


def _outlines(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    try:
        names = pq.read_schema(path).names
        missing = [column for column in ("geometry", "class") if column not in names]
        if missing:
            problem = f"lacks the columns {', '.join(missing)}; it has {', '.join(names)}."
            raise InputError(path, problem, _OUTLINES, code="nuclei-columns")
        wanted = ["geometry", "class", *(["cell_id"] if "cell_id" in names else [])]
        table = pd.DataFrame(pq.read_table(path, columns=wanted).to_pydict())
        centres = shapely.get_coordinates(shapely.centroid(shapely.from_wkb(table["geometry"].to_numpy())))
    except (OSError, TypeError, pa.ArrowException, shapely.errors.ShapelyError) as error:
        raise InputError(path, f"is no GeoParquet of nuclei ({error}).", _OUTLINES, code="nuclei-parquet") from error
    if len(centres) != len(table):
        problem = f"{len(table) - len(centres)} nuclei have no outline."
        raise InputError(path, problem, "leave them out.", code="nuclei-place")
    nucleus = table["cell_id"].astype(str) if "cell_id" in table else table.index.astype(str)
    label = table["class"].fillna("").astype(str)
    return pd.DataFrame({"x": centres[:, 0], "y": centres[:, 1], "label": label, "nucleus": nucleus})


def _features(path: Path) -> Iterator[tuple[float, float, str, str]]:
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    text = read_text(path)
    try:
        content = json.loads(text)
        features = content["features"] if isinstance(content, dict) else content
        for number, feature in enumerate(features):
            properties, geometry = feature["properties"], shape(feature["geometry"])
            kind = properties.get("classification") or {}
            label = str(kind.get("name", "") if isinstance(kind, dict) else kind)
            name, several = str(feature.get("id", number)), geometry.geom_type.startswith("Multi")
            for part, nucleus in enumerate(geometry.geoms if several else [geometry]):
                if nucleus.geom_type not in ("Point", "Polygon"):
                    raise ValueError(f"geometry {nucleus.geom_type}")
                centre = nucleus.centroid
                yield centre.x, centre.y, label, f"{name}.{part}" if several else name
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError, ShapelyError) as error:
        raise InputError(path, f"is no GeoJSON of nuclei ({error!r}).", _FEATURES, code="nuclei-geojson") from error
