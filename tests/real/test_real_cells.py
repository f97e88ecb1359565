"""A whole real Xenium section, 84,518 cells of bone marrow, through models of cell classes, clusters and niches."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
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
