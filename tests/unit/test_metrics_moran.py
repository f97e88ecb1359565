"""Moran's R against the double sum of its definition; map similarity against hand-made maps."""

from __future__ import annotations

import numpy as np
import pytest
from metrics_inputs import SPEC, make_obs, make_values, write_inputs
from scipy.spatial.distance import cdist

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.metrics import score_predictions
from histoloom.metrics.moran import map_similarity, morans_r, spatial_weights
from histoloom.metrics.rows import read_metrics


def dense_weights(array, pitch, section, length=240.0, cutoff=0.2, *, include_self=True):
    """All pairs, straight from the formula."""
    points = array * pitch[:, None]
    weights = np.exp(-(cdist(points, points) ** 2) / (2 * length**2))
    weights[weights < cutoff] = 0
    weights[section[:, None] != section[None, :]] = 0
    if not include_self:
        np.fill_diagonal(weights, 0)
    return weights * len(array) / weights.sum()


def double_sum(x, y, weights):
    dx, dy = x - x.mean(), y - y.mean()
    total = sum(weights[i, j] * dx[i] * dy[j] for i in range(len(x)) for j in range(len(x)))
    return total / np.sqrt((dx**2).sum() * (dy**2).sum())


@pytest.fixture(scope="module")
def tissue():
    rng = np.random.default_rng(0)
    cells = rng.permutation(120)[:80]
    array = np.column_stack(np.divmod(cells, 12)).astype(float)
    section = rng.permutation(np.repeat(["b", "a"], 40))  # interleaved on purpose
    return array, np.full(80, 200.0), section, rng.gamma(1.0, size=(80, 4))


@pytest.mark.parametrize("include_self", [True, False])
def test_product_equals_the_double_sum(tissue, include_self):
    array, pitch, section, values = tissue
    weights = spatial_weights(array * pitch[:, None], section, include_self=include_self)
    dense = dense_weights(array, pitch, section, include_self=include_self)
    assert weights.toarray() == pytest.approx(dense, abs=1e-12)
    assert weights.sum() == pytest.approx(len(array))
    got = morans_r(values, weights)
    want = np.array([[double_sum(x, y, dense) for y in values.T] for x in values.T])
    assert np.abs(got - want).max() < 1e-9
    assert got == pytest.approx(got.T, abs=1e-12)


def test_default_weights_reach_two_rings_of_a_200_um_array():
    array = np.column_stack(np.divmod(np.arange(121), 11)).astype(float)
    weights = spatial_weights(200.0 * array, np.zeros(121))
    offsets = array[weights[[60]].indices] - array[60]
    assert np.abs(offsets).max() == 2
    assert (offsets**2).sum(axis=1).max() == 4  # (2, 0) is in, (2, 1) is not
    assert len(offsets) == 13


def test_rings_exactly_on_the_cutoff_do_not_depend_on_rounding():
    length = 200 / np.sqrt(-2 * np.log(0.2))  # the next neighbour's weight is the cutoff
    for pitch, scale in ((200.0, 1.0), (0.1, 0.0005)):
        array = np.column_stack(np.divmod(np.arange(25), 5)).astype(float)
        weights = spatial_weights(pitch * array, np.zeros(25), length_scale_um=length * scale)
        assert weights[[12]].nnz == 5


def test_constant_types_are_undefined_and_leave_the_others_alone(tissue):
    array, pitch, section, values = tissue
    weights = spatial_weights(array * pitch[:, None], section)
    with_constant = np.column_stack([values, np.full(len(values), 0.3)])
    got = morans_r(with_constant, weights)
    assert np.isnan(got[4]).all()
    assert np.isnan(got[:, 4]).all()
    assert got[:4, :4] == pytest.approx(morans_r(values, weights), abs=1e-12)


def test_signs_attracting_repelling_independent():
    rng = np.random.default_rng(4)
    array = np.column_stack(np.divmod(np.arange(900), 30)).astype(float)
    wave = np.sin(array[:, 0] / 4)
    values = np.column_stack([wave, wave + 0.3 * rng.normal(size=900), -wave, rng.normal(size=900)])
    got = morans_r(values, spatial_weights(200.0 * array, np.zeros(900)))
    assert got[0, 1] > 0.6
    assert got[0, 2] < -0.6
    assert abs(got[0, 3]) < 0.1


def test_unknown_positions_are_named():
    with pytest.raises(InputError, check=has_code("moran-positions")):
        spatial_weights(np.full((3, 2), np.nan), np.zeros(3))


