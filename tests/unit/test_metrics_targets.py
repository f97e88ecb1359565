"""Scorers of expression and of classes: against scikit-learn, scipy and hand-made answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from metrics_inputs import SPEC, lopo_folds, make_obs, make_values
from scipy.stats import pearsonr
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, recall_score

from error_codes import has_code
from histoloom.artefacts import Table, write_parquet, write_table
from histoloom.errors import InputError
from histoloom.identity import make_identity
from histoloom.metrics import cell_class, expression
from histoloom.metrics.cell_class import expected_calibration_error
from histoloom.metrics.scored import Scored, read_scored

OBS = make_obs({("A", "A1"): 60, ("A", "A2"): 40, ("B", "B1"): 50, ("C", "C1"): 40}, qc_flags={"C1": "low resolution"})
CLASSES = ["cancer", "immune", "rare"]
GENES = [f"g{i:02d}" for i in range(60)]


def tested() -> pd.DataFrame:
    return OBS.assign(fold="patient-" + OBS["patient"]).reset_index(drop=True)


def classes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (the rare class is in A1 only) and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    label = rng.choice(2, len(OBS), p=[0.7, 0.3])
    label[(OBS["sample"] == "A1").to_numpy() & (rng.uniform(size=len(OBS)) < 0.2)] = 2
    logit = rng.normal(size=(len(OBS), 3)) + 1.5 * np.eye(3)[label]
    return label, np.exp(logit) / np.exp(logit).sum(axis=1, keepdims=True)


def class_scored(probability: np.ndarray, label: np.ndarray) -> Scored:
    means = pd.DataFrame([[0.7, 0.2, 0.1]] * 3, index=[f"patient-{p}" for p in "ABC"], columns=CLASSES)
    return Scored(tested(), CLASSES, probability, {}, {"labels": np.eye(3)[label]}, {}, means)


def one(rows: pd.DataFrame, metric: str, aggregation: str, target: str = "", **where: str) -> float:
    found = rows[(rows["metric"] == metric) & (rows["aggregation"] == aggregation) & (rows["target"] == target)]
    for column, value in where.items():
        found = found[found[column] == value]
    assert len(found) == 1, (metric, aggregation, len(found))
    return float(found["value"].iloc[0])


def test_class_scores_are_sklearns_by_section_and_means_over_patients():
    label, probability = classes()
    rows = cell_class.score(class_scored(probability, label))
    guess = probability.argmax(axis=1)
    by_section = {}
    for sample in ("A1", "A2", "B1", "C1"):
        at = (OBS["sample"] == sample).to_numpy()
        present = np.unique(label[at])
        by_section[sample] = f1_score(label[at], guess[at], labels=present, average="macro", zero_division=0)
        assert one(rows, "macro_f1", "section", sample=sample) == pytest.approx(by_section[sample])
        recalls = recall_score(label[at], guess[at], labels=present, average=None)
        assert one(rows, "balanced_accuracy", "section", sample=sample) == pytest.approx(recalls.mean())
        assert one(rows, "log_loss", "section", sample=sample) == pytest.approx(
            log_loss(label[at], probability[at], labels=range(3))
        )
    assert one(rows, "macro_f1", "patient", patient="A") == pytest.approx((by_section["A1"] + by_section["A2"]) / 2)
    cohort = ((by_section["A1"] + by_section["A2"]) / 2 + by_section["B1"]) / 2
    assert one(rows, "macro_f1", "cohort") == pytest.approx(cohort)
    plain = (OBS["qc_flag"] == "").to_numpy()
    assert one(rows, "balanced_accuracy", "pooled") == pytest.approx(
        balanced_accuracy_score(label[plain], guess[plain])
    )


def test_a_class_is_undefined_by_its_labels_alone_and_zero_where_never_predicted():
    label, probability = classes()
    silent = probability.copy()
    silent[:, 2] = 0
    for values in (probability, silent, np.tile([1.0, 0, 0], (len(OBS), 1))):
        f1 = cell_class.score(class_scored(values, label))
        f1 = f1[(f1["metric"] == "f1") & (f1["aggregation"] == "section") & f1["value"].isna()]
        assert set(zip(f1["sample"], f1["target"], strict=True)) == {(s, "rare") for s in ("A2", "B1", "C1")}
    rows = cell_class.score(class_scored(silent, label))
    assert one(rows, "precision", "section", "rare", sample="A1") == 0
    assert one(rows, "recall", "section", "rare", sample="A1") == 0


def test_the_majority_class_stands_next_to_the_model():
    label, probability = classes()
    rows = cell_class.score(class_scored(probability, label))
    at = (OBS["sample"] == "B1").to_numpy()
    assert one(rows, "balanced_accuracy_majority", "section", sample="B1") == 0.5
    assert one(rows, "accuracy_majority", "section", sample="B1") == pytest.approx((label[at] == 0).mean())
    prior = np.tile([0.7, 0.2, 0.1], (at.sum(), 1))
    assert one(rows, "log_loss_majority", "section", sample="B1") == pytest.approx(
        log_loss(label[at], prior, labels=range(3))
    )
    confusion = rows[(rows["metric"] == "confusion") & (rows["aggregation"] == "cohort")]
    assert confusion["value"].sum() == (OBS["qc_flag"] == "").sum()


def test_calibration_error_of_known_answers():
    label = np.array([0] * 80 + [1] * 20)
    sure = np.tile([0.8, 0.2], (100, 1))
    assert expected_calibration_error(sure, label) == pytest.approx(0)
    assert expected_calibration_error(np.tile([1.0, 0.0], (100, 1)), label) == pytest.approx(0.2)


def gene_values(seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    values = np.log1p(make_values(OBS, seed, len(GENES)))
    values[(OBS["sample"] == "A2").to_numpy(), 5] = 0.0
    return values, values + np.random.default_rng(seed).normal(size=values.shape)


def gene_scored(prediction: np.ndarray, values: np.ndarray) -> Scored:
    means = pd.DataFrame([values.mean(axis=0)] * 3, index=[f"patient-{p}" for p in "ABC"], columns=GENES)
    return Scored(tested(), GENES, prediction, {}, {"labels": values}, {}, means)


def test_expression_is_rolled_up_like_abundance_and_a_constant_gene_is_counted():
    values, prediction = gene_values()
    rows = expression.score(gene_scored(prediction, values))
    section = {}
    for sample in ("A1", "A2", "B1"):
        at = (OBS["sample"] == sample).to_numpy()
        defined = [g for g in range(len(GENES)) if values[at, g].std() > 0]
        section[sample] = np.mean([pearsonr(values[at, g], prediction[at, g]).statistic for g in defined])
        assert one(rows, "cc", "section", sample=sample) == pytest.approx(section[sample])
    assert one(rows, "cc", "cohort") == pytest.approx(((section["A1"] + section["A2"]) / 2 + section["B1"]) / 2)
    a2 = rows[(rows["metric"] == "cc") & (rows["aggregation"] == "section") & (rows["sample"] == "A2")]
    assert a2.loc[a2["target"] == "", ["n", "n_nan"]].to_numpy().tolist() == [[59, 1]]
    assert set(rows["metric"]) >= {"sd_ratio", "slope", "l1", "l1_skill"}


def test_hest_bench_puts_the_observations_of_a_fold_together():
    values, prediction = gene_values()
    rows = expression.score(gene_scored(prediction, values))
    folds = []
    for patient in "AB":
        at = (OBS["patient"] == patient).to_numpy()
        folds.append(np.mean([pearsonr(v, p).statistic for v, p in zip(values[at].T, prediction[at].T, strict=True)]))
        assert one(rows, "pcc_bench", "fold", fold=f"patient-{patient}") == pytest.approx(folds[-1], abs=1e-12)
    assert one(rows, "pcc_bench", "cohort") == pytest.approx(np.mean(folds), abs=1e-12)
    protocol = set(rows.loc[rows["metric"] == "pcc_bench", "protocol"])
    assert protocol == {expression.BENCH}


def test_as_published_chooses_genes_by_the_answer_and_takes_undefined_for_zero():
    values, prediction = gene_values()
    rows = expression.score(gene_scored(prediction, values))
    at = (OBS["sample"] == "A2").to_numpy()
    cc = np.nan_to_num([np.corrcoef(values[at, g], prediction[at, g])[0, 1] if values[at, g].std() else 0.0
                        for g in range(len(GENES))])  # fmt: skip
    for gene_set, size in (("heg", values[at].sum(axis=0)), ("hvg", values[at].var(axis=0))):
        best = np.argsort(-size, kind="stable")[:50]
        got = one(rows, "pcc_published", "section", sample="A2", gene_set=gene_set)
        assert got == pytest.approx(cc[best].mean())
    # Sections of a fold, then folds.
    sections = [one(rows, "pcc_published", "section", sample=s, gene_set="heg") for s in ("A1", "A2", "B1")]
    assert one(rows, "pcc_published", "cohort", gene_set="heg") == pytest.approx(
        (np.mean(sections[:2]) + sections[2]) / 2
    )


def test_profiles_and_coexpression_are_one_for_a_copy_and_lost_by_shuffled_genes():
    values, _ = gene_values()
    copy = expression.score(gene_scored(values, values))
    mixed = expression.score(gene_scored(np.roll(values, 7, axis=1), values))
    for metric in ("mean_profile_cc", "variance_profile_cc", "gene_gene_cc"):
        assert one(copy, metric, "cohort") == pytest.approx(1)
        assert one(mixed, metric, "cohort") < 0.5
    flat = expression.score(gene_scored(np.ones_like(values), values))
    assert one(flat, "gene_gene_cc", "cohort") == 0
    assert one(flat, "cc", "cohort") == 0


def test_genes_outside_a_folds_panel_are_no_rows_and_an_unasked_number_is_none():
    values, prediction = gene_values()
    outside = (OBS["patient"] == "B").to_numpy()
    values[np.ix_(outside, [0, 1])] = np.nan
    rows = expression.score(gene_scored(prediction, values))
    b1 = rows[(rows["metric"] == "cc") & (rows["aggregation"] == "section") & (rows["sample"] == "B1")]
    assert not set(b1["target"]) & {"g00", "g01"}
    assert b1.loc[b1["target"] == "", ["n", "n_nan"]].to_numpy().tolist() == [[58, 0]]


def write_class_run(folder, label, probability, names=CLASSES):
    obs = OBS.assign(label=np.array(CLASSES)[label])
    identity = make_identity("targets", {}, {})
    one_hot = np.eye(3, dtype=np.float32)[label]
    write_table(
        Table(obs, pd.DataFrame(index=CLASSES), one_hot, metadata={"kind": "cell_class", "identity": identity}),
        folder / "target.h5ad",
    )
    write_parquet(lopo_folds(OBS), folder / "folds.parquet", {"identity": make_identity("folds", {}, {})})
    predicted = tested().assign(label=obs["label"].to_numpy())
    write_table(Table(predicted, pd.DataFrame(index=names), probability[:, : len(names)]), folder / "p.h5ad")
    return folder / "p.h5ad", folder / "target.h5ad", folder / "folds.parquet"


def test_class_predictions_are_read_with_the_shares_of_training(tmp_path):
    label, probability = classes()
    scored = read_scored(SPEC, *write_class_run(tmp_path, label, probability))
    train = (OBS["patient"] != "A").to_numpy()
    assert scored.means.loc["patient-A"].tolist() == pytest.approx([(label[train] == c).mean() for c in range(3)])
    assert (scored.reference["labels"].argmax(axis=1) == label).all()


def test_a_label_without_a_column_is_refused(tmp_path):
    label, probability = classes()
    with pytest.raises(InputError, check=has_code("predictions-classes")):
        read_scored(SPEC, *write_class_run(tmp_path, label, probability, CLASSES[:2]))
