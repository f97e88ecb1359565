"""A small task of HEST-bench in its true layout, with genes that follow the colour of the patches and genes that do not."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csc_matrix

PATCH_PX = 224
MPP = 0.25
SECTIONS = {"H1": "P1", "H2": "P1", "H3": "P2", "H4": "P3"}
FOLDS = [(["H3", "H4"], ["H1", "H2"]), (["H1", "H2", "H4"], ["H3"]), (["H1", "H2", "H3"], ["H4"])]
FOLLOW = [f"F{i}" for i in range(6)]
NOISE = [f"N{i}" for i in range(6)]
UNPATCHED = 2
"""Spots at the end of each section that have counts and no patch."""


class BenchSection:
    """A Visium section of 7 x 6 spots; the deeper a patch's stain, the more of the genes that follow it."""

    def __init__(self, sample: str) -> None:
        rng = np.random.default_rng(sum(map(ord, sample)))
        row, col = np.divmod(np.arange(7 * 6), 6)
        col = 2 * col + row % 2
        self.names = [f"{sample}{i:03d}-1" for i in range(len(row))]
        step = 50 / MPP
        self.places = np.column_stack([600 + col * step, 700 + row * step * np.sqrt(3)])
        self.depth = rng.normal(size=len(row))
        rate = np.exp(1.2 + 0.7 * self.depth[:, None] * np.repeat([1, 0], [len(FOLLOW), len(NOISE)]))
        self.genes = [*FOLLOW, *NOISE, "UNLISTED"]
        self.counts = np.column_stack([rng.poisson(rate), rng.poisson(30, len(row))])
        self.obs = pd.DataFrame({"in_tissue": 1, "array_row": row, "array_col": col}, index=self.names)
        self.patched = np.arange(len(row) - UNPATCHED)[::-1]  # patches stand in an order of their own
        stain = 1 / (1 + np.exp(-self.depth[self.patched]))
        base = np.array([225, 170, 215]) - stain[:, None] * np.array([90, 110, 60])
        shape = (len(stain), PATCH_PX // 8, PATCH_PX // 8, 3)
        grain = np.repeat(np.repeat(rng.normal(0, 8, shape), 8, axis=1), 8, axis=2)
        self.patches = np.clip(base[:, None, None] + grain, 0, 255).astype(np.uint8)

    def write(self, task: Path, sample: str) -> None:
        for folder in ("adata", "patches"):
            (task / folder).mkdir(parents=True, exist_ok=True)
        section = anndata.AnnData(
            csc_matrix(self.counts.astype(np.float32)),
            obs=self.obs,
            var=pd.DataFrame(index=self.genes),
            obsm={"spatial": self.places},
        )
        section.write_h5ad(task / f"adata/{sample}.h5ad")
        half = PATCH_PX * 0.5 / MPP / 2
        with h5py.File(task / f"patches/{sample}.h5", "w") as handle:
            handle.create_dataset("img", data=self.patches, chunks=(1, PATCH_PX, PATCH_PX, 3), compression="gzip")
            handle["coords"] = np.rint(self.places[self.patched] - half).astype(np.int64)
            handle["barcode"] = np.array([self.names[i] for i in self.patched], "S").reshape(-1, 1)


def write_task(root: Path, name: str = "TOY") -> dict[str, BenchSection]:
    """Write a whole task below a folder and return its sections."""
    task = root / name
    sections = {sample: BenchSection(sample) for sample in SECTIONS}
    for sample, section in sections.items():
        section.write(task, sample)
    (task / "splits").mkdir()
    for i, fold in enumerate(FOLDS):
        for side, samples in zip(("train", "test"), fold, strict=True):
            rows = [f"{s},patches/{s}.h5,adata/{s}.h5ad" for s in samples]
            (task / f"splits/{side}_{i}.csv").write_text("\n".join(["sample_id,patches_path,expr_path", *rows]) + "\n")
    (task / "var_50genes.json").write_text(json.dumps({"genes": [*NOISE, *FOLLOW]}))
    return sections


def write_sheet(path: Path) -> None:
    """Write the sheet of the task's sections."""
    rows = [f"{sample}\t{patient}\tVisium" for sample, patient in SECTIONS.items()]
    path.write_text("\n".join(["sample\tpatient\ttechnology", *rows]) + "\n")
