"""HEST-bench's probe against scikit-learn called step by step, and that nothing of the test fold is looked at."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from histoloom.errors import InputError
from histoloom.probe import Probe, probe_folds, top_genes
from histoloom.probe.ridge import choose_alpha

GENES = ["A", "B", "C"]


def world(seed: int = 0, n: int = 60, dim: int = 20) -> tuple[np.ndarray, np.ndarray, list[str], dict]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * n, dim)) @ rng.normal(size=(dim, dim)) + 3
    y = np.log1p(np.abs(x @ rng.normal(size=(dim, 3)) + rng.normal(size=(4 * n, 3)) * 20))
    patients = [f"P{i}" for i in range(4) for _ in range(n)]
    rows = np.arange(4 * n)
    folds = {f"P{i}": (rows[rows // n != i], rows[rows // n == i]) for i in range(4)}
    return x, y, patients, folds


@pytest.mark.parametrize("components", [8, 256, None])
def test_it_is_the_benchmarks_own_sequence(components: int | None) -> None:
    x, y, patients, folds = world()
    found = probe_folds(x, y, patients, folds, GENES, Probe(components=components))
    for name, (train, test) in folds.items():
        scaler = StandardScaler()
        a, b = scaler.fit_transform(x[train]), scaler.transform(x[test])
        if components is not None:
            pca = PCA(n_components=min(components, 20), random_state=1)
            # Not fit, then transform: lsqr's tolerance makes something of the last digits.
            a, b = pca.fit_transform(a), pca.transform(b)
        alpha = 100 / (a.shape[1] * 3)
        model = Ridge(solver="lsqr", alpha=alpha, random_state=0, fit_intercept=False, max_iter=1000).fit(a, y[train])
        predicted = model.predict(b)
        rows = found[found["fold"] == name]
        assert rows["alpha"].unique().tolist() == [alpha]
        for j, gene in enumerate(GENES):
            expected = pearsonr(y[test][:, j], predicted[:, j])[0]
            assert rows.set_index("gene")["pcc"][gene] == pytest.approx(expected, abs=1e-10)


def test_inner_alpha_sees_training_patients_only_and_is_the_best_there() -> None:
    x, y, patients, folds = world()
    probe = Probe(alpha="inner", components=None, alphas=(1e-3, 10.0, 1e3, 1e7))
    first = probe_folds(x, y, patients, folds, GENES, probe)
    train, test = folds["P0"]
    changed = y.copy()
    changed[test] = np.random.default_rng(9).normal(size=changed[test].shape)
    again = probe_folds(x, changed, patients, folds, GENES, probe)
    assert first[first.fold == "P0"]["alpha"].tolist() == again[again.fold == "P0"]["alpha"].tolist()
    # By hand: hold out each training patient in turn.
    who = np.array(patients)[train]
    means = []
    for alpha in probe.alphas:
        scores = []
        for patient in ("P1", "P2", "P3"):
            out = who == patient
            scaler = StandardScaler().fit(x[train][~out])
            model = Ridge(solver="lsqr", alpha=alpha, fit_intercept=False, random_state=0, max_iter=1000)
            model.fit(scaler.transform(x[train][~out]), y[train][~out])
            predicted = model.predict(scaler.transform(x[train][out]))
            scores.append(np.mean([pearsonr(y[train][out][:, j], predicted[:, j])[0] for j in range(3)]))
        means.append(np.mean(scores))
    assert first[first.fold == "P0"]["alpha"].iloc[0] == probe.alphas[int(np.argmax(means))]


def test_one_training_patient_leaves_the_published_alpha(caplog: pytest.LogCaptureFixture) -> None:
    x, y, patients, _ = world()
    alpha = choose_alpha(x[:60], y[:60], np.array(patients[:60], dtype=object), Probe(alpha="inner"))
    assert alpha == 100 / (20 * 3)
    assert "one training patient (P0)" in caplog.text


def test_constant_genes_are_nan_and_counted() -> None:
    x, y, patients, folds = world()
    y[folds["P2"][1], 1] = 0
    found = probe_folds(x, y, patients, folds, GENES)
    assert found["pcc"].isna().sum() == 1


def test_bad_input() -> None:
    x, y, patients, folds = world()
    with pytest.raises(InputError, match="fold P0: patients in training and test: P3"):
        probe_folds(x, y, patients, {"P0": (folds["P0"][0], folds["P3"][1])}, GENES)
    with pytest.raises(InputError, match="do not fit"):
        probe_folds(x, y[:-1], patients, folds, GENES)
    x[3, 4] = np.nan
    with pytest.raises(InputError, match="1 features are not finite"):
        probe_folds(x, y, patients, folds, GENES)


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
    with pytest.raises(InputError, match="3 genes are expressed"):
        top_genes(counts, sections, list(genes), 4)
