"""Spots or cells of a SpatialData store (zarr), placed on a slide file.

The table says which shapes its rows annotate; the shapes say where they lie, in their own coordinates; the store's
transformations lead from there to the slide. The slide is a file of its own (``image``), and its level-0 px are either
a coordinate system of the store, or the pixels of one of its images (``image_element``).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import KEY
from histoloom.errors import InputError
from histoloom.samples.counts import make_counts
from histoloom.samples.reader import Reader, assemble, named_files, positions_at
from histoloom.samples.tables import STEP_PX

if TYPE_CHECKING:
    from anndata import AnnData


PITCH_UM = 10.0
INSTALL = "install it: pip install -r envs/requirements-spatialdata.txt -c envs/constraints.txt."
_REMEDY = "fix the sheet."
_OWN = ("mpp", "pitch_um", "spot_diameter_um", "unit")


class SpatialDataReader(Reader):
    """SpatialData stores; the sheet names store, table, coordinate system and slide."""

    has_array: ClassVar[bool] = False
    on_grid: ClassVar[bool] = False

    @classmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return roles store (a folder) and image (unless `images: false`)."""
        return named_files(row, spec, root, ["store", "image"])

    @classmethod
    def read(cls, files: Mapping[str, Path], row: Mapping[str, str], spec: Mapping[str, Any]) -> AnnData:
        """Read a table's rows that have a shape, at the shapes' centroids on the slide."""
        need_spatialdata(str(files["store"]))

        path = Path(files["store"])
        store = open_store(path)
        table, shapes = _table(store, row, path)
        layer = row.get("counts_layer", "")
        if layer and layer not in table.layers:
            problem = f"no layer '{layer}'; there are: {', '.join(table.layers) or 'none'}."
            raise InputError(path, problem, _REMEDY, code="counts-layer")
        matrix, ids = table.layers[layer] if layer else table.X, table.var.get("ensembl_id")
        counts = make_counts(matrix, table.obs_names, table.var_names, path, gene_ids=ids)
        own = json.loads(table.uns[KEY]) if KEY in table.uns else {}
        centres = _centres(store, shapes, row, path)
        instances = table.obs[table.uns["spatialdata_attrs"]["instance_key"]].astype(str).to_numpy()
        rows = centres.index.get_indexer(instances)
        has = rows >= 0
        if not has.any():
            examples = f"{', '.join(instances[:3])}, ... against {', '.join(centres.index[:3])}, ..."
            problem = f"no row of the table is a shape of '{shapes}': {examples}"
            raise InputError(path, problem, _REMEDY, code="spatialdata-instances")
        places = centres.to_numpy(np.float64)[rows[has]]
        if own and "spatial" in table.obsm and not row.get("image_element"):
            places = _own_places(np.asarray(table.obsm["spatial"])[has], places, own, path)
        section = assemble(
            counts.rows(has),
            _positions(table.obs[has], places, STEP_PX, table.uns["spatialdata_attrs"]["region_key"]),
            {"row_without_shape": int((~has).sum())},
        )
        known = {key: own[key] for key in _OWN if own.get(key) is not None}
        section.uns["stated"] = {
            "pitch_um": PITCH_UM,
            **known,
            "free": not {"array_row", "array_col"} <= set(table.obs),
            "mpp": {"estimated": known["mpp"]} if "mpp" in known else {},
            **({"unit": row["unit"]} if row.get("unit") else {}),
            "facts": {"element": shapes, "coordinate_system": _system(row)},
        }
        return section


def need_spatialdata(where: str) -> None:
    """Check that the optional package is there."""
    if importlib.util.find_spec("spatialdata") is None:
        raise InputError(where, "needs the package 'spatialdata'.", INSTALL, code="spatialdata-not-installed")


def open_store(path: Path) -> Any:
    """Open a store's tables, shapes and images (lazily)."""
    import spatialdata

    if not path.is_dir():
        raise InputError(path, "the SpatialData store is missing.", _REMEDY, code="spatialdata-missing")
    try:
        return spatialdata.read_zarr(path, selection=("images", "shapes", "tables"))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(path, f"no readable store ({error}).", _REMEDY, code="spatialdata-unreadable") from error


