"""Samples of HEST-1k in its layout: ``st/<id>.h5ad``, ``wsis/<id>.tif``, ``metadata/<id>.json``, ``patches/<id>.h5``.

Four technologies in one format (Jaume et al. 2024, arXiv 2406.16192). Visium keeps its barcodes; legacy ST ids are
padded with zeros there ("010x013") and get their source's form back ("10x13"). Xenium and Visium HD come as
pseudo-spots, transcripts pooled in squares; control probes among their features are dropped. ``array_row``
of legacy ST is the first number of the id (x), that of pseudo-spots counts from the top.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.samples.canonical import cell_number
from histoloom.samples.counts import StoredSection, read_h5ad
from histoloom.samples.files import positions_of
from histoloom.samples.geometry import estimate_pitch, grid_of
from histoloom.samples.hest_patches import check_patches
from histoloom.samples.reader import Reader, assemble, join, need, pictured
from histoloom.samples.tables import is_control, number, plain_id, read_json
from histoloom.slides import open_slide

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

# Technology -> (pitch, spot diameter), um. Pseudo-spots are squares that touch.
MEASURES: Mapping[str, tuple[float, float]] = {
    "Visium": (100.0, 55.0),
    "Spatial Transcriptomics": (200.0, 100.0),
    "Xenium": (100.0, 100.0),
    "Visium HD": (128.0, 128.0),
}
POOLED = frozenset({"Xenium", "Visium HD"})
_UNDER_TISSUE = ("spots_under_tissue", "cells_under_tissue")
_FACTS = (*_UNDER_TISSUE, "dataset_title", "st_technology", "subseries", "patient", "species")


class HestReader(Reader):
    """Samples of HEST-1k, by id; the sheet's ``technology`` is the table's ``st_technology``."""

    spec_keys = ("patches",)

    @classmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return roles counts, metadata, image (unless `images: false`) and patches (if the cohort uses them)."""
        sample = need(row, "sample")
        files = {"counts": join(root, f"st/{sample}.h5ad"), "metadata": join(root, f"metadata/{sample}.json")}
        if pictured(spec):
            files["image"] = join(root, f"wsis/{sample}.tif")
        if spec.get("patches", "ignore") != "ignore":
            if not pictured(spec):
                problem = f"has `patches: {spec['patches']}`, which compares them with the slides, and `images: false`."
                remedy = "set `patches: ignore`, or read the slides."
                raise InputError("a cohort of source hest", problem, remedy, code="hest-patches-images")
            files["patches"] = join(root, f"patches/{sample}.h5")
        return files

    @classmethod
    def implied(cls, row: Mapping[str, str], spec: Mapping[str, Any]) -> dict[str, str]:
        """Return the measures of printed arrays; those of pseudo-spots are in the sample's own metadata."""
        technology = row.get("technology", "")
        if technology in POOLED or technology not in MEASURES:
            return {}
        pitch, diameter = MEASURES[technology]
        return {"pitch_um": f"{pitch:g}", "spot_diameter_um": f"{diameter:g}"}

    @classmethod
    def read(cls, files: Mapping[str, Path], row: Mapping[str, str], spec: Mapping[str, Any]) -> AnnData:
        """Read counts, positions and the published pixel size of a sample."""
        facts = read_facts(Path(files["metadata"]), row)
        technology = facts["st_technology"]
        section = read_spots(Path(files["counts"]), technology)
        section.uns["stated"] = _stated(facts, technology)
        if "patches" in files:
            _use_patches(section, files, row, facts, restrict=spec.get("patches") == "restrict")
        return section


def read_spots(path: Path, technology: str) -> AnnData:
    """Read counts and positions of an h5ad as HEST writes it, without control probes."""
    stored = read_h5ad(path)
    counts, places = stored.counts, _places(stored, technology, path)
    kept = ~is_control(list(counts.genes)) if technology == "Xenium" else np.ones(len(counts.genes), bool)
    obs_ids = pd.Index([plain_id(name) for name in counts.obs_ids], dtype=object)
    gene_ids = None if counts.gene_ids is None else counts.gene_ids[kept]
    genes, matrix = counts.genes[kept], counts.matrix[:, kept]
    counts = replace(counts, matrix=matrix, genes=genes, gene_ids=gene_ids, obs_ids=obs_ids)
    return assemble(counts, places, {"control_probe": int((~kept).sum())})


