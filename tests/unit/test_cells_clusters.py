"""Clusters of cells: agreement with labels against scikit-learn, groups that were put there, tables of a section."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

from error_codes import has_code
from histoloom.artefacts import Table
from histoloom.cells.agreement import agreement
from histoloom.cells.clustering import leiden_and_umap, neighbour_graph, read_representation
from histoloom.config import load_config
from histoloom.errors import InputError
from histoloom.plan import Plan
from histoloom.report.clusters import describe
from histoloom.schemas import check, load_schema
from histoloom.user_yaml import read_user_yaml

CELLS = Path(__file__).resolve().parents[1] / "workflow" / "cells.yaml"


def spec_of(**changes: object) -> dict:
    entry = {"experiment": "e", "representations": [{"name": "a", "encoder": "a"}, {"name": "b", "encoder": "b"}]}
    check(entry, load_schema("clusters"), "test")
    return {**entry, "name": "c", "fold": "f", **changes}


def test_agreement_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.choice(["x", "y", "z"], 300)
    clusters = np.where(rng.random(300) < 0.6, labels, rng.choice(["p", "q"], 300))
    table = agreement({"own": clusters, "one": np.zeros(300)}, labels, rng.integers(0, 9, 300), n_draws=20)
    value = table[table["minus"] == ""].set_index(["representation", "measure"])["value"]
    assert value["own", "ari"] == pytest.approx(adjusted_rand_score(labels, clusters))
    assert value["own", "nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters))
    counts = pd.crosstab(clusters, labels)
    assert value["own", "purity"] == pytest.approx(counts.max(axis=1).sum() / 300)
    assert value["one", "ari"] == pytest.approx(0)
    assert value["one", "nmi"] == pytest.approx(0)
    minus = table[table["minus"] == "own"].set_index("measure")["value"]
    assert minus["ari"] == pytest.approx(-value["own", "ari"])


def test_a_representation_minus_its_copy_is_zero_in_every_draw_and_an_interval_covers_the_truth():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(40):
        # Blocks of one label each: cells are not independent, and 30 blocks are what the interval may count.
        label_of, kept = rng.choice(3, 60), rng.random(60) < 0.7
        blocks = np.repeat(np.arange(60), 20)
        labels = label_of[blocks]
        clusters = np.where(kept[blocks], labels, (labels + 1) % 3)
        table = agreement({"a": clusters, "copy": clusters}, labels, blocks, n_draws=100, seed=seed)
        difference = table[table["minus"] == "a"]
        assert (difference[["value", "low", "high"]] == 0).all(axis=None)
        purity = table[(table["measure"] == "purity") & (table["minus"] == "")].iloc[0]
        covered += purity["low"] <= 0.7 <= purity["high"]
    assert covered >= 33  # 38 expected; 33 is beyond the 1st percentile of Binomial(40, .95)


def test_groups_far_apart_are_the_clusters_in_both_packages():
    rng = np.random.default_rng(2)
    group = rng.integers(0, 4, 240)
    values = (rng.normal(size=(4, 8)) * 8)[group] + rng.normal(size=(240, 8))
    for package in ("leidenalg", "igraph"):
        clusters, umap = leiden_and_umap(values.astype(np.float32), spec_of(leiden=package))
        assert adjusted_rand_score(group, clusters) == 1.0
        assert umap.shape == (240, 2)
        assert np.isfinite(umap).all()
        # By size: "0" is the largest.
        sizes = pd.Series(clusters).value_counts().sort_index()
        assert list(sizes.index) == ["0", "1", "2", "3"]
        assert (np.diff(sizes) <= 0).all()


def test_neighbours_of_many_cells_are_exact():
    # Beyond 8,192 cells scanpy would look for neighbours in another way.
    values = np.random.default_rng(4).random((8200, 3)).astype(np.float32)
    distances = neighbour_graph(values, 6, 0).obsp["distances"]
    wanted, _ = NearestNeighbors(n_neighbors=6).fit(values).kneighbors(values[:200])
    np.testing.assert_allclose(np.sort(distances[:200].data.reshape(200, 5), axis=1), wanted[:, 1:], atol=1e-5)


def test_tables_of_a_section_are_of_clustered_cells_and_niches_of_all():
    rng = np.random.default_rng(3)
    n = 600
    xy = rng.random((n, 2)) * 1000
    label = np.where(xy[:, 0] > 500, "t", "u")
    obs = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "um_per_px": 1.0, "label": label, "clustered": xy[:, 1] > 400})
    obs["block"] = [f"{int(a // 250)}_{int(b // 250)}" for a, b in xy]
    obs["niche"] = np.where(label == "t", "niche 1", "niche 0")
    obs["cluster_a"] = np.where(obs["clustered"], np.where(label == "t", "1", "0"), "")
    obs["cluster_b"] = np.where(obs["clustered"], rng.choice(["0", "1"], n), "")
    spec = spec_of(n_permutations=19, n_bootstrap=50)
    tables = describe(Table(obs, pd.DataFrame(), np.zeros((n, 0))), spec)
    agreed = tables["agreement"].set_index(["representation", "minus", "measure"])
    assert (agreed["n"] == obs["clustered"].sum()).all()
    assert agreed.loc[("a", "", "ari"), "value"] == 1
    assert agreed.loc[("b", "a", "ari"), "high"] < -0.9
    composed = tables["composition"].groupby("grouping")["n"].sum()
    assert composed.to_dict() == {"a": obs["clustered"].sum(), "b": obs["clustered"].sum(), "niches": n}
    assert set(tables["enrichment"].query("grouping == 'a' and n > 10")["fold"].round(2)) != {1.0}
    with pytest.raises(InputError, check=has_code("clusters-none")):
        describe(Table(obs.assign(clustered=False), pd.DataFrame(), np.zeros((n, 0))), spec)


def test_projections_that_lack_a_cell_are_refused(tmp_path):
    from histoloom.artefacts import write_table

    obs = pd.DataFrame({"sample": "s"}, index=["c/s/1", "c/s/2"])
    values = np.arange(4.0, dtype=np.float32).reshape(2, 2)
    write_table(Table(obs, pd.DataFrame(index=["0", "1"]), values, {}, {"genes": values + 1}), tmp_path / "p.h5ad")
    files, source = {"projections_m": [tmp_path / "p.h5ad"]}, {"model": "m", "part": "genes"}
    np.testing.assert_array_equal(read_representation(source, obs.iloc[::-1], files, {}), values[::-1] + 1)
    np.testing.assert_array_equal(read_representation({**source, "part": "joint"}, obs, files, {}), values)
    with pytest.raises(InputError, check=has_code("clusters-projections")):
        read_representation(source, obs.rename({"c/s/2": "c/s/9"}), files, {})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"fold": "block-9"}, "clusters-fold"),
        ({"representations": [{"name": "x", "encoder": "unknown"}]}, "clusters-representation"),
        ({"representations": [{"name": "x", "model": "multi"}]}, "clusters-representation"),
        ({"representations": [{"name": "x"}]}, "clusters-representations"),
        ({"representations": [{"name": "x", "encoder": "genes"}] * 2}, "clusters-representations"),
        ({"experiment": "nowhere"}, "name-unknown"),
    ],
)
def test_entries_that_fit_no_experiment_are_refused(change: dict, code: str):
    raw = read_user_yaml(CELLS)
    raw["clusters"]["places"] |= change
    with pytest.raises(InputError, check=has_code(code)):
        Plan(load_config(raw, [CELLS]))