def _table(store: Any, row: Mapping[str, str], path: Path) -> tuple[Any, str]:
    name = row.get("table") or "table"
    if name not in store.tables:
        problem = f"no table '{name}'; there are: {', '.join(store.tables) or 'none'}."
        raise InputError(path, problem, _REMEDY, code="spatialdata-table")
    table = store.tables[name]
    attributes = table.uns.get("spatialdata_attrs")
    if not attributes:
        problem = f"table '{name}' annotates no element."
        raise InputError(path, problem, "link it to its shapes (TableModel.parse).", code="spatialdata-annotates")
    regions = attributes["region"]
    regions = [regions] if isinstance(regions, str) else list(regions)
    shapes = row.get("element") or (regions[0] if len(regions) == 1 else "")
    if shapes not in regions or shapes not in store.shapes:
        choices = f"table '{name}' annotates {', '.join(regions)}; there are shapes {', '.join(store.shapes) or 'none'}"
        problem = f"column 'element' is '{row.get('element', '')}'; {choices}."
        remedy = "name shapes that the table annotates (labels are not read)."
        raise InputError(path, problem, remedy, code="spatialdata-element")
    return table[(table.obs[attributes["region_key"]] == shapes).to_numpy()].copy(), shapes


def _system(row: Mapping[str, str]) -> str:
    return row.get("coordinate_system") or "global"


def _centres(store: Any, shapes: str, row: Mapping[str, str], path: Path) -> pd.DataFrame:
    """Return the shapes' centroids (index instance, x, y) in level-0 px of the slide."""
    import spatialdata
    from spatialdata.transformations import get_transformation

    system = _system(row)
    for kind, name in (("shapes", shapes), ("images", row.get("image_element", ""))):
        elements = getattr(store, kind)
        if name and name not in elements:
            problem = f"no {kind[:-1]} '{name}'; there are: {', '.join(elements) or 'none'}."
            raise InputError(path, problem, _REMEDY, code="spatialdata-element")
        systems = list(get_transformation(elements[name], get_all=True)) if name else [system]
        if system not in systems:
            problem = f"'{name}' is not in coordinate system '{system}', but in {', '.join(systems)}."
            raise InputError(path, problem, _REMEDY, code="spatialdata-system")
    centroids = spatialdata.get_centroids(store.shapes[shapes], coordinate_system=system).compute()
    places = centroids[["x", "y"]].to_numpy(np.float64)
    if row.get("image_element"):
        step = get_transformation(store.images[row["image_element"]], to_coordinate_system=system)
        try:
            inverse = np.linalg.inv(step.to_affine_matrix(("x", "y"), ("x", "y")))
        except np.linalg.LinAlgError as error:
            problem = "the image's transformation is singular."
            raise InputError(path, problem, _REMEDY, code="spatialdata-transformation") from error
        places = (np.column_stack([places, np.ones(len(places))]) @ inverse.T)[:, :2]
    return pd.DataFrame(places, index=centroids.index.astype(str), columns=["x", "y"])


def _own_places(
    kept: npt.NDArray[np.float64], centres: npt.NDArray[np.float64], own: Mapping[str, Any], path: Path
) -> npt.NDArray[np.float64]:
    """Return the places that a sample of ours was exported with: an outline's centroid is not its cell's."""
    off = float(np.median(np.hypot(*(kept - centres).T))) * float(own["mpp"])
    if off > float(own["spot_diameter_um"]):
        problem = f"obsm['spatial'] and the shapes lie {off:.0f} um apart: the store was changed after its export."
        raise InputError(path, problem, "export the section again.", code="spatialdata-changed")
    return kept


def _positions(obs: pd.DataFrame, places: npt.NDArray[np.float64], step_px: float, region_key: str) -> pd.DataFrame:
    """Return positions as `histoloom.samples.reader.assemble` takes them.

    The column that names the shapes is no pathologist's region, though it is often called so.
    """
    positions = positions_at(np.floor(places[:, ::-1] / step_px), places).set_axis(obs.index)
    # One array column alone numbers nothing.
    array = ("array_row", "array_col") if {"array_row", "array_col"} <= set(obs) else ()
    carried = [column for column in ("in_tissue", "region", *array) if column in obs and column != region_key]
    return positions.assign(**{column: obs[column] for column in carried})
