"""Small sections in the true layouts of STNet, HEST, Xenium and Space Ranger, for the tests of their readers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import tifffile
from PIL import Image

TISSUE, GLASS, NUCLEUS = (214, 150, 196), (240, 238, 242), (70, 40, 120)


def slide_with_tissue(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """Glass with a rectangle of tissue: left, top, right, bottom."""
    image = np.full((height, width, 3), GLASS, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = TISSUE
    return image


def packed(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


def write_ome(path: Path, image: np.ndarray, mpp: float | None = None, layout: str = "yxs", **options: Any) -> None:
    """An H&E as 10x gives it: tiled OME-TIFF with reduced levels in SubIFDs; layout yxs (1,y,x,3), syx (3,y,x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {"axes": "YXS" if layout == "yxs" else "CYX"}
    if mpp:
        metadata |= {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    data = image if layout == "yxs" else np.moveaxis(image, 2, 0)
    common = {"tile": (256, 256), **options}
    if layout == "yxs":
        common["photometric"] = "rgb"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(data, subifds=1, metadata=metadata, **common)
        writer.write(data[::2, ::2] if layout == "yxs" else data[:, ::2, ::2], subfiletype=1, **common)


def write_10x_h5(
    path: Path,
    counts: np.ndarray,
    barcodes: Any,
    names: list[str],
    ids: list[str],
    kinds: list[str] | None = None,
    **change: Any,
) -> None:
    """counts: (observations, features), stored as 10x does: CSC of features x barcodes, int64 indices."""
    from scipy.sparse import csr_matrix

    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = csr_matrix(counts)
    arrays = {
        "barcodes": np.asarray(barcodes),
        "data": matrix.data.astype(np.int32),
        "indices": matrix.indices.astype(np.int64),
        "indptr": matrix.indptr.astype(np.int64),
        "shape": np.array([counts.shape[1], counts.shape[0]], np.int32),
        "features/id": np.array(ids, "S"),
        "features/name": np.array(names, "S"),
        "features/feature_type": np.array(kinds or ["Gene Expression"] * len(names), "S"),
    }
    arrays |= change
    with h5py.File(path, "w") as handle:
        for name, values in arrays.items():
            if values is not None:
                handle[f"matrix/{name}"] = values


# Xenium -----------------------------------------------------------------------------------------------------------

PIXEL_UM = 0.2125
XENIUM_GENES = ["EPCAM", "CD3E", "COL1A1", "KRT8", "PECAM1", "CD68"]
XENIUM_IDS = [f"ENSG{i:011d}" for i in range(1, 7)]
CONTROLS = {"NegControlProbe_00042": "Negative Control Probe", "UnassignedCodeword_0001": "Unassigned Codeword"}


def xenium_matrix(angle: float = 0.3, scale: float = 1.2884, shift: tuple[float, float] = (310.0, 150.0)) -> np.ndarray:
    """H&E px -> morphology px: a rotation, 0.2738 um/px over 0.2125, a shift. Not symmetric: a transposed one shows."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.vstack([np.column_stack([turn, shift]), [0, 0, 1]])


class XeniumBundle:
    """Cells on a jittered grid inside the tissue of an H&E, nuclei drawn where they lie."""

    def __init__(self, n: int = 15, seed: int = 0, width: int = 900, height: int = 700) -> None:
        rng = np.random.default_rng(seed)
        self.matrix = xenium_matrix()
        x, y = (a.ravel() for a in np.meshgrid(np.linspace(120, 560, n), np.linspace(90, 420, n), indexing="ij"))
        self.he = np.column_stack([x, y]) + rng.uniform(-5, 5, (n * n, 2))
        morphology = np.column_stack([self.he, np.ones(n * n)]) @ self.matrix.T
        self.um = morphology[:, :2] * PIXEL_UM
        self.ids: Any = np.array(
            [f"{chr(97 + i // 26 // 26 % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}aaaaa-1" for i in range(n * n)]
        )
        self.counts = rng.poisson(1.5, (n * n, len(XENIUM_GENES) + len(CONTROLS)))
        self.image = slide_with_tissue(width, height, (90, 60, 600, 460))
        disc = np.hypot(*np.mgrid[-8:9, -8:9]) <= 8
        for cx, cy in np.rint(self.he).astype(int):
            self.image[cy - 8 : cy + 9, cx - 8 : cx + 9][disc] = NUCLEUS
        self.cells = pd.DataFrame(
            {
                "cell_id": self.ids,
                "x_centroid": self.um[:, 0],
                "y_centroid": self.um[:, 1],
                "transcript_counts": self.counts.sum(1),
                "cell_area": rng.uniform(60, 100, n * n),
                "nucleus_area": rng.uniform(10, 20, n * n),
            }
        )
        self.alignment = "\n".join(",".join(f"{v:.10f}" for v in row) for row in self.matrix) + "\n"
        self.row = {
            "sample": "X1",
            "patient": "P1",
            "bundle": "run_outs",
            "image": "run_he_image.ome.tif",
            "alignment": "run_he_imagealignment.csv",
        }

    def keypoints(self, n: int = 4) -> str:
        """Explorer's other form of the same alignment."""
        points = np.array([[100.0, 80.0], [700.0, 120.0], [350.0, 600.0], [640.0, 510.0]])[:n]
        fixed = (np.column_stack([points, np.ones(n)]) @ self.matrix.T)[:, :2]
        lines = [f"{f[0]},{f[1]},{p[0]},{p[1]}" for f, p in zip(fixed, points, strict=True)]
        return "\n".join(["fixedX,fixedY,alignmentX,alignmentY", *lines]) + "\n"

    def boundaries(self, radius_um: float) -> pd.DataFrame:
        """Octagons around the centroids."""
        angle = np.linspace(0, 2 * np.pi, 9)
        ring = radius_um * np.column_stack([np.cos(angle), np.sin(angle)])
        places = (self.um[:, None] + ring).reshape(-1, 2)
        return pd.DataFrame(
            {
                "cell_id": np.repeat(self.ids, 9),
                "vertex_x": places[:, 0].astype("f4"),
                "vertex_y": places[:, 1].astype("f4"),
            }
        )

    def write(self, root: Path, **h5: Any) -> Path:
        bundle = root / self.row["bundle"]
        write_10x_h5(
            bundle / "cell_feature_matrix.h5",
            self.counts,
            h5.pop("barcodes", np.array([str(i) for i in self.ids], "S")),
            [*XENIUM_GENES, *CONTROLS],
            [*XENIUM_IDS, *CONTROLS],
            ["Gene Expression"] * len(XENIUM_GENES) + list(CONTROLS.values()),
            **h5,
        )
        self.cells.to_parquet(bundle / "cells.parquet", index=False)
        self.boundaries(5).to_parquet(bundle / "cell_boundaries.parquet", index=False)
        self.boundaries(2).to_parquet(bundle / "nucleus_boundaries.parquet", index=False)
        facts = {"pixel_size": PIXEL_UM, "num_cells": len(self.cells), "analysis_sw_version": "xenium-3.0.0.15"}
        (bundle / "experiment.xenium").write_text(json.dumps(facts))
        (root / self.row["alignment"]).write_text(self.alignment)
        write_ome(root / self.row["image"], self.image)
        return root


# HEST -------------------------------------------------------------------------------------------------------------


class HestSample:
    """A sample on an ST array (padded ids), on a Visium array, or of pseudo-spots."""

    def __init__(self, technology: str, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        mpp = 1.0 if technology == "Spatial Transcriptomics" else 0.5
        self.technology, self.mpp = technology, mpp
        if technology == "Visium":
            row, col = np.divmod(np.arange(8 * 12), 12)
            col = 2 * col + row % 2
            x, y = 160 + col * 100.0, 150 + row * 100 * np.sqrt(3)
            names = [
                f"{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]}{'ACGT'[i // 16 % 4]}{'ACGT'[i // 64]}-1" for i in range(len(row))
            ]
            self.pitch, self.diameter = 100.0, 55.0
        else:
            row, col = np.divmod(np.arange(7 * 9), 9)
            self.pitch = {"Xenium": 100.0, "Spatial Transcriptomics": 200.0, "Visium HD": 128.0}[technology]
            self.diameter = self.pitch / (2 if technology == "Spatial Transcriptomics" else 1)
            step = self.pitch / mpp
            if technology == "Spatial Transcriptomics":  # the first number is x
                x, y = 200 + row * step, 180 + col * step
            else:
                x, y = 200 + col * step, 180 + row * step
            names = [f"{r:03d}x{c:03d}" for r, c in zip(row, col, strict=True)]
        self.genes = ["EPCAM", "KRT8", "CD3E", "COL1A1"]
        if technology == "Xenium":
            self.genes += ["BLANK_0069", "NegControlProbe_00031", "antisense_LYZ", "NegControlCodeword_0502"]
        self.X = rng.poisson(2.0, (len(x), len(self.genes))).astype(np.float32)
        self.obs = pd.DataFrame(
            {"in_tissue": 1, "array_row": row, "array_col": col, "pxl_col_in_fullres": x, "pxl_row_in_fullres": y},
            index=names,
        )
        self.places = np.column_stack([x, y]).astype(np.float64)
        edge = round(self.pitch / mpp)
        right, bottom = (int(v) for v in self.places.max(0) + edge)
        self.image = slide_with_tissue(right + 900, bottom + 150, (20, 20, right, bottom))
        noise = rng.integers(-30, 30, (self.image.shape[0] // 40 + 1, self.image.shape[1] // 40 + 1, 3))
        blocks = np.kron(noise, np.ones((40, 40, 1)))[: self.image.shape[0], : self.image.shape[1]]
        self.image = np.clip(self.image + blocks, 0, 255).astype(np.uint8)
        self.facts: dict[str, Any] = {
            "id": "H1",
            "st_technology": technology,
            "patient": float("nan"),
            "pixel_size_um_estimated": mpp,
            "pixel_size_um_embedded": float("nan"),
            "inter_spot_dist": self.pitch,
            "spot_diameter": self.diameter,
            "fullres_px_width": self.image.shape[1],
            "fullres_px_height": self.image.shape[0],
            "spots_under_tissue": len(x),
        }
        self.row = {"sample": "H1", "patient": "P1", "technology": technology}
        self.patch_px, self.patched = 56, slice(0, None, 2)

    def write(self, root: Path) -> Path:
        import anndata
        from scipy.sparse import csc_matrix

        for folder in ("st", "wsis", "metadata", "patches"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        section = anndata.AnnData(
            csc_matrix(self.X), obs=self.obs, var=pd.DataFrame(index=self.genes), obsm={"spatial": self.places}
        )
        section.write_h5ad(root / "st/H1.h5ad")
        tifffile.imwrite(root / "wsis/H1.tif", self.image, tile=(256, 256), photometric="rgb")
        (root / "metadata/H1.json").write_text(json.dumps(self.facts))
        self.write_patches(root / "patches/H1.h5")
        return root

    def write_patches(self, path: Path, **change: Any) -> None:
        side = round(self.patch_px * 0.5 / self.mpp)
        centres = self.places[self.patched]
        corners = np.rint(centres - side / 2).astype(np.int64)
        images = np.stack(
            [
                np.asarray(Image.fromarray(self.image[y : y + side, x : x + side]).resize((self.patch_px,) * 2))
                for x, y in np.maximum(corners, 0)
            ]
        )
        names = np.array(list(self.obs.index[self.patched]), "S").reshape(-1, 1)
        with h5py.File(path, "w") as handle:
            for name, values in {"img": images, "coords": corners, "barcode": names, **change}.items():
                if values is not None:
                    handle[name] = values


# Space Ranger -----------------------------------------------------------------------------------------------------


class SpaceRanger:
    """An outs folder: 8 x 12 barcodes under tissue of a 10 x 14 array."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        row, col = np.divmod(np.arange(10 * 14), 14)
        col = 2 * col + row % 2
        self.positions = pd.DataFrame(
            {
                "barcode": [f"AAACC{i:04d}-1" for i in range(len(row))],
                "in_tissue": ((row > 0) & (row < 9) & (col > 1) & (col < 26)).astype(int),
                "array_row": row,
                "array_col": col,
                "pxl_row_in_fullres": np.rint(120 + row * 100 * np.sqrt(3)).astype(int),
                "pxl_col_in_fullres": np.rint(150 + col * 100.0).astype(int),
            }
        )
        self.barcodes = [b for b, t in zip(self.positions["barcode"], self.positions["in_tissue"], strict=True) if t]
        self.names = ["EPCAM", "TBCE", "TBCE", "CD3E"]
        self.ids = ["ENSG00000119888", "ENSG00000116957", "ENSG00000284770", "ENSG00000198851"]
        self.counts = rng.poisson(3.0, (len(self.barcodes), 4))
        self.image = slide_with_tissue(3600, 1900, (200, 200, 2750, 1500))
        self.scales = {"tissue_hires_scalef": 2000 / 3600, "spot_diameter_fullres": 65.0, "tissue_lowres_scalef": 0.1}
        self.row = {"sample": "V1", "patient": "P1", "outs": "V1/outs", "image": "V1/slide.tif"}

    def write(self, root: Path, generation: str = "new") -> Path:
        outs = root / "V1/outs"
        (outs / "spatial").mkdir(parents=True)
        write_10x_h5(
            outs / "filtered_feature_bc_matrix.h5", self.counts, np.array(self.barcodes, "S"), self.names, self.ids
        )
        if generation == "new":
            self.positions.to_csv(outs / "spatial/tissue_positions.csv", index=False)
        elif generation == "old":
            self.positions.to_csv(outs / "spatial/tissue_positions_list.csv", index=False, header=False)
        elif generation == "hd":
            self.positions.to_parquet(outs / "spatial/tissue_positions.parquet", index=False)
        elif generation == "old under the new name":
            self.positions.to_csv(outs / "spatial/tissue_positions.csv", index=False, header=False)
        elif generation == "new under the old name":
            self.positions.to_csv(outs / "spatial/tissue_positions_list.csv", index=False)
        (outs / "spatial/scalefactors_json.json").write_text(json.dumps(self.scales))
        small = Image.fromarray(self.image).resize((2000, round(1900 * 2000 / 3600)))
        small.save(outs / "spatial/tissue_hires_image.png")
        tifffile.imwrite(root / self.row["image"], self.image, tile=(256, 256), photometric="rgb")
        return root
