"""Real Xenium cells: 84,518 of bone marrow through models, clusters and niches; 200 with their H&E through a dual model."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow"))

from support import ROOT, run

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        os.environ.get("HISTOLOOM_REAL_RUNS") != "yes",
        reason="a run of many minutes: HISTOLOOM_REAL_RUNS=yes asks for it",
    ),
]
UM_PER_PX = 0.2125
SHRUNK = 8


def write_bundle(source: Path, raw: Path) -> None:
    """Write the bundle's own layout from what is published of it, its clusters as labels, and a white picture."""
    bundle = raw / "marrow"
    bundle.mkdir(parents=True)
    shutil.copy(source / "cell_feature_matrix.h5", bundle)
    (landscape,) = source.glob("Xenium_*")
    cells = pd.read_parquet(landscape / "cell_metadata.parquet")
    # Pixels of the morphology image: in um the section would be wider than a slide of the instrument.
    places = np.stack(cells["geometry"]) * UM_PER_PX
    table = pd.DataFrame({"cell_id": cells["name"], "x_centroid": places[:, 0], "y_centroid": places[:, 1]})
    table.to_csv(bundle / "cells.csv.gz", index=False)
    (bundle / "experiment.xenium").write_text(json.dumps({"pixel_size": UM_PER_PX, "num_cells": len(table)}))
    clusters = pd.read_parquet(landscape / "cell_clusters" / "cluster.parquet")["cluster"]
    labels = pd.DataFrame({"obs_id": clusters.index, "label": "cluster " + clusters.to_numpy(object)})
    labels.assign(cohort="marrow", sample="marrow").to_csv(raw / "marrow_clusters.csv", index=False)
    width, height = np.ceil(places.max(axis=0) / UM_PER_PX / SHRUNK).astype(int) + 10
    Image.new("RGB", (int(width), int(height)), "white").save(raw / "marrow_blank.tif")
    np.savetxt(raw / "marrow_alignment.csv", np.diag([SHRUNK, SHRUNK, 1.0]), delimiter=",")


def test_a_whole_section_goes_through_models_clusters_and_niches(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "xenium_bonemarrow"
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    write_bundle(source, tmp_path / "results" / "sources")
    run(tmp_path, config=ROOT / "tests" / "real" / "bonemarrow.yaml")
    scores = {}
    for experiment in ("random", "blocks"):
        for model in ("majority", "neighbours", "unimodal", "spatial"):
            rows = pd.read_parquet(tmp_path / f"results/metrics/{experiment}/{model}.parquet")
            own = rows[(rows["aggregation"] == "cohort") & (rows["metric"] == "macro_f1") & (rows["train_seed"] == -1)]
            scores[experiment, model] = own["value"].item()
    assert scores["blocks", "unimodal"] > 5 * scores["blocks", "majority"]
    # Clusters are made from genes of each cell: its neighbours know less of them than its own counts.
    assert scores["random", "neighbours"] < scores["random", "unimodal"]
    cells = pd.read_csv(tmp_path / "results/tables/clusters/marrow/composition.csv")
    assert cells.groupby("grouping")["n"].sum().nunique() == 1


def test_cells_with_their_tissue_go_through_the_dual_model(real_data: Path, tmp_path: Path) -> None:
    """A smoke run: 200 cells of NCBI858 (downsampled H&E) say nothing about how well a model does."""
    source = real_data / "deepspot_NCBI858"
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    cells = anndata.read_h5ad(source / "NCBI858.h5ad")
    markers = {
        "epithelial": ["EPCAM", "KRT5", "KRT8", "SCGB1A1", "SCGB3A2", "SFTPC", "AGER"],
        "immune": ["PTPRC", "CD3E", "CD4", "CD8A", "CD79B", "MRC1", "MARCO", "CD68"],
        "stromal": ["COL1A1", "COL1A2", "LUM", "ELN", "PECAM1", "VWF", "ACTA2"],
    }
    counts = pd.DataFrame(np.asarray(cells.X), cells.obs_names, cells.var_names)
    sums = pd.DataFrame(
        {name: counts[[g for g in genes if g in counts]].sum(axis=1) for name, genes in markers.items()}
    )
    labels = sums.idxmax(axis=1)[sums.max(axis=1) > 0]
    table = pd.DataFrame({"obs_id": labels.index, "label": labels, "cohort": "lung", "sample": "NCBI858"})
    table.to_csv(tmp_path / "labels.csv", index=False)
    # The table's x_pixel is the row of the image.
    cells.obsm["spatial"] = cells.obs[["y_pixel", "x_pixel"]].to_numpy(np.float64)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    tifffile.imwrite(
        tmp_path / "he.tif", np.asarray(Image.open(source / "NCBI858.jpg").convert("RGB")), tile=(256, 256)
    )
    sheet = {"sample": "NCBI858", "patient": "P", "counts": "cells.h5ad", "image": "he.tif", "mpp": 2.125}
    pd.DataFrame([sheet | {"spot_diameter_um": 20}]).to_csv(tmp_path / "sheet.tsv", sep="\t", index=False)
    model = {"width": 32, "heads": 2, "n_layers": 1, "hidden": 64, "epochs": 10, "lr": 0.001}
    config = {
        "genes": {"match": "name"},
        "cohorts": {"lung": {"source": "files", "sheet": "sheet.tsv"}},
        "tiles": {"um68": {"size_px": 32, "um_per_px": 2.125, "background": {"method": "none"}}},
        "encoders": {
            "genes": {"card": "log_counts", "tiles": "um68"},
            "morphology": {"card": "stain_texture", "tiles": "um68"},
        },
        "models": {
            "majority": {"kind": "majority_class"},
            "dual": {"kind": "cell_transformer", "architecture": "dual", "inputs": ["genes", "morphology"], **model},
        },
        "experiments": {
            "smoke": {
                "task": "evaluate",
                "cohorts": ["lung"],
                "tiles": "um68",
                "split": "random_stratified",
                "on_overlap": "allow",
                "target": {"kind": "cell_class", "table": "labels.csv", "labels_from": "counts"},
                "models": ["majority", "dual"],
                "train_seeds": [0],
                "content_guard": "off",
            }
        },
    }
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(config))
    run(tmp_path, config=tmp_path / "smoke.yaml")
    scores = {}
    for name in ("majority", "dual"):
        rows = pd.read_parquet(tmp_path / f"results/metrics/smoke/{name}.parquet")
        own = rows[(rows["aggregation"] == "cohort") & (rows["metric"] == "macro_f1") & (rows["train_seed"] == -1)]
        scores[name] = own["value"].item()
    print(f"{len(labels)} of 200 cells labelled: {labels.value_counts().to_dict()}; macro F1 {scores}")
    assert scores["dual"] > scores["majority"]
