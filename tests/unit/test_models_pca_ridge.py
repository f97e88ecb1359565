"""HEST-bench's linear probe against scikit-learn called step by step; panels as the benchmark chooses them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.folds.panel import top_genes
from histoloom.inputs import Inputs
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.models.pca_ridge import PCARidge, PCARidgeSpec
from histoloom.targets import kind_of

GENES = ("A", "B", "C")


def world(seed: int = 0, n: int = 60, dim: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(4 * n, dim)) @ rng.normal(size=(dim, dim)) + 3).astype(np.float32)
    y = np.log1p(np.abs(x @ rng.normal(size=(dim, 3)) + rng.normal(size=(4 * n, 3)) * 20))
    rows = np.arange(4 * n)
    folds = {f"P{i}": (rows[rows // n != i], rows[rows // n == i]) for i in range(4)}
    return x, y, rows // n, folds


def predict(x, y, patients, fold, spec):
    """Fit on a fold's training rows; return predictions of its test rows and what was chosen."""
    obs = pd.DataFrame({"cohort": "c", "sample": patients.astype(str), "obs_id": np.arange(len(x)).astype(str)})
    inputs = Inputs(obs, {"features": lambda rows: x[rows]}, np.arange(len(x)))
    train, test = fold
    part = Part(inputs.take(train), y[train], patients[train], patients[train])
    fitted = PCARidge(spec).fit(FoldData("f", part, None, kind_of("expression"), GENES), JobContext())
    return fitted.predict(inputs.take(test), {}, JobContext()), fitted.choices


@pytest.mark.parametrize("components", [8, 256, None])
def test_it_is_the_benchmarks_own_sequence(components: int | None) -> None:
    x, y, patients, folds = world()
    for train, test in folds.values():
        got, choices = predict(x, y, patients, (train, test), PCARidgeSpec(components=components))
        scaler = StandardScaler()
        a, b = scaler.fit_transform(x[train].astype(float)), scaler.transform(x[test].astype(float))
        if components is not None:
            pca = PCA(n_components=min(components, 20), random_state=1)
            # Not fit, then transform: lsqr's tolerance makes something of the last digits.
            a, b = pca.fit_transform(a), pca.transform(b)
        alpha = 100 / (a.shape[1] * 3)
        model = Ridge(solver="lsqr", alpha=alpha, random_state=0, fit_intercept=False, max_iter=1000).fit(a, y[train])
        assert choices["alpha"] == alpha
        np.testing.assert_allclose(got, model.predict(b), rtol=0, atol=1e-9)


def test_inner_alpha_sees_training_patients_only_and_is_the_best_there() -> None:
    x, y, patients, folds = world()
    spec = PCARidgeSpec(alpha="inner", components=None, alphas=(1e-3, 10.0, 1e3, 1e7))
    train, test = folds["P0"]
    changed = y.copy()
    changed[test] = np.random.default_rng(9).normal(size=changed[test].shape)
    (first, chosen), (again, same) = (predict(x, values, patients, folds["P0"], spec) for values in (y, changed))
    np.testing.assert_array_equal(first, again)
    assert chosen == same
    # By hand: hold out each training patient in turn.
    who, means = patients[train], []
    for alpha in spec.alphas:
        scores = []
        for patient in (1, 2, 3):
            out = who == patient
            scaler = StandardScaler().fit(x[train][~out].astype(float))
            model = Ridge(solver="lsqr", alpha=alpha, fit_intercept=False, random_state=0, max_iter=1000)
            model.fit(scaler.transform(x[train][~out].astype(float)), y[train][~out])
            predicted = model.predict(scaler.transform(x[train][out].astype(float)))
            scores.append(np.mean([pearsonr(y[train][out][:, j], predicted[:, j])[0] for j in range(3)]))
        means.append(np.mean(scores))
    assert chosen["alpha"] == spec.alphas[int(np.argmax(means))]


def test_one_training_patient_leaves_the_published_alpha(caplog: pytest.LogCaptureFixture) -> None:
    x, y, patients, _ = world()
    _, choices = predict(x, y, patients, (np.arange(60), np.arange(60, 90)), PCARidgeSpec(alpha="inner"))
    assert choices["alpha"] == 100 / (20 * 3)
    assert "one training patient" in caplog.text


def test_panel_is_chosen_as_the_benchmark_does() -> None:
    rng = np.random.default_rng(0)
    one = pd.DataFrame(rng.poisson([5, 3, 1, 4, 9], (200, 5)), columns=["a", "b", "c", "d", "BLANK_1"])
    two = pd.DataFrame(rng.poisson([5, 3, 0.01, 4, 9], (100, 5)), columns=["a", "b", "c", "d", "BLANK_1"])
    two["only_here"] = 50
    both = pd.concat([one, two])
    expected = both[["a", "b", "d"]].var(ddof=0).sort_values(ascending=False).index[:2].tolist()
    genes = both.columns.drop("BLANK_1")
    sections = ["s"] * len(one) + ["t"] * len(two)
    counts = both[genes].fillna(0)
    assert top_genes(counts, sections, list(genes), 2) == expected
    back = genes[::-1]
    assert top_genes(csr_matrix(counts[back]), sections, list(back), 2, by="mean") == ["a", "d"]
    with pytest.raises(InputError, check=has_code("panel-too-few")):
        top_genes(counts, sections, list(genes), 4)


def test_a_gene_must_be_expressed_in_each_section_and_not_in_the_others_only() -> None:
    sections = ["a"] * 10 + ["b"] * 20 + ["c"] * 10
    counts = np.ones((40, 2), int)
    counts[:, 1] = [5] * 30 + [0] * 10
    counts[::2, 0] = 3
    assert top_genes(counts, sections, ["everywhere", "never in c"], 1) == ["everywhere"]
    with pytest.raises(InputError, check=has_code("panel-too-few")):
        top_genes(counts, sections, ["everywhere", "never in c"], 2)
