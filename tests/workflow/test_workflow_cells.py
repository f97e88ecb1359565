"""Two simulated Xenium runs from the bundle to scores: which classes genes tell apart, which morphology, which neither."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from support import ROOT, run

from histoloom.metrics.protocol import short

pytestmark = pytest.mark.workflow
CONFIG = ROOT / "tests" / "workflow" / "cells.yaml"
MODELS = ("majority", "genes", "morphology", "both")


@pytest.fixture(scope="module")
def f1(folder: Path) -> pd.DataFrame:
    """F1 of each class (rows) and of all ("") by model, on spatial blocks."""
    return cohort_f1(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    scores = (
        *(f"results/metrics/blocks/{model}.parquet" for model in MODELS),
        "results/metrics/labelled/genes.parquet",
    )
    check, shuffled = "results/metrics/checks/split.parquet", "results/metrics/shuffled/both.parquet"
    represented = "results/representations/blocks/align/block-0.h5ad"
    clusters = ("results/clusters/places/cells/T1.agreement.csv", "results/exports/blocks/genes/cells/T1.h5ad")
    run(
        folder,
        *scores,
        check,
        shuffled,
        represented,
        *clusters,
        "results/predictions/blocks/aligned/default.h5ad",
        config=CONFIG,
    )
    return folder


def cohort_f1(folder: Path) -> pd.DataFrame:
    rows = pd.concat([pd.read_parquet(folder / f"results/metrics/blocks/{model}.parquet") for model in MODELS])
    rows = rows[(rows["aggregation"] == "cohort") & rows["metric"].isin(["f1", "macro_f1"])]
    return rows.pivot_table(index="target", columns="model", values="value")


def test_genes_tell_apart_what_looks_alike(f1: pd.DataFrame) -> None:
    assert (f1.loc[["T_cell", "B_cell"], "genes"] > 0.9).all()
    assert (f1.loc[["T_cell", "B_cell"], "morphology"] < 0.6).all()


def test_morphology_tells_apart_what_has_one_expression_profile(f1: pd.DataFrame) -> None:
    assert (f1.loc[["tumour", "epithelial"], "morphology"] > f1.loc[["tumour", "epithelial"], "genes"] + 0.15).all()
    assert (f1.loc[["tumour", "epithelial"], "both"] > 0.9).all()


def test_classes_that_are_drawn_by_lot_are_not_learnt(f1: pd.DataFrame) -> None:
    assert (f1.loc[["fibroblast", "myofibroblast"]].drop(columns="majority") < 0.75).all(axis=None)


def test_both_modalities_together_are_best_and_the_majority_says_nothing(f1: pd.DataFrame) -> None:
    whole = f1.loc[""]
    assert whole["both"] > max(whole["genes"], whole["morphology"]) + 0.03
    assert whole["majority"] < 0.1


def test_singler_finds_the_types_and_its_labels_say_what_they_come_from(folder: Path) -> None:
    for sample in ("T1", "T2"):
        labels = pd.read_csv(folder / f"results/cell_labels/singler/cells/{sample}.csv", index_col="cell_id")
        truth = pd.read_csv(folder / f"results/sources/simulated/cells/truth/{sample}_classes.csv", index_col="cell_id")
        types = truth.loc[labels.index, "type"]
        # Two types share a profile; nothing of their genes tells them apart.
        told_apart = ~types.isin(["cancer_epithelial", "luminal_epithelial"])
        assert (labels["label"] == types)[told_apart].mean() > 0.97
    rows = pd.read_parquet(folder / "results/metrics/labelled/genes.parquet")
    protocol = json.loads(rows["protocol"].iloc[0])
    assert "labels from counts, which the model reads too" in short(protocol)
    # The labels are a function of the model's own input: a score near 1 that says little of cells.
    whole = rows[(rows["aggregation"] == "cohort") & (rows["metric"] == "accuracy")]
    assert whole["value"].item() > 0.98


def test_projections_of_a_fold_say_who_trained_them_and_how_pairs_find_each_other(folder: Path) -> None:
    made = anndata.read_h5ad(folder / "results/representations/blocks/align/block-0.h5ad")
    folds = pd.read_parquet(folder / "results/folds/blocks.parquet")
    own = folds[folds["fold"] == "block-0"].set_index(["sample", "obs_id"])["role"]
    expected = own.loc[pd.MultiIndex.from_frame(made.obs[["sample", "obs_id"]].astype(str))]
    np.testing.assert_array_equal(made.obs["role"].astype(str).replace("", "dropped"), expected.to_numpy(str))
    np.testing.assert_allclose(made.X, (made.obsm["genes"] + made.obsm["morphology"]) / 2, rtol=1e-6)
    table = pd.read_csv(folder / "results/representations/blocks/align/block-0.retrieval.csv")
    top = table[(table["measure"] == "retrieval") & (table["k"] == 5)].set_index(["role", "direction"])
    assert (top["value"] > 2 * top["chance"]).all()
    assert {role for role, _ in top.index} == {"train", "test"}


def test_projections_trained_on_all_cells_are_stamped(folder: Path) -> None:
    made = anndata.read_h5ad(folder / "results/predictions/blocks/aligned/default.h5ad", backed="r")
    assert json.loads(made.uns["histoloom"])["protocol"]["transductive"]


def test_a_random_split_flatters_the_neighbours_and_not_the_genes(folder: Path) -> None:
    rows = pd.read_parquet(folder / "results/metrics/checks/split.parquet")
    change = rows[(rows["variant"] == "difference") & (rows["target"] == "")].set_index(["model", "metric"])["value"]
    assert change["neighbours", "macro_f1_low"] > 0.05
    assert change["genes", "macro_f1_low"] < 0 < change["genes", "macro_f1_high"]


def test_clusters_of_genes_follow_types_and_niches_follow_what_the_tissue_is_made_of(folder: Path) -> None:
    agreed = pd.read_csv(folder / "results/clusters/places/cells/T1.agreement.csv", keep_default_na=False)
    ari = agreed[agreed["measure"] == "ari"].set_index(["representation", "minus"])
    assert ari.loc[("genes", ""), "value"].item() > 0.5
    # Paired on the same cells, and the interval is above zero: genes say more of these classes than morphology.
    assert ari.loc[("genes", "morphology"), "low"].item() > 0.2
    cells = anndata.read_h5ad(folder / "results/clusters/places/cells/T1.h5ad")
    tested = pd.read_parquet(folder / "results/folds/blocks.parquet").query("fold == 'block-0' and role == 'test'")
    assert set(cells.obs_names[cells.obs["clustered"]]) == set(
        "cells/" + tested[tested["sample"] == "T1"]["obs_id"].radd("T1/")
    )
    assert np.isfinite(cells.obsm["umap_genes"]).all(axis=1).tolist() == cells.obs["clustered"].tolist()
    enriched = pd.read_csv(folder / "results/clusters/places/cells/T1.enrichment.csv")
    niche = enriched[(enriched["grouping"] == "niches") & (enriched["low"] > 1)]
    # Glands, aggregates of lymphocytes and tumour have a niche of their own.
    assert (
        niche.loc[niche["label"] == "epithelial", "cluster"].iloc[0]
        != niche.loc[niche["label"] == "B_cell", "cluster"].iloc[0]
    )
    assert {"epithelial", "B_cell", "tumour"} <= set(niche["label"])


def test_shuffled_labels_teach_nothing(folder: Path) -> None:
    rows = pd.read_parquet(folder / "results/metrics/shuffled/both.parquet")
    whole = rows[(rows["aggregation"] == "cohort") & (rows["target"] == "")].set_index("metric")["value"]
    # Thirteen classes: one in thirteen by chance.
    assert whole["balanced_accuracy"] < 0.15
    assert whole["macro_f1"] < 0.15


def test_exported_cells_have_predictions_representations_and_clusters_by_their_ids(folder: Path) -> None:
    place = folder / "results/exports/blocks/genes/cells"
    cells = anndata.read_h5ad(place / "T1.h5ad")
    predicted = anndata.read_h5ad(folder / "results/predictions/blocks/genes/default.h5ad")
    own = predicted[predicted.obs["sample"] == "T1"]
    best = pd.Series(own.var_names[np.asarray(own.X).argmax(axis=1)], own.obs["obs_id"].astype(str))
    assert (cells.obs["class"].astype(str) == best.loc[cells.obs_names]).all()
    truth = pd.read_csv(folder / "results/sources/simulated/cells/truth/T1_classes.csv", index_col="cell_id")
    assert (cells.obs["label"].astype(str) == truth["label"].loc[cells.obs_names]).all()
    clustered = anndata.read_h5ad(folder / "results/clusters/places/cells/T1.h5ad")
    at = "cells/T1/" + cells.obs_names.to_series()
    np.testing.assert_array_equal(cells.obsm["X_umap_places_genes"], clustered[at].obsm["umap_genes"])
    assert {"X_genes", "X_morphology_projected", "spatial", "probabilities"} <= set(cells.obsm)
    groups = pd.read_csv(place / "T1.groups.csv")
    assert list(groups) == ["cell_id", "group", "color"]
    features = json.loads((place / "T1.cells.geojson").read_text())["features"]
    named = {f["properties"]["name"]: f["properties"]["classification"]["name"] for f in features}
    assert named == dict(zip(groups["cell_id"], groups["group"], strict=True))
