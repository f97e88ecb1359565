"""Tasks of HEST-bench in its layout: ``<TASK>/adata/<id>.h5ad``, ``<TASK>/patches/<id>.h5``, gene list and splits.

The benchmark (Jaume et al. 2024, arXiv 2406.16192) publishes no slides: a section's tiles are its patches, 112 um at
0.5 um/px, and its observations the spots that have one. Level-0 um/px follows from how far a patch's corner lies from
its spot: where HEST took a pixel size that is in doubt (TENX147), its patches show what it took.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histoloom.errors import InputError
from histoloom.samples.hest import MEASURES, POOLED, HestReader, read_spots
from histoloom.samples.hest_patches import PATCH_UM_PER_PX, locate_patches
from histoloom.samples.reader import join, need
from histoloom.samples.tables import read_json
from histoloom.slides import PatchSlide

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)


class HestBenchReader(HestReader):
    """Sections of one task, by id."""

    spec_keys = ("task",)

    @classmethod
    def files(cls, row: Mapping[str, str], spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return roles counts and image, which here is the file of patches."""
        sample, task = need(row, "sample"), spec["task"]
        return {"counts": join(root, f"{task}/adata/{sample}.h5ad"), "image": join(root, f"{task}/patches/{sample}.h5")}

    @classmethod
    def tables(cls, spec: Mapping[str, Any], root: str | Path) -> dict[str, str]:
        """Return the task's gene list and its splits, by ``genes``, ``train_<i>`` and ``test_<i>``."""
        folder = Path(root) / spec["task"]
        names = [f"{side}_{i}" for i in range(spec["folds"]) for side in ("train", "test")]
        return {"genes": str(folder / "var_50genes.json"), **{n: str(folder / f"splits/{n}.csv") for n in names}}

    @classmethod
    def read(cls, files: Mapping[str, Path], row: Mapping[str, str], spec: Mapping[str, Any]) -> AnnData:
        """Read the spots of a section that have a patch."""
        technology = row["technology"]
        section = read_spots(Path(files["counts"]), technology)
        path = Path(files["image"])
        with PatchSlide(path) as patches:
            at, side = locate_patches(patches, section.obs_names, np.asarray(section.obsm["spatial"]))
        dropped = {**section.uns["dropped"], "spot_without_patch": section.n_obs - len(at)}
        section = section[np.sort(at)].copy()
        section.uns["dropped"] = dropped
        section.obs["in_tissue"] = True
        mpp = patches.patch_px * PATCH_UM_PER_PX / side
        stated: dict[str, Any] = {"mpp": {"estimated": mpp}, "facts": {"st_technology": technology}}
        if technology in POOLED:
            stated["pitch_um"], stated["spot_diameter_um"] = MEASURES[technology]
        section.uns["stated"] = stated
        logger.info("%s: %d patches, %.1f level-0 px wide, %.4f um/px", path, len(at), side, mpp)
        return section


def published_genes(path: Path) -> list[str]:
    """Return the gene list of a task, ``{"genes": [...]}``."""
    genes = read_json(path, "fetch it again, or choose another panel.", "hest-bench-genes").get("genes")
    if not isinstance(genes, list) or not genes or len(set(map(str, genes))) != len(genes):
        raise InputError(path, "its genes are no list of different names.", "fetch it again.", code="hest-bench-genes")
    return [str(gene) for gene in genes]
