"""A sample's spots or cells as GeoJSON for QuPath 0.4 and later: drag the file onto the open slide.

Coordinates are level-0 px of the slide. A spot is a regular polygon of its true size, a pseudo-spot its square, a cell
its outline where outlines are given, with its nucleus. A region annotated by the publisher is the object's class.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.samples.polygons import count_outlined, largest_outlines

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

_CORNERS = 24
_DECIMALS = 2
_BLOCK = 4096
_COLOURS = ((228, 26, 28), (55, 126, 184), (77, 175, 74), (152, 78, 163), (255, 127, 0), (166, 86, 40), (247, 129, 191))
_SQUARES = frozenset({"Xenium", "Visium HD"})


def write_qupath(
    *,
    sample: Path,
    out: Path,
    genes: Sequence[str] = (),
    cells: Path | None = None,
    nuclei: Path | None = None,
    in_tissue_only: bool = True,
) -> None:
    """Write a FeatureCollection, one feature per observation.

    Parameters
    ----------
    sample
        A canonical sample.
    out
        geojson to write.
    genes
        Genes whose counts become measurements in addition to ``counts`` and ``genes``.
    cells, nuclei
        Outlines (`histoloom.samples.polygons.write_polygons`); without them a cell is a disc of the median size.
    in_tissue_only
        Leave out observations off the tissue.

    Raises
    ------
    InputError
        If the file is no sample, a gene is not in it, or no cell has an outline.
    """
    import anndata

    facts = read_metadata(sample)
    if "mpp" not in facts or "sample" not in facts:
        raise InputError(sample, "is no sample of histoloom.", "give a file of results/samples/.")
    section = anndata.read_h5ad(sample)
    unknown = [gene for gene in genes if gene not in section.var_names]
    if unknown:
        raise InputError(sample, f"has no gene {', '.join(unknown)}.", "fix the names; they are those of var.")
    if in_tissue_only:
        section = section[section.obs["in_tissue"].to_numpy()]
    rings, cores = largest_outlines(cells), largest_outlines(nuclei)
    if cells:
        count_outlined(cells, section.obs_names, rings)
    written = 0
    with out.open("w", encoding="utf-8") as handle:
        handle.write('{"type":"FeatureCollection","features":[')
        for feature in _features(section, facts, list(genes), rings, cores):
            _append(handle, feature, first=written == 0)
            written += 1
        handle.write("]}\n")
    logger.info("%s: %d objects", out, written)


def _append(handle: IO[str], feature: Mapping[str, Any], *, first: bool) -> None:
    """Write one feature on a line of its own."""
    handle.write("\n" if first else ",\n")
    handle.write(json.dumps(feature, separators=(",", ":"), allow_nan=False, ensure_ascii=False))


def outline(facts: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Return the closed ring (k, 2) of an observation around its centre, level-0 px."""
    if facts.get("source_facts", {}).get("st_technology") in _SQUARES:
        half = facts["spot_diameter_um"] / facts["mpp"] / 2
        return half * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])
    angle = 2 * np.pi * np.arange(_CORNERS + 1) / _CORNERS
    radius = facts["spot_diameter_um"] / facts["mpp"] / 2
    return radius * np.column_stack([np.cos(angle), np.sin(angle)])


def _features(
    section: AnnData,
    facts: Mapping[str, Any],
    genes: list[str],
    rings: Mapping[str, npt.NDArray[np.float64]],
    cores: Mapping[str, npt.NDArray[np.float64]],
) -> Iterator[dict[str, Any]]:
    """Yield features in the sample's order."""
    shape, places = outline(facts), np.asarray(section.obsm["spatial"])
    is_cell = facts.get("unit") == "cell"
    regions = section.obs["region"].astype(str).to_numpy() if "region" in section.obs else np.full(len(places), "")
    named = sorted(set(regions) - {""})
    colours = {region: list(_COLOURS[index % len(_COLOURS)]) for index, region in enumerate(named)}
    depth, number = section.obs["n_counts"].to_numpy(), section.obs["n_genes"].to_numpy()
    columns = section.var_names.get_indexer(genes) if genes else []
    for start in range(0, section.n_obs, _BLOCK):
        block = slice(start, min(start + _BLOCK, section.n_obs))
        counts = section.X[block][:, columns].toarray() if len(columns) else np.empty((_BLOCK, 0))
        for offset, name in enumerate(section.obs_names[block]):
            at = start + offset
            properties: dict[str, Any] = {
                "objectType": "cell" if is_cell else "detection",
                "name": str(name),
                "measurements": {
                    "counts": int(depth[at]),
                    "genes": int(number[at]),
                    **{gene: int(value) for gene, value in zip(genes, counts[offset], strict=True)},
                },
            }
            if regions[at]:
                properties["classification"] = {"name": regions[at], "color": colours[regions[at]]}
            feature = {
                "type": "Feature",
                "geometry": _polygon(rings.get(str(name), shape + places[at])),
                "properties": properties,
            }
            if is_cell and str(name) in cores:
                feature["nucleusGeometry"] = _polygon(cores[str(name)])
            yield feature


def _polygon(ring: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return a GeoJSON polygon."""
    return {"type": "Polygon", "coordinates": [np.round(ring, _DECIMALS).tolist()]}
