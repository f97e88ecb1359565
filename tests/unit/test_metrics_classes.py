"""Intervals over spatial blocks, reliability curves, two splits on the same cells, and the baseline of neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from modelworld import experiment
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.model_selection import train_test_split

from error_codes import has_code
from histoloom.checks.split_effect import draw, paired_scores
from histoloom.errors import InputError
from histoloom.folds import build_folds, roles_of
from histoloom.inputs import Inputs
from histoloom.metrics import cell_class
from histoloom.metrics.class_intervals import draw_blocks, interval_rows, scores_by_draw
from histoloom.metrics.protocol import short
from histoloom.metrics.rows import assemble
from histoloom.metrics.scored import Scored
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.models.spatial_neighbors import SpatialNeighbors, SpatialNeighborsSpec
from histoloom.targets import kind_of

CLASSES = ["a", "b", "c"]
SIDE_UM, N = 1000.0, 1600


def cells(seed: int = 0, patchy: bool = True, samples: tuple[str, ...] = ("S1", "S2")) -> pd.DataFrame:
    """Cells of two sections of two patients; classes in patches of 100 um, or by lot."""
    rng = np.random.default_rng(seed)
    frames = []
    for number, sample in enumerate(samples):
        um = rng.random((N, 2)) * SIDE_UM
        patch = rng.integers(0, 3, (10, 10))[tuple((um // 100).astype(int).T)]
        kind = patch if patchy else rng.permutation(patch)
        frames.append(
            pd.DataFrame(
                {
                    "cohort": "own", "sample": sample, "patient": f"P{number}",
                    "obs_id": [f"{sample}c{i}" for i in range(N)], "qc_flag": "", "fold": "f",
                    "x": um[:, 0] / 0.5, "y": um[:, 1] / 0.5, "um_per_px": 0.5, "pitch_um": 10.0,
                    "array_row": (um[:, 1] // 10).astype(int), "array_col": (um[:, 0] // 10).astype(int),
                    "label": np.array(CLASSES)[kind],
                }
            )
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def codes(obs: pd.DataFrame) -> np.ndarray:
    return pd.Index(CLASSES).get_indexer(pd.Index(obs["label"]))


def test_a_draw_scores_the_blocks_as_often_as_it_took_them() -> None:
    obs = cells(samples=("S1",))
    label, rng = codes(obs), np.random.default_rng(1)
    guess = np.where(rng.random(N) < 0.7, label, rng.integers(0, 3, N))
    drawn = draw_blocks(obs, 200, seed=3, draws=5)
    assert drawn is not None
    assert drawn.n_blocks == 25
    scores = scores_by_draw(drawn, np.arange(N), label, guess, 3)
    weights = drawn.weights["own/S1"]
    assert (weights[1:].sum(axis=1) == 25).all()
    for row, weight in enumerate(weights):
        each = np.repeat(np.arange(N), weight[drawn.block].astype(int))
        expected = f1_score(label[each], guess[each], average=None)
        np.testing.assert_allclose(scores[row, :3], expected)
        assert scores[row, 3] == pytest.approx(expected.mean())
        assert scores[row, 4] == pytest.approx(balanced_accuracy_score(label[each], guess[each]))
        assert scores[row, 5] == pytest.approx((label[each] == guess[each]).mean())


def scored(obs: pd.DataFrame, probability: np.ndarray, **spec: Any) -> Scored:
    share = pd.DataFrame([[0.4, 0.3, 0.3]] * obs["fold"].nunique(), index=sorted(set(obs["fold"])), columns=CLASSES)
    return Scored(obs, CLASSES, probability, {}, {"labels": np.eye(3)[codes(obs)]}, {}, share, spec)


def test_intervals_stand_next_to_the_scores_that_they_are_of() -> None:
    obs = cells()
    # A section tested by two folds, as in a random split, and one more section that is flagged.
    obs["fold"] = np.where(np.arange(len(obs)) % 2, "f", "g")
    flagged = cells(7, samples=("S3",)).assign(qc_flag="blurred", patient="P9")
    obs = pd.concat([obs, flagged], ignore_index=True)
    rng = np.random.default_rng(2)
    probability = rng.dirichlet([1, 1, 1], len(obs)) + 0.5 * np.eye(3)[codes(obs)]
    probability /= probability.sum(axis=1, keepdims=True)
    rows = cell_class.score(scored(obs, probability, interval_block_um=100, seed=0))
    whole = rows[(rows["aggregation"] == "cohort")].set_index(["metric", "target"])
    for metric, target in (("macro_f1", ""), ("balanced_accuracy", ""), ("accuracy", ""), ("f1", "a"), ("f1", "c")):
        value, low, high = (whole.loc[[(metric + end, target)], "value"].item() for end in ("", "_low", "_high"))
        assert low < value < high
        assert high - low < 0.15
    assert whole.loc[[("macro_f1_low", "")], "n"].item() == 200  # blocks of the sections that have no flag


def test_errors_that_come_in_patches_make_the_interval_wide() -> None:
    obs = cells()
    label, rng = codes(obs), np.random.default_rng(3)
    block = (obs["x"] // 400).astype(int) * 100 + (obs["y"] // 400).astype(int)
    bad = np.unique(block)[rng.random(block.nunique()) < 0.3]
    patchy = np.where(block.isin(bad), (label + 1) % 3, label)
    lot = np.where(rng.random(len(obs)) < 0.3, (label + 1) % 3, label)

    def width(guess: np.ndarray, block_um: float) -> float:
        rows = interval_rows(obs, label, guess, CLASSES, block_um, 0).set_index(["metric", "target"])["value"]
        return float(rows["macro_f1_high", ""] - rows["macro_f1_low", ""])

    assert width(patchy, 200) > 3 * width(lot, 200)
    assert len(interval_rows(obs, label, lot, CLASSES, 600, 0)) == 0  # eight blocks
    assert len(interval_rows(obs.drop(columns="um_per_px"), label, lot, CLASSES, 200, 0)) == 0


def test_the_reliability_curve_holds_what_the_calibration_error_sums() -> None:
    obs = cells()
    probability = np.random.default_rng(4).dirichlet([0.7, 0.5, 0.5], len(obs))
    rows = cell_class.score(scored(obs, probability))
    pooled = rows[(rows["aggregation"] == "cohort") & rows["metric"].str.startswith("reliability")]
    curve = pooled.pivot_table(index="target2", columns="metric", values=["value", "n"])
    assert curve["n", "reliability"].sum() == len(obs)
    gap = (curve["value", "reliability"] - curve["value", "reliability_confidence"]).abs()
    ece = rows[(rows["metric"] == "ece") & (rows["aggregation"] == "pooled")]["value"].item()
    assert (gap * curve["n", "reliability"]).sum() / len(obs) == pytest.approx(ece)


SPLIT = {"name": "c", "experiment": "random", "other_experiment": "blocks", "block_um": 100, "seed": 0}


def neighbours(obs: pd.DataFrame, split: str, k: int = 5, **given: Any) -> Scored:
    """Held-out predictions of the neighbours' labels under a split."""
    spec = experiment(split=split, on_overlap="allow", cohorts=["own"], labels=None, **given,
                      target={"kind": "cell_class", "column": "label"})  # fmt: skip
    table, _ = build_folds(spec, obs, 42)
    inputs, label = Inputs(obs, {}, np.arange(len(obs))), codes(obs)
    rows, values = [], []
    for name, roles in roles_of(table, obs).items():
        train, test = np.flatnonzero(roles == "train"), np.flatnonzero(roles == "test")
        if not len(test):
            continue
        none = np.zeros(len(train), np.intp)
        part = Part(inputs.take(train), label[train], none, none)
        data = FoldData(name, part, None, kind_of("cell_class"), tuple(CLASSES))
        fitted = SpatialNeighbors(SpatialNeighborsSpec(k)).fit(data, JobContext())
        rows.append(obs.iloc[test].assign(fold=name))
        values.append(fitted.predict(inputs.take(test), {}, JobContext()))
    return scored(pd.concat(rows, ignore_index=True), np.concatenate(values))


