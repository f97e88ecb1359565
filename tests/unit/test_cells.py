"""Matching of nuclei and enrichment: against the official outputs, enumeration and scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact

from histoloom.cells.enrichment import enrichment, fold_interval
from histoloom.cells.matching import match_greedy, match_optimal
from reference_outputs import FOLDER, generator, needs_reference, normal


@needs_reference
def test_greedy_matching_equals_the_official_code():
    n, m, threshold = 400, 380, 47.05882352941177
    cells = generator("cells").random((n, 2)) * (1500, 1200)
    nuclei = generator("nuclei").random((m, 2)) * (1500, 1200)
    k = int(0.6 * m)
    nuclei[:k] = cells[generator("pick").integers(0, n, k)] + 8 * normal("jitter", (k, 2))
    expected = pd.read_csv(FOLDER / "cellsymphony" / "match_expected.csv")
    nucleus, distance = match_greedy(cells, nuclei)
    np.testing.assert_array_equal(nucleus, expected["nucleus"])
    matched = nucleus >= 0
    np.testing.assert_allclose(distance[matched], expected["distance"][matched], rtol=1e-8)
    assert (matched & (distance < threshold)).sum() == 241
    _, optimal = match_optimal(cells, nuclei, threshold)
    assert np.isfinite(optimal).sum() >= 241


def test_optimal_matching_equals_enumeration():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cells, nuclei = rng.random((4, 2)), rng.random((5, 2))
        distance = np.linalg.norm(cells[:, None] - nuclei[None], axis=-1)
        best = (0, 0.0)
        for chosen in itertools.permutations(range(5), 4):
            d = distance[range(4), chosen]
            for kept in itertools.product([False, True], repeat=4):
                kept = np.asarray(kept)
                if (d[kept] <= 0.3).all():
                    best = max(best, (int(kept.sum()), -float(d[kept].sum())))
        nucleus, got = match_optimal(cells, nuclei, 0.3)
        assert (np.isfinite(got).sum(), -np.nansum(got)) == pytest.approx(best)
        used = nucleus[nucleus >= 0]
        assert len(used) == len(set(used))


@needs_reference
def test_enrichment_equals_the_official_table():
    given = pd.read_csv(FOLDER / "cellsymphony" / "enrichment_input.csv")
    expected = pd.read_csv(FOLDER / "cellsymphony" / "enrichment_expected.csv")
    got = enrichment(given["lab"], given["leiden"], min_cells=10)
    joined = expected.merge(got, left_on=["cluster", "cell_type"], right_on=["cluster", "label"], how="outer")
    assert len(joined) == len(expected) == len(got)
    for ours, theirs in {
        "n": "n_in",
        "expected": "exp_in",
        "fold": "fold_enrichment",
        "p": "pval",
        "q": "qval",
    }.items():
        np.testing.assert_allclose(joined[ours], joined[theirs], rtol=1e-9)


def test_enrichment_p_is_fishers_and_the_interval_knows_of_blocks():
    rng = np.random.default_rng(0)
    block = np.repeat(np.arange(40), 25)
    # A label that comes in whole blocks, and one that comes cell by cell, both unrelated to the clusters.
    whole, single = rng.random(40)[block] < 0.5, rng.random(1000) < 0.5
    cluster = (rng.random(40)[block] < 0.5).astype(int)
    got = enrichment(np.where(single, "a", "b"), cluster, min_cells=0)
    row = got[(got["cluster"] == 1) & (got["label"] == "a")].iloc[0]
    table = [[(single & (cluster == 1)).sum(), (~single & (cluster == 1)).sum()]]
    table.append([(single & (cluster == 0)).sum(), (~single & (cluster == 0)).sum()])
    assert row["p"] == pytest.approx(fisher_exact(table, alternative="greater")[1], rel=1e-9)
    width = {}
    for name, label in {"whole": whole, "single": single}.items():
        interval = fold_interval(label, cluster, block).set_index(["cluster", "label"]).loc[(1, True)]
        assert interval["low"] < 1 < interval["high"]
        width[name] = interval["high"] - interval["low"]
    assert width["whole"] > 2 * width["single"]