def read_facts(path: Path, row: Mapping[str, str]) -> dict[str, Any]:
    """Read a sample's metadata json and check that it belongs to the sheet row."""
    facts = read_json(path, "fetch it again.", "hest-metadata")
    if facts.get("id") not in (None, row["sample"]):
        problem = f"is about sample '{facts['id']}', not '{row['sample']}'."
        raise InputError(path, problem, "fetch it again.", code="hest-metadata-sample")
    technology = facts.get("st_technology") or row.get("technology")
    if technology not in MEASURES:
        problem = f"unknown st_technology {technology!r}; known: {', '.join(MEASURES)}."
        raise InputError(path, problem, "fix it.", code="hest-technology")
    if row.get("technology") and row["technology"] != technology:
        problem = f"says {technology}, the sheet {row['technology']}."
        raise InputError(path, problem, "fix 'technology' in the sheet.", code="hest-technology")
    return {**facts, "st_technology": technology}


def _stated(facts: Mapping[str, Any], technology: str) -> dict[str, Any]:
    """Say what the metadata json knows, in the terms of `Reader.read`."""
    stated: dict[str, Any] = {"facts": {k: facts[k] for k in _FACTS if pd.notna(facts.get(k))}}
    estimated, embedded = (number(facts.get(f"pixel_size_um_{kind}")) for kind in ("estimated", "embedded"))
    if estimated:
        stated["mpp"] = {"estimated": estimated}
    stated["facts"].update(pixel_size_um_estimated=estimated, pixel_size_um_embedded=embedded)
    if technology in POOLED:
        pitch, diameter = MEASURES[technology]
        stated["pitch_um"] = number(facts.get("inter_spot_dist")) or pitch
        stated["spot_diameter_um"] = number(facts.get("spot_diameter")) or diameter
    size = [number(facts.get(f"fullres_px_{side}")) for side in ("width", "height")]
    if all(size):
        stated["slide_size"] = tuple(size)
    return stated


def _places(stored: StoredSection, technology: str, path: Path) -> pd.DataFrame:
    """Return positions as `histoloom.samples.tables.tidy_positions` does.

    Early pseudo-spots have no array coordinates, and dropping empty squares has shifted some: they are numbered anew
    from the places wherever they do not follow them.
    """
    if stored.spatial is None:
        problem = f"no obsm['spatial']: {len(stored.obs)} rows like '{next(iter(stored.obs.index), '')}' are no spots."
        raise InputError(path, problem, "fetch it again.", code="spatial-missing")
    if technology in POOLED:
        places = stored.spatial
        known = {"array_row", "array_col"} <= set(stored.obs)
        pitch = estimate_pitch(stored.obs[["array_row", "array_col"]].to_numpy(), places) if known else None
        if pitch is None or pitch.residual > 0.01:
            logger.info("%s: array coordinates are %s; numbered by place", path, "wrong" if known else "missing")
            stored.obs[["array_row", "array_col"]] = grid_of(places, str(path))
    return positions_of(stored, path)


def _use_patches(
    section: AnnData, files: Mapping[str, Path], row: Mapping[str, str], facts: Mapping[str, Any], *, restrict: bool
) -> None:
    """Check the published patches against the slide; keep as tissue what has one, if the cohort says so."""
    path = Path(files["patches"])
    mpp = cell_number(row, "mpp", f"sheet row '{row['sample']}'") or number(facts.get("pixel_size_um_estimated"))
    with open_slide(files["image"]) as slide:
        barcodes = check_patches(path, slide, section.obs_names, np.asarray(section.obsm["spatial"]), mpp)
    has_patch = section.obs_names.isin(barcodes)
    section.obs["has_patch"] = has_patch
    if restrict:
        section.uns["dropped"]["in_tissue_without_patch"] = int((section.obs["in_tissue"] & ~has_patch).sum())
        section.obs["in_tissue"] = has_patch