@pytest.mark.parametrize("patchy", [True, False])
def test_a_random_split_flatters_where_tissue_is_patchy_and_nowhere_else(patchy: bool, tmp_path: Path) -> None:
    obs = cells(patchy=patchy)
    random = neighbours(obs, "random_stratified")
    blocks = neighbours(obs, "spatial_block", block_um=250, buffer_um=112, n_folds=4)
    rows = paired_scores(SPLIT, random, blocks).set_index(["variant", "metric", "target"])["value"]
    difference, low, high = (rows["difference", f"macro_f1{end}", ""] for end in ("", "_low", "_high"))
    assert difference == pytest.approx(rows["first", "macro_f1", ""] - rows["second", "macro_f1", ""])
    assert low < difference < high
    if patchy:
        assert low > 0.3
    else:
        assert low < 0 < high
        assert rows["first", "macro_f1", ""] == pytest.approx(1 / 3, abs=0.08)
    # Both sides are scored on the fifth of the cells that the random split tests.
    at = random.obs["obs_id"].isin(blocks.obs["obs_id"])
    one = random.obs[at].assign(guess=random.prediction[at].argmax(axis=1))
    by_section = [f1_score(codes(s), s["guess"], average="macro") for _, s in one.groupby("sample")]
    assert rows["first", "macro_f1", ""] == pytest.approx(np.mean(by_section))
    figure = tmp_path / "c.png"
    draw(SPLIT, assemble([paired_scores(SPLIT, random, blocks).assign(model="m")]), "title", figure)
    assert figure.stat().st_size > 10_000


