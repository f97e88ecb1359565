"""Niches on tissues with known answers, and the calibration of contacts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from histoloom.cells.niches import contact_graph, find_niches, neighbourhood_composition, neighbourhood_enrichment

MIXES = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.34, 0.33, 0.33]])


def tissue(seed: int = 0, n: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, labels and true niches: four quadrants with mixes of three classes."""
    rng = np.random.default_rng(seed)
    positions = rng.random((n, 2)) * 1000
    niche = (positions[:, 0] > 500) * 2 + (positions[:, 1] > 500)
    labels = np.array([rng.choice(3, p=MIXES[k]) for k in niche])
    return positions, labels, niche


def test_niches_of_a_tissue_are_recovered_and_none_in_a_shuffled_one():
    positions, labels, niche = tissue()
    found = find_niches(neighbourhood_composition(positions, labels, k=40), n_niches=4)
    assert adjusted_rand_score(niche, found) > 0.8
    shuffled = np.random.default_rng(1).permutation(labels)
    found = find_niches(neighbourhood_composition(positions, shuffled, k=40), n_niches=4)
    assert abs(adjusted_rand_score(niche, found)) < 0.02


def test_composition_equals_a_count_by_hand_even_with_cells_at_one_place():
    rng = np.random.default_rng(2)
    positions, labels = rng.random((60, 2)), rng.integers(0, 3, 60)
    got = neighbourhood_composition(positions, labels, k=5).to_numpy()
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    nearest = labels[np.argsort(distance, axis=1)[:, :5]]
    np.testing.assert_allclose(got, np.stack([(nearest == k).mean(1) for k in range(3)], 1))
    same = neighbourhood_composition(np.zeros((30, 2)), rng.integers(0, 2, 30), k=4)
    np.testing.assert_allclose(same.sum(1), 1)
    with pytest.raises(ValueError, match="neighbours"):
        neighbourhood_composition(positions[:5], labels[:5], k=5)


def test_contacts_of_a_pair_made_neighbours_are_seen():
    rng = np.random.default_rng(3)
    positions = rng.random((1500, 2)) * 1000
    graph = contact_graph(positions, 60)
    assert abs(graph - graph.T).max() == 0
    labels = rng.choice(["a", "b", "c"], 1500)
    # Half of the neighbours of every tenth "a" become "b".
    for cell in np.flatnonzero(labels == "a")[::4]:
        near = graph.indices[graph.indptr[cell] : graph.indptr[cell + 1]]
        labels[near[: len(near) // 2]] = "b"
    table = neighbourhood_enrichment(graph, labels, np.zeros(1500), n_permutations=199).set_index(["first", "second"])
    assert table.loc[("a", "b"), "p_more"] == pytest.approx(1 / 200)
    assert table.loc[("a", "b"), "contacts"] == table.loc[("b", "a"), "contacts"]
    counts = sum(labels[i] == "a" and labels[j] == "b" for i, j in zip(*graph.nonzero(), strict=True))
    assert table.loc[("a", "b"), "contacts"] == counts


def test_permutation_p_is_calibrated_within_blocks():
    positions, _, niche = tissue(4, 600)
    graph = contact_graph(positions, 120)
    low = 0
    for seed in range(60):
        # Classes differ between blocks, not within: permuting over the whole tissue would call them enriched.
        rng = np.random.default_rng(seed)
        labels = np.array([rng.choice(3, p=MIXES[k]) for k in niche])
        table = neighbourhood_enrichment(graph, labels, niche, n_permutations=59, seed=seed).set_index(
            ["first", "second"]
        )
        low += table.loc[(0, 1), "p_more"] <= 0.1
    assert low <= 13  # 6 expected; 13 is beyond the 99.5th percentile of Binomial(60, .1)
