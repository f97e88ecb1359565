"""SingleR on 17,136 real Xenium breast cells with a small real reference of normal breast."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, vstack

from histoloom.artefacts import Table, write_table
from histoloom.cells.labels import label_cells
from histoloom.samples.counts import read_mtx
from histoloom.schemas import check, load_schema

pytestmark = pytest.mark.real
GATES = {
    "T cell": ["CD3D", "CD3E", "CD3G", "TRAC", "CD2", "IL7R"],
    "Epithelial cells": ["EPCAM", "KRT7", "KRT8", "CDH1", "FOXA1"],
    "Pericytes": ["ACTA2", "MYH11", "MYLK", "CAV1", "PDGFRB"],
    "Fibroblast": ["LUM", "POSTN", "CCDC80", "FBLN1", "PDGFRA"],
    "Endothelial cells": ["PECAM1", "VWF", "CLEC14A", "KDR", "CLDN5"],
    "Monocytes": ["LYZ", "CD68", "CD163", "CD14", "FCER1G", "ITGAX"],
    "Adipocyte": ["ADIPOQ", "LPL", "ADH1B"],
    "B cell": ["MS4A1", "CD79A", "BANK1", "CD19"],
    "plasma cell": ["MZB1", "TNFRSF17", "DERL3", "PRDM1"],
    "mast cell": ["CPA3", "KIT", "TPSAB1", "CTSG"],
}
CLEAR = 0.5


def test_labels_agree_with_marker_genes_and_pruning_by_margin_prunes_no_cell(real_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("singler")
    cells = real_data / "xenium_visium_breast_gdv2024/data/pikachu.csv.gz"
    folder = real_data / "scdeconr_breast_ref/inst/extdata/refdata"
    if not cells.is_file() or not folder.is_dir():
        pytest.skip("no real breast cells, or no reference")
    table = pd.read_csv(cells, index_col="cell_id")
    places = table[["aligned_x", "aligned_y"]].to_numpy(float)
    counts = table.drop(columns=["cell_area", "nucleus_area", "aligned_x", "aligned_y"]).select_dtypes("number")
    counts = counts.loc[:, [name for name in counts if not name.startswith("Unnamed")]]
    facts = {"cohort": "real", "sample": "breast", "patient": "p", "mpp": 1.0}
    obs = pd.DataFrame({"in_tissue": True}, index=counts.index.astype(str))
    var = pd.DataFrame(index=counts.columns)
    section = tmp_path / "breast.h5ad"
    write_table(Table(obs, var, csr_matrix(counts.to_numpy(np.int32)), {}, {"spatial": places}, facts), section)
    parts = [read_mtx(folder / name) for name in ("sample1", "sample2")]
    notes = pd.concat(pd.read_csv(folder / f"phenodata_{s}.txt", sep="\t") for s in ("sample1", "sample2"))
    kind = notes.set_index("cellid")["celltype"]
    names = [name for part in parts for name in part[1]]
    reference = ad.AnnData(
        vstack([part[0] for part in parts]).astype(np.float32),
        pd.DataFrame({"celltype": kind[~kind.index.duplicated()].loc[names].to_numpy(str)},
                     index=[f"{i}" for i in range(len(names))]),
        pd.DataFrame(index=parts[0][2]["name"].to_numpy(object)),
    )  # fmt: skip
    reference.write_h5ad(tmp_path / "reference.h5ad")
    spec = {"method": "singler", "reference": "r", "label_key": "celltype", "values": "linear", "min_delta": 0.05,
            "pruned": "keep"}  # fmt: skip
    check(spec, load_schema("cell_labels.singler"), "test")
    out, steps = tmp_path / "labels.csv", tmp_path / "steps.csv"
    label_cells(spec=spec, sample=section, files={"reference": tmp_path / "reference.h5ad"}, out=out, steps=steps)
    labels = pd.read_csv(out, index_col="cell_id")
    assert labels["label"].value_counts().to_dict() == {
        "T cell": 4100, "Epithelial cells": 3660, "Pericytes": 3223, "Fibroblast": 2858, "Endothelial cells": 1516,
        "Monocytes": 977, "Adipocyte": 681, "NK cells": 121,
    }  # fmt: skip
    assert labels["pruned"].value_counts().to_dict() == {"delta": 1012}
    log = np.log1p(counts.div(counts.sum(axis=1), axis=0) * 1e3)
    z = (log - log.mean()) / log.std()
    gate = pd.DataFrame({name: z[[g for g in genes if g in z]].mean(axis=1) for name, genes in GATES.items()})
    ordered = np.sort(gate.to_numpy(), axis=1)
    best = gate.idxmax(axis=1).set_axis(labels.index)
    clear = (ordered[:, -1] - ordered[:, -2] > CLEAR) & best.isin(set(labels["label"])).to_numpy()
    agree = (labels["label"] == best)[clear].groupby(best[clear]).mean()
    print(int(clear.sum()), round(float((labels["label"] == best)[clear].mean()), 3), agree.round(2).to_dict())
    assert (labels["label"] == best)[clear].mean() > 0.6
    assert (agree[["T cell", "Epithelial cells", "Pericytes"]] > 0.8).all()
    # A type that the reference lacks is never flagged: clear B cells get the labels of others.
    b_cells = (ordered[:, -1] - ordered[:, -2] > CLEAR) & (best == "B cell").to_numpy()
    assert labels["label"][b_cells].value_counts(normalize=True).index[0] == "T cell"
