"""Moran's R by chance: the false discovery rate under independence, simulated pairs, and what W looks like."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from metrics_inputs import make_obs, write_labels, write_section
from scipy.ndimage import gaussian_filter
from scipy.stats import binom

from error_codes import has_code
from histoloom.checks.base import run_check
from histoloom.errors import InputError
from histoloom.metrics.moran import (
    grid_shifts,
    morans_r,
    null_maps,
    permutation_p,
    protocol_weights,
    spatial_weights,
    weight_diagnostics,
)
from histoloom.metrics.rows import read_metrics
from histoloom.metrics.uncertainty import false_discovery
from histoloom.schemas import check, load_schema


def tissue(side: int = 16, seed: int = 0) -> np.ndarray:
    """Array coordinates of tissue with a bite taken out of it."""
    rows, columns = np.divmod(np.arange(side * side), side)
    array = np.column_stack([rows, columns]).astype(float)
    return array[~((rows < 5) & (columns < 5))]


def smooth_fields(array: np.ndarray, rng: np.random.Generator, types: int, sigma: float) -> np.ndarray:
    """Independent fields, smooth over `sigma` steps of the array."""
    cells = array.astype(int)
    made = np.empty((len(array), types))
    for t in range(types):
        field = gaussian_filter(rng.normal(size=(48, 48)), sigma)[16 : 16 + 16, 16 : 16 + 16]
        made[:, t] = field[tuple(cells.T)]
    return np.exp(made / made.std(axis=0))


def share_below(level: float, *, scheme: str, sigma: float, runs: int = 60, types: int = 5) -> tuple[float, int]:
    """Share of pairs with p <= level when all types are independent, and the number of runs."""
    array = tissue()
    weights = spatial_weights(200.0 * array, np.zeros(len(array)))
    upper = np.triu_indices(types, 1)
    hits = []
    for run in range(runs):
        rng = np.random.default_rng(1000 + run)
        values = smooth_fields(array, rng, types, sigma) if sigma else rng.gamma(1.0, size=(len(array), types))
        null = null_maps(values, weights, array, scheme=scheme, count=99, seed=run)
        hits.append((permutation_p(morans_r(values, weights), null)[upper] <= level).mean())
    return float(np.mean(hits)), runs


def test_slides_over_gaps_are_centred_where_the_maps_overlap():
    """The definition, spelt out: z-scores of what landed, weights among the spots that got a value."""
    array = tissue(8, seed=1)
    array = array[~((array[:, 0] > 5) & (array[:, 1] < 3))]
    values = np.random.default_rng(0).gamma(1.0, size=(len(array), 2)) + array[:, :1]
    weights = spatial_weights(200.0 * array, np.zeros(len(array)))
    null = null_maps(values, weights, array, scheme="toroidal", count=4, seed=5, least=2)
    source, _ = grid_shifts(array, np.random.default_rng([5, len(array)]), 4, least=2)
    whole = weights.toarray()
    for b in range(4):
        here = [i for i in range(len(array)) if source[b, i] >= 0]
        assert 3 < len(here) < len(array)
        x, y = values[here], values[source[b, here]]
        zx, zy = ((v - v.mean(axis=0)) / v.std(axis=0) for v in (x, y))
        part = whole[np.ix_(here, here)]
        for i in range(2):
            for j in range(2):
                expected = (part * np.outer(zx[:, i], zy[:, j])).sum() / part.sum()
                assert null[b, i, j] == pytest.approx(expected)


@pytest.mark.parametrize("include_self", [True, False])
def test_a_spot_is_no_neighbour_of_its_own(include_self):
    array = np.column_stack(np.divmod(np.arange(25), 5)).astype(float)
    # 240 um and a cutoff of .2 reach 430 um: at 300 um the four neighbours and the four diagonal ones (424 um).
    facts = weight_diagnostics(spatial_weights(300.0 * array, np.zeros(25), include_self=include_self))
    assert facts["w_neighbours"] == pytest.approx((9 * 8 + 12 * 5 + 4 * 3) / 25)
    assert (facts["w_self_share"] > 0) == include_self


@pytest.mark.parametrize("scheme", ["random", "toroidal"])
def test_types_without_structure_are_found_as_often_as_chance_says(scheme):
    """One p in ten is below 0.1: within the binomial bounds of as many tests as there are runs (pairs share types)."""
    share, runs = share_below(0.1, scheme=scheme, sigma=0.0)
    assert binom.ppf(0.001, runs * 3, 0.1) / (runs * 3) <= share <= binom.ppf(0.999, runs * 3, 0.1) / (runs * 3)


def test_smooth_independent_types_need_slides_and_fool_exchanges():
    slid, runs = share_below(0.1, scheme="toroidal", sigma=1.5)
    exchanged, _ = share_below(0.1, scheme="random", sigma=1.5)
    assert slid <= binom.ppf(0.999, runs * 3, 0.1) / (runs * 3)
    assert exchanged > 0.4


def test_false_discoveries_over_whole_maps_stay_within_their_binomial_bounds():
    """All nulls true: the share of maps with any discovery at FDR 0.1 is the family-wise rate, at most 0.1."""
    array, runs, any_found = tissue(), 80, 0
    weights = spatial_weights(200.0 * array, np.zeros(len(array)))
    upper = np.triu_indices(6, 1)
    for run in range(runs):
        values = np.random.default_rng(run).gamma(1.0, size=(len(array), 6))
        null = null_maps(values, weights, array, scheme="random", count=199, seed=run)
        q = false_discovery(permutation_p(morans_r(values, weights), null)[upper])
        any_found += bool((q <= 0.1).any())
    assert any_found <= binom.ppf(0.999, runs, 0.1)


def test_q_values_are_those_of_benjamini_and_hochberg_and_nan_is_no_test():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.2])
    assert false_discovery(p) == pytest.approx([0.04, 0.16 / 3, np.nan, 0.16 / 3, 0.2], nan_ok=True)
    assert np.isnan(false_discovery(np.array([np.nan]))).all()


def test_slides_are_slides():
    array = np.column_stack(np.divmod(np.arange(36), 6)).astype(float)
    source, steps = grid_shifts(array, np.random.default_rng(0), 40, least=2)
    assert (np.sort(source, axis=1) == np.arange(36)).all()
    for row, step in zip(source, steps, strict=True):
        assert (array[row] == (array + step) % 6).all()
        assert max(min(s, 6 - s) for s in step) >= 2
    with pytest.raises(InputError, check=has_code("permutations-small-array")):
        grid_shifts(array[:2], np.random.default_rng(0), 5, least=3)


def spec(**more) -> dict:
    entry = {"kind": "colocalization", "labels": "c2l", "cohorts": ["demo"], "permutations": 199, **more}
    check(entry, load_schema("check.colocalization"), "checks.j")
    return {**entry, "name": "j"}


@pytest.fixture(scope="module")
def simulated_pairs(tmp_path_factory):
    """Two sections each of two patients: A and B attract, A and C repel, D is alone; E is constant."""
    folder = tmp_path_factory.mktemp("coloc")
    obs = make_obs({("p", "p1"): 196, ("p", "p2"): 196, ("q", "q1"): 196, ("r", "r1"): 196})
    rng = np.random.default_rng(3)
    parts = []
    for _, part in obs.groupby("sample", sort=False):
        array = part[["array_row", "array_col"]].to_numpy(float)
        a, d = (np.log(smooth_fields(array, rng, 1, 1.2))[:, 0] for _ in range(2))
        noise = 0.5 * rng.normal(size=(len(part), 3))
        columns = [np.exp(a + noise[:, 0]), np.exp(a + noise[:, 1]), np.exp(-a + noise[:, 2]), np.exp(d)]
        parts.append(np.column_stack([*columns, np.ones(len(part))]))
    values = np.concatenate(parts)
    labels = write_labels(folder / "l.h5ad", obs, values, ["A", "B", "C", "D", "E"])
    sections = [
        write_section(folder / f"{s}.h5ad", "demo", s, part, pitch_um=200.0, qc_flag="low" if s == "r1" else "")
        for s, part in obs.groupby("sample")
    ]
    return labels, sections, folder


@pytest.mark.parametrize("scheme", ["toroidal", "random"])
def test_simulated_pairs_have_their_sign_and_are_found_the_lone_type_is_not(simulated_pairs, scheme):
    labels, sections, folder = simulated_pairs
    run_check(spec=spec(scheme=scheme), labels=[labels], against=sections, out=folder / "j.parquet")
    rows = read_metrics([folder / "j.parquet"])
    cohort = rows[rows["aggregation"] == "cohort"].set_index(["metric", "target", "target2"])["value"]
    assert cohort["morans_r", "A", "B"] > 0.1
    assert cohort["morans_r", "A", "C"] < -0.1
    assert cohort["morans_q", "A", "B"] <= 0.05
    assert cohort["morans_q", "A", "C"] <= 0.05
    if scheme == "toroidal":
        assert cohort["morans_q", "A", "D"] > 0.05
    assert np.isnan(cohort["morans_p", "A", "E"])
    assert np.isnan(cohort["morans_q", "A", "A"])
    assert rows.loc[(rows["aggregation"] == "cohort") & (rows["metric"] == "morans_r"), "n"].unique().tolist() == [2]
    again = folder / "again.parquet"
    run_check(spec=spec(scheme=scheme), labels=[labels], against=sections, out=again)
    assert again.read_bytes() == (folder / "j.parquet").read_bytes()


def test_w_is_described_and_the_pixel_protocol_is_another_w(simulated_pairs):
    labels, sections, folder = simulated_pairs
    found = {}
    for name, moran in (("array", {}), ("px", {"protocol": "hist2cell_500px"}), ("noself", {"include_self": False})):
        entry = spec(permutations=19, moran=moran)
        run_check(spec=entry, labels=[labels], against=sections, out=folder / "w.parquet")
        rows = read_metrics([folder / "w.parquet"]).query("aggregation == 'section' and sample == 'p1'")
        found[name] = rows[rows["metric"].str.startswith("w_")].set_index("metric")["value"]
    # 14 x 14 spots of 200 um: two rings (12 neighbours inside, fewer at the rim).
    assert 10 < found["array"]["w_neighbours"] < 12
    assert found["noself"]["w_self_share"] == 0
    assert 0 < found["array"]["w_self_share"] < 0.5
    # Pitch 290 px, l 500 px: radius 897 px, three rings.
    assert 20 < found["px"]["w_neighbours"] < 29


def test_pixel_protocol_is_the_formula_and_caps_neighbours():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"cohort": "c", "sample": "s", "x": rng.uniform(0, 1500, 300), "y": rng.uniform(0, 1500, 300)})
    weights = protocol_weights(obs, {"protocol": "hist2cell_500px"})
    assert weights.sum() == pytest.approx(300)
    assert abs(weights - weights.T).max() < 1e-12
    places = obs[["x", "y"]].to_numpy()
    d2 = ((places[:, None] - places[None]) ** 2).sum(-1)
    dense = np.exp(-d2 / (2 * 500.0**2))
    order = np.argsort(-np.where(dense < 0.2, 0, dense), axis=1, kind="stable")[:, :160]
    listed = np.zeros_like(dense, dtype=bool)
    np.put_along_axis(listed, order, True, axis=1)
    dense[(dense < 0.2) | ~(listed | listed.T)] = 0
    assert weights.toarray() == pytest.approx(dense * 300 / dense.sum(), abs=1e-9)
    assert weight_diagnostics(weights)["w_neighbours"] > 150
