"""Small HEST-1k files of simulated sections in their true layout, and a config cut down to what runs on a CPU."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import tifffile
import yaml
from PIL import Image
from scipy.sparse import csc_matrix

from histoloom.samples import read_section
from histoloom.samples.her2st import SimulatedReader
from histoloom_simulation import write_section
from simulation_fixtures import simulated_spec

ROOT = Path(__file__).resolve().parents[1]
MPP = 2.0
PATCH_PX = 56
# Genes of the paper's figures and markers, in place of simulated ones.
RENAMED = ("GATA3", "ITLN1", "CD24", "MKI67", "ERBB2", "MLANA", "PMEL", "CYP3A4", "VWF", "OLFM4", "CLCA1", "S100A8")


def simulate(folder: Path, patients: int = 4, sections: int = 2) -> dict[str, tuple[anndata.AnnData, np.ndarray]]:
    """Return simulated sections ``p0s0``, ``p0s1``, ... with their pictures, at 2 um per px."""
    rows = [
        {
            "sample": f"p{p}s{s}", "patient": f"p{p}", "mpp": f"{MPP:g}", "pitch_um": "100", "spot_diameter_um": "55",
            "image": f"data/ST-imgs/p{p}s{s}/HE.jpg", "regions": f"data/ST-pat/lbl/p{p}s{s}_labeled_coordinates.tsv",
        }
        for p in range(patients)
        for s in range(sections)
    ]  # fmt: skip
    spec, found = simulated_spec(rows=rows, seed=3, effects={"geometry": False}), {}
    for row in rows:
        files = {role: Path(path) for role, path in SimulatedReader.files(row, spec, folder).items()}
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        write_section(spec=spec, row=row, out=files)
        out = folder / f"{row['sample']}.h5ad"
        read_section(
            source="simulated", cohort="sim", row=row, spec=spec, files=files, out=out, picture=out.with_suffix(".png")
        )
        section = anndata.read_h5ad(out)
        names = list(section.var_names)
        new = [gene for gene in RENAMED if gene not in names]
        places = [names.index(name) for name in sorted(names)[:: len(names) // len(new)]]
        for gene, place in zip(new, places, strict=False):
            names[place] = gene
        section.var_names = names
        found[row["sample"]] = (section, np.asarray(Image.open(files["image"])))
    return found


def write_sample(root: Path, sample: str, technology: str, section: anndata.AnnData, image: np.ndarray) -> None:
    """Write one sample of HEST-1k: ``st``, ``wsis``, ``metadata`` and ``patches``.

    Visium is hexagonal: every second spot of the simulated square array, the picture stretched to Visium's geometry.
    A tenth of the spots lie outside the tissue and have no patch.
    """
    obs, places = section.obs, np.asarray(section.obsm["spatial"], float)
    row, col = obs["array_row"].to_numpy(int), obs["array_col"].to_numpy(int)
    # Measured places scatter; those of a grid do not.
    grid = np.column_stack([col, row]) * (100 / MPP)
    if abs(np.corrcoef(places[:, 0], col)[0, 1]) < 0.9:
        grid = grid[:, ::-1]
    places = grid + np.median(places - grid, axis=0)
    mpp, keep = MPP, np.ones(len(obs), bool)
    if technology == "Visium":
        keep = (row + col) % 2 == 0
        height = round(image.shape[0] * np.sqrt(3))
        image = np.asarray(Image.fromarray(image).resize((image.shape[1], height)))
        places, mpp = places * [1, np.sqrt(3)], MPP / 2
    row, col, places = row[keep], col[keep], places[keep]
    n = len(row)
    bases = "ACGT"
    barcodes = ["".join(bases[i // 4**d % 4] for d in range(8)) + "-1" for i in range(n)]
    names = barcodes if technology == "Visium" else [f"{r:03d}x{c:03d}" for r, c in zip(row, col, strict=True)]
    counts, genes = csc_matrix(section.X)[keep], list(section.var_names)
    if technology == "Xenium":
        genes = [*genes, "BLANK_0069", "NegControlProbe_00031"]
        extra = np.random.default_rng(0).poisson(1.0, (n, 2))
        counts = csc_matrix(np.column_stack([counts.toarray(), extra]))
    tissue = np.ones(n, int)
    if technology == "Visium":
        tissue[np.argsort(places[:, 0])[: n // 10]] = 0
    table = pd.DataFrame({"in_tissue": tissue, "array_row": row, "array_col": col, "pxl_col_in_fullres": places[:, 0],
                          "pxl_row_in_fullres": places[:, 1]}, index=names)  # fmt: skip
    for folder in ("st", "wsis", "metadata", "patches"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    made = anndata.AnnData(
        counts.astype(np.float32), obs=table, var=pd.DataFrame(index=genes), obsm={"spatial": places}
    )
    made.write_h5ad(root / f"st/{sample}.h5ad")
    tifffile.imwrite(root / f"wsis/{sample}.tif", image, tile=(256, 256), photometric="rgb", compression="jpeg")
    facts = {
        "id": sample, "st_technology": technology, "pixel_size_um_estimated": mpp, "inter_spot_dist": 100.0,
        "spot_diameter": 55.0 if technology == "Visium" else 100.0, "spots_under_tissue": int(tissue.sum()),
        "fullres_px_width": image.shape[1], "fullres_px_height": image.shape[0],
    }  # fmt: skip
    (root / f"metadata/{sample}.json").write_text(json.dumps(facts))
    side = round(PATCH_PX * 0.5 / mpp)
    with tifffile.TiffFile(root / f"wsis/{sample}.tif") as stored:
        pixels = stored.asarray()
    corners = np.rint(places - side / 2).astype(np.int64)
    inside = ((corners >= 0) & (corners + side <= [pixels.shape[1], pixels.shape[0]])).all(axis=1) & (tissue == 1)
    images = [
        np.asarray(Image.fromarray(pixels[y : y + side, x : x + side]).resize((PATCH_PX, PATCH_PX)))
        for x, y in corners[inside]
    ]
    with h5py.File(root / f"patches/{sample}.h5", "w") as handle:
        handle["img"], handle["coords"] = np.stack(images), corners[inside]
        handle["barcode"] = np.array(names, "S")[inside].reshape(-1, 1)


def read_sheet(name: str) -> pd.DataFrame:
    """Return a tracked sheet as text."""
    return pd.read_csv(ROOT / "config" / name, sep="\t", dtype=str, keep_default_na=False)


def small_config(folder: Path, cohorts: Sequence[str] | None = None) -> tuple[dict[str, Any], Path]:
    """Return ``config/cmrcnet.yaml`` cut down, written to a folder with its sheets, and its path.

    The same experiments and models: networks, tiles, epochs, genes and k are small, weights random, and the encoder in
    place of CTransPath is a small one. The sheets' um per px are those of the simulated slides.
    """
    config = yaml.safe_load((ROOT / "config/cmrcnet.yaml").read_text())
    chosen = list(cohorts or config["cohorts"])
    (folder / "cohorts").mkdir(parents=True, exist_ok=True)
    sheets = {name: read_sheet(config["cohorts"][name]["sheet"]) for name in chosen}
    most = max(len(set(sheet["patient"])) for sheet in sheets.values())
    twice = any(len(sheet) > len(set(sheet["patient"])) for sheet in sheets.values())
    sections = simulate(folder / "simulated", max(most, 2), 1 + twice)
    for name in chosen:
        entry = config["cohorts"][name]
        sheet = sheets[name]
        patients = list(dict.fromkeys(sheet["patient"]))
        seen: dict[str, int] = {}
        for i, (sample, patient, technology) in enumerate(sheet[["sample", "patient", "technology"]].to_numpy()):
            order = seen[patient] = seen.get(patient, -1) + 1
            person = patients.index(patient)
            if len(patients) == 1:  # one donor: more sections than simulated for a patient
                person, order = order // 2, order % 2
            section, image = sections[f"p{person % 4}s{order % 2}"]
            write_sample(folder / "hest", sample, technology, section, image)
            sheet.loc[i, "mpp"] = f"{MPP / 2 if technology == 'Visium' else MPP:g}"
        sheet.to_csv(folder / entry["sheet"], sep="\t", index=False)
        entry["root"] = str(folder / "hest")
    config["cohorts"] = {name: config["cohorts"][name] for name in chosen}
    config["tiles"]["patch"] |= {"size_px": 32, "um_per_px": 3.5}
    config["cards"] = {"small": {
        "kind": "timm", "about": "a small network", "arch": "resnet10t", "arch_kwargs": {"num_classes": 0}, "dim": 512,
        "default_weights": "random", "input_px": 32, "pooling": "mean", "licence": "none", "citation": "none",
    }}  # fmt: skip
    config["encoders"]["ctranspath"] = {"card": "small", "tiles": "patch", "weights": "random"}
    shrink(config["models"])
    experiments = {}
    for name, entry in config["experiments"].items():
        if set(entry["cohorts"]) <= set(chosen):
            entry = copy.deepcopy(entry)
            entry["target"]["panel"]["k"] = 40
            entry["gene_sets"]["k"] = [10, 50, 150, 250]
            experiments[name] = entry
    config["experiments"] = experiments
    config["checks"] = {n: c for n, c in config["checks"].items() if c["experiment"] in experiments}
    path = folder / "cmrcnet.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return config, path


def shrink(models: Mapping[str, dict[str, Any]]) -> None:
    """Make the models of the config small: what they cost, not what they are."""
    k = {"k50": {"k": 50}, "k1": {"k": 1}, "k250": {"k": 60}, "k500": {"k": 70}}
    small = {
        "stnet": {"weights": "random", "growth_rate": 8, "blocks": [1, 1, 1, 1], "epochs": 4, "lr": 1.0e-3,
                  "standardise_target": True},
        "histogene": {"input_px": 16, "dim": 64, "n_layers": 1, "heads": 2, "epochs": 20, "lr": 1.0e-3},
        "bleep": {"weights": "random", "architecture": "resnet10t", "batch_size": 32, "epochs": 3},
        "cmrcnet": {"patch_px": 16, "input_px": 32, "depth": 1, "encoder_dim": 96, "width": 64, "batch_size": 32, "epochs": 4, "lr": 1.0e-3},
        "bleep_embeddings": {"epochs": 8, "batch_size": 32},
        "fine_tuned": {"epochs": 2, "lr": 1.0e-3},
    }  # fmt: skip
    for entry in models.values():
        entry.update(small.get(entry["kind"], {}))
        if "variants" in entry:
            entry["variants"] = k