def test_similarity_of_a_map_with_itself_and_of_known_maps():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 6))
    a = a + a.T
    same, n, n_nan = map_similarity(a, a)
    assert all(v == pytest.approx(1) for v in same.values())
    assert (len(same), n, n_nan) == (8, 6, 0)
    b = -a
    other, _, _ = map_similarity(a, b)
    assert other["coloc_cosine", "nodiag_row"] == pytest.approx(-1)
    assert other["coloc_correlation", "nodiag_flat"] == pytest.approx(-1)
    # With the diagonal set to 1 in both, a map and its opposite are no longer opposite.
    assert other["coloc_cosine", "diag1_row"] > -1


def test_similarity_forms_follow_their_definitions():
    rng = np.random.default_rng(1)
    a, b = (m + m.T for m in rng.normal(size=(2, 5, 5)))
    b[2], b[:, 2] = np.nan, np.nan
    got, n, n_nan = map_similarity(a, b)
    assert (n, n_nan) == (4, 1)
    keep = [0, 1, 3, 4]
    a, b = a[np.ix_(keep, keep)], b[np.ix_(keep, keep)]
    rows = [np.corrcoef(np.delete(a[i], i), np.delete(b[i], i))[0, 1] for i in range(4)]
    assert got["coloc_correlation", "nodiag_row"] == pytest.approx(np.mean(rows))
    np.fill_diagonal(a, 1)
    np.fill_diagonal(b, 1)
    assert got["coloc_correlation", "diag1_flat"] == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    cosine = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    assert got["coloc_cosine", "diag1_row"] == pytest.approx(np.mean(cosine))


def test_a_type_that_only_the_prediction_lacks_counts_as_colocalized_with_nothing():
    rng = np.random.default_rng(1)
    a, b = (m + m.T for m in rng.normal(size=(2, 5, 5)))
    whole, _, _ = map_similarity(b, b)
    silent = b.copy()
    silent[2], silent[:, 2] = np.nan, np.nan
    got, n, n_nan = map_similarity(silent, b)
    assert (n, n_nan) == (5, 0)
    assert all(got[key] < whole[key] for key in whole)
    zero = np.where(np.isnan(silent), 0.0, silent)
    off = ~np.eye(5, dtype=bool)
    assert got["coloc_correlation", "nodiag_flat"] == pytest.approx(np.corrcoef(zero[off], b[off])[0, 1])


def test_two_types_have_no_similarity():
    got, n, _ = map_similarity(np.eye(2), np.eye(2))
    assert n == 2
    assert all(np.isnan(v) for v in got.values())


def test_rows_per_section_pooled_and_aggregated(tmp_path):
    obs = make_obs({("A", "A1"): 36, ("A", "A2"): 25, ("B", "B1"): 49, ("C", "C1"): 25}, qc_flags={"C1": "low"})
    values = make_values(obs)
    prediction = values + np.random.default_rng(0).normal(size=values.shape)
    paths = write_inputs(tmp_path, obs, values, prediction)
    score_predictions(spec=SPEC, experiment="x", model="m", out=tmp_path / "m.parquet", **paths)
    rows = read_metrics([tmp_path / "m.parquet"])
    maps = rows[rows["metric"] == "morans_r"]
    assert (maps.groupby(["aggregation", "sample"]).size() == 15).all()
    one = maps[(maps["aggregation"] == "section") & (maps["sample"] == "A1")]
    one = one[(one["target"] == "B") & (one["target2"] == "T")]["value"].iloc[0]
    at = (obs["sample"] == "A1").to_numpy()
    array = obs.loc[at, ["array_row", "array_col"]].to_numpy(float)
    dense = dense_weights(array, np.full(at.sum(), 200.0), np.zeros(at.sum()))
    assert one == pytest.approx(double_sum(prediction[at, 0], prediction[at, 4], dense))
    similar = rows[(rows["metric"] == "coloc_cosine") & (rows["gene_set"] == "nodiag_row")]
    section = similar[similar["aggregation"] == "section"].set_index("sample")["value"]
    cohort = similar[similar["aggregation"] == "cohort"].iloc[0]
    assert cohort["value"] == pytest.approx((section[["A1", "A2"]].mean() + section["B1"]) / 2)
    assert cohort["n"] == 2
    pooled = rows[(rows["metric"] == "morans_r") & (rows["aggregation"] == "pooled")]
    assert set(pooled["n"]) == {110}  # the flagged section is not in it


def test_sections_without_an_array_are_left_out_with_a_warning(tmp_path, caplog):
    obs = make_obs({("A", "A1"): 25, ("B", "B1"): 25}).drop(columns=["array_row", "array_col"])
    values = make_values(make_obs({("A", "A1"): 25, ("B", "B1"): 25}))
    paths = write_inputs(tmp_path, obs, values, values + 0.1)
    with caplog.at_level("WARNING"):
        score_predictions(spec=SPEC, experiment="x", model="m", out=tmp_path / "m.parquet", **paths)
    assert "demo/A1, demo/B1" in caplog.text
    assert not read_metrics([tmp_path / "m.parquet"])["metric"].str.startswith("morans").any()