def test_experiments_that_cannot_be_paired_are_refused() -> None:
    obs = cells(samples=("S1",))
    one = scored(obs, np.eye(3)[codes(obs)])
    other = obs.assign(label=np.roll(obs["label"], 1))
    with pytest.raises(InputError, check=has_code("split-effect-labels")):
        paired_scores(SPLIT, one, scored(other, one.prediction))
    with pytest.raises(InputError, check=has_code("split-effect-cells")):
        paired_scores(SPLIT, one, scored(obs.assign(obs_id=obs["obs_id"] + "x"), one.prediction))
    with pytest.raises(InputError, check=has_code("split-effect-positions")):
        paired_scores(SPLIT, scored(obs.drop(columns="um_per_px"), one.prediction), one)


def test_the_stratified_split_is_the_published_one() -> None:
    obs = cells()
    spec = experiment(split="random_stratified", on_overlap="allow", cohorts=["own"], labels=None,
                      target={"kind": "cell_class", "column": "label"})  # fmt: skip
    table, _ = build_folds(spec, obs, 42)
    roles = roles_of(table, obs)["stratified"]
    _, expected = train_test_split(np.arange(len(obs)), test_size=0.2, random_state=42, stratify=obs["label"])
    np.testing.assert_array_equal(np.flatnonzero(roles == "test"), np.sort(expected))
    with pytest.raises(InputError, check=has_code("stratified-class-small"), match="rare"):
        build_folds(spec, obs.assign(label=np.where(np.arange(len(obs)) == 5, "rare", obs["label"])), 42)


def test_the_gap_around_blocks_of_cells_is_measured_between_the_cells() -> None:
    obs = cells(samples=("S1",))
    spec = experiment(split="spatial_block", on_overlap="allow", cohorts=["own"], labels=None, block_um=250,
                      buffer_um=112, n_folds=2, target={"kind": "cell_class", "column": "label"})  # fmt: skip
    roles = roles_of(build_folds(spec, obs, 0)[0], obs)["block-0"]
    um = obs[["x", "y"]].to_numpy() * 0.5
    train, test, dropped = (um[roles == role] for role in ("train", "test", "dropped"))
    far = np.linalg.norm(train[:, None] - test[None], axis=-1).min()
    near = np.linalg.norm(dropped[:, None] - test[None], axis=-1).min(axis=1)
    assert far >= 112
    assert near.max() < 112


def test_neighbours_are_of_the_same_section_and_elsewhere_the_classes_shares() -> None:
    obs = cells()
    inputs, label = Inputs(obs, {}, np.arange(len(obs))), codes(obs)
    train = np.flatnonzero(obs["sample"] == "S1")
    none = np.zeros(len(train), np.intp)
    data = FoldData(
        "f", Part(inputs.take(train), label[train], none, none), None, kind_of("cell_class"), tuple(CLASSES)
    )
    model = SpatialNeighbors(SpatialNeighborsSpec(1))
    fitted = model.fit(data, JobContext())
    fitted = model.restore(fitted.state(), fitted.choices)
    predicted = fitted.predict(inputs, {}, JobContext())
    np.testing.assert_array_equal(predicted[train], np.eye(3)[label[train]])
    share = np.bincount(label[train], minlength=3) / len(train)
    np.testing.assert_allclose(predicted[len(train) :], np.tile(share, (N, 1)))


def test_a_stamp_says_what_labels_come_from_and_whether_windows_overlap_the_gap() -> None:
    tile = {"size_px": 224, "um_per_px": 0.5}
    stamp = {"target": {"kind": "cell_class", "labels_from": "counts"}, "split": "spatial_block", "block_um": 500,
             "tiles_spec": tile, "reads": ["counts", "morphology"]}  # fmt: skip
    text = short({**stamp, "buffer_um": 50})
    assert "labels from counts, which the model reads too" in text
    assert "tiles of 112 um overlap across it" in text
    text = short({**stamp, "buffer_um": 112, "reads": ["morphology"]})
    assert "reads too" not in text
    assert "overlap" not in text
