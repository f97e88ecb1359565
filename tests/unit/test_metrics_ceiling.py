"""The attainable correlation: thinning, reliability and ceiling against what is known for Poisson counts."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from metrics_inputs import make_obs, make_values, write_labels
from scipy.sparse import csr_matrix

import label_inputs as inputs
from error_codes import has_code
from histoloom.checks.base import run_check
from histoloom.errors import InputError
from histoloom.labels.thinning import thin_counts, thin_section
from histoloom.metrics.ceiling import attainable, reliability
from histoloom.metrics.rows import assemble, read_metrics
from histoloom.schemas import check, load_schema
from histoloom.stats import pearson_columns


def entry_of(**more) -> dict:
    entry = {"kind": "ceiling", "labels": "nnls", "cohorts": ["demo"], **more}
    check(entry, load_schema("check.ceiling"), "checks.j")
    return {**entry, "name": "j"}


def test_halves_add_up_are_binomial_independent_and_the_same_every_time():
    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.poisson(6.0, size=(400, 300)))
    first, second = (thin_counts(counts, half, 3, "c/s") for half in (0, 1))
    assert ((first + second) != counts).nnz == 0
    assert (thin_counts(counts, 0, 3, "c/s") != first).nnz == 0
    assert (thin_counts(counts, 0, 3, "c/t") != first).nnz > 0
    share = first.sum() / counts.sum()
    assert share == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(counts.sum()))
    # Given equal means, halves of Poisson counts are uncorrelated; two fits to the same counts would not be.
    r = pearson_columns(first.toarray().astype(float), second.toarray().astype(float))[0]
    assert abs(r.mean()) < 4 / np.sqrt(400 * 300)


def test_another_seed_or_section_has_other_halves():
    counts = csr_matrix(np.random.default_rng(1).poisson(6.0, size=(50, 40)))
    drawn = [thin_counts(counts, 0, seed, name).toarray() for seed, name in ((0, "c/s"), (1, "c/s"), (0, "c/t"))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        # Independent given the counts: what is left of them after the mean half is uncorrelated.
        left = [(drawn[i] - counts.toarray() / 2).ravel() for i in (one, other)]
        assert abs(np.corrcoef(left)[0, 1]) < 0.1


def test_counts_that_are_no_whole_numbers_are_refused():
    with pytest.raises(InputError, check=has_code("thinning-counts")):
        thin_counts(csr_matrix([[0.5, 1.0]]), 0, 0, "c/s")
    with pytest.raises(InputError, check=has_code("thinning-half")):
        thin_counts(csr_matrix([[1]]), 2, 0, "c/s")


@pytest.mark.parametrize("mean", [0.5, 3.0, 30.0])
def test_ceiling_is_the_analytic_one_for_poisson_counts_of_known_abundance(mean):
    """A label that is a Poisson count of abundance a: its correlation with a is sqrt(var a / (var a + E a)), and no
    predictor does better. Thinning knows the counts only and must find it."""
    rng = np.random.default_rng(1)
    abundance = mean * rng.gamma(2.0, 0.5, size=(4000, 25))
    counts = rng.poisson(abundance)
    known = np.sqrt(abundance.var() / (abundance.var() + abundance.mean()))
    halves = [thin_counts(csr_matrix(counts), half, 0, "s").toarray().astype(float) for half in (0, 1)]
    found = np.sqrt(reliability(pearson_columns(*halves)[0]))
    assert found.mean() == pytest.approx(known, abs=0.01)
    reached = pearson_columns(counts.astype(float), abundance)[0]
    assert reached.mean() == pytest.approx(known, abs=0.01)
    assert found.mean() == pytest.approx(reached.mean(), abs=0.01)


def test_reliability_of_spearman_and_brown():
    assert reliability(np.array([0.0, 1.0, 0.5, -0.3])) == pytest.approx([0, 1, 2 / 3, 0])
    assert np.isnan(reliability(np.array([np.nan]))[0])


def test_nnls_labels_of_halves_give_a_ceiling_that_falls_with_depth(tmp_path):
    """The whole way: section, halves, labels of each, check; next to what correlation with the true cells is reached."""
    table = inputs.signatures()
    cells = inputs.true_cells(400, len(inputs.TYPES), seed=0)
    reference = inputs.write_reference(tmp_path / "reference.h5ad", table)
    ceilings, reached = {}, {}
    for depth in (0.02, 0.5):
        folder = tmp_path / str(depth)
        folder.mkdir()
        mean = cells @ table.to_numpy().T * depth
        section = inputs.write_section(folder / "S1.h5ad", np.random.default_rng(2).poisson(mean), list(table.index))
        spec = {"method": "nnls", "reference": "r", "min_shared_genes": 20}
        files = []
        for half in (0, 1):
            thin_section(sample=section, half=half, seed=0, out=folder / f"S1.{half}.h5ad")
            made = inputs.run_labels(spec, [folder / f"S1.{half}.h5ad"], folder, reference=reference, group=f"g{half}")
            files.append(made)
        run_check(spec=entry_of(cohorts=["c"]), labels=files[:1], against=files[1:], out=folder / "j.parquet")
        rows = read_metrics([folder / "j.parquet"])
        assert set(rows["against"]) == {"halves"}
        found = rows[(rows["metric"] == "ceiling") & (rows["aggregation"] == "section")].set_index("target")["value"]
        whole = anndata.read_h5ad(inputs.run_labels(spec, [section], folder, reference=reference, group="whole"))
        share = cells / cells.sum(axis=1, keepdims=True)
        place = [int(a) * 8 + int(b) for a, b in (name.split("/")[-1].split("x") for name in whole.obs_names)]
        for name in inputs.TYPES:
            truth = share[place, inputs.TYPES.index(name)]
            value = np.asarray(whole[:, name].X, dtype=float).ravel()
            reached[depth, name] = np.corrcoef(value, truth)[0, 1]
            ceilings[depth, name] = found[name]
    for name in inputs.TYPES:
        assert ceilings[0.02, name] < ceilings[0.5, name]
        for depth in (0.02, 0.5):
            # Constraints (shares are not negative) bend the analytic identity a little; the order of size stays.
            assert reached[depth, name] == pytest.approx(ceilings[depth, name], abs=0.08)


def test_thinned_sections_keep_places_and_say_what_they_are(tmp_path):
    section = inputs.write_section(tmp_path / "S1.h5ad", np.full((16, 30), 9), [f"G{i}" for i in range(30)])
    thin_section(sample=section, half=1, seed=5, out=tmp_path / "half.h5ad")
    thin_section(sample=section, half=1, seed=5, out=tmp_path / "again.h5ad")
    assert (tmp_path / "half.h5ad").read_bytes() == (tmp_path / "again.h5ad").read_bytes()
    whole, half = anndata.read_h5ad(section), anndata.read_h5ad(tmp_path / "half.h5ad")
    assert list(half.obs_names) == list(whole.obs_names)
    assert half.obs["n_counts"].to_numpy() == pytest.approx(np.asarray(half.X.sum(axis=1)).ravel())
    facts = json.loads(half.uns["histoloom"])
    assert facts["thinned"] == {"half": 1, "seed": 5}
    assert facts["sample"] == "S1"


def test_cc_beside_its_ceiling_is_a_ratio_of_means_over_the_same_sections(tmp_path):
    obs = make_obs({("A", "A1"): 60, ("A", "A2"): 60, ("B", "B1"): 60})
    names = ["deep", "noise"]
    base = make_values(obs, types=2)
    rng = np.random.default_rng(0)
    halves = [base + rng.normal(size=base.shape) * np.array([0.3, 40.0]) for _ in range(2)]
    files = [write_labels(tmp_path / f"h{i}.h5ad", obs, np.abs(h), names) for i, h in enumerate(halves)]
    run_check(spec=entry_of(), labels=files[:1], against=files[1:], out=tmp_path / "j.parquet")
    ceilings = read_metrics([tmp_path / "j.parquet"])
    cc = [
        {"metric": "cc", "cohort": "demo", "patient": s[0], "sample": s, "target": t, "value": v, "aggregation": "section",
         "against": "labels"}
        for s, v in {"A1": 0.2, "A2": 0.4, "B1": 0.6}.items() for t in names
    ]  # fmt: skip
    metrics = assemble([pd.DataFrame(cc)], experiment="e", model="m")
    table = attainable(metrics, ceilings, ["m"]).set_index("target")
    assert list(table.index) == ["deep", "noise"]
    assert table["identifiable"].tolist() == [True, False]
    assert table.loc["deep", "cc_m"] == pytest.approx((0.3 + 0.6) / 2)
    assert table.loc["deep", "share_m"] == pytest.approx(0.45 / table.loc["deep", "ceiling"])
    assert np.isnan(table.loc["noise", "share_m"])
    assert table["n_sections"].tolist() == [3, 3]
    # Sections that the models were not scored on do not enter.
    fewer = attainable(metrics[metrics["sample"] != "B1"], ceilings, ["m"]).set_index("target")
    assert fewer["n_sections"].tolist() == [2, 2]


def test_labels_with_other_types_or_sections_are_refused(tmp_path):
    obs = make_obs({("A", "A1"): 30})
    first = write_labels(tmp_path / "a.h5ad", obs, make_values(obs, types=2), ["x", "y"])
    second = write_labels(tmp_path / "b.h5ad", obs, make_values(obs, types=2), ["x", "z"])
    with pytest.raises(InputError, check=has_code("ceiling-types")):
        run_check(spec=entry_of(), labels=[first], against=[second], out=tmp_path / "j.parquet")


def test_depth_makes_abundance_repeat_itself_and_shares_do_not(tmp_path):
    """What both halves know of a spot is its depth: every type's abundance is reliable, nobody's share is."""
    obs, rng = make_obs({("A", "A1"): 100}), np.random.default_rng(0)
    depth = rng.lognormal(0, 0.8, size=(100, 1))
    halves = [depth * rng.dirichlet([20, 20, 20], size=100) for _ in range(2)]
    files = [write_labels(tmp_path / f"h{i}.h5ad", obs, h, ["x", "y", "z"]) for i, h in enumerate(halves)]
    found = {}
    for transform in ("none", "log1p", "proportion"):
        spec = {**entry_of(), "transform": transform}
        run_check(spec=spec, labels=files[:1], against=files[1:], out=tmp_path / "j.parquet")
        rows = read_metrics([tmp_path / "j.parquet"])
        mine = rows[(rows["metric"] == "reliability") & (rows["aggregation"] == "cohort") & (rows["target"] != "")]
        found[transform] = mine["value"].mean()
    assert found["none"] > 0.85
    assert found["log1p"] > 0.85
    assert found["proportion"] < 0.2
