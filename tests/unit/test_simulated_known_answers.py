"""The simulated effects that need a model or a fit: what a model can and cannot know, and where a fit fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from histoloom_simulation.celltypes import PATIENT_ONLY, REFERENCE_ONLY, TISSUE_ONLY, TWINS
from simulated_world import SimulatedWorld
from simulation_fixtures import SHEET

SEED = 5


def config() -> dict[str, Any]:
    """Two cohorts that differ in the effects that break the deconvolution, and experiments on the ground truth as labels."""
    common = {"source": "simulated", "sheet": str(SHEET), "seed": SEED}
    learn = {
        "task": "evaluate", "tiles": "um112", "labels": "truth", "models": ["ridge"], "cohorts": ["demo"],
        "content_guard": "off",
    }  # fmt: skip
    return {
        "cohorts": {"demo": dict(common), "plain": {**common, "effects": {"misspecification": False}}},
        "tiles": {"um112": {"size_px": 224, "um_per_px": 0.5}},
        "references": {"sim": {"source": "simulated", "cohort": "demo"}},
        "labels": {"truth": {"method": "truth"}, "nnls": {"method": "nnls", "reference": "sim"}},
        "encoders": {"texture": {"card": "stain_texture", "tiles": "um112"}},
        "models": {"ridge": {"kind": "ridge", "inputs": ["texture"]}},
        "experiments": {
            "strangers": {**learn, "split": "leave_one_patient_out"},
            "other_sections": {**learn, "split": "leave_one_sample_out", "on_overlap": "allow"},
        },
        "checks": {
            "truth_demo": {"kind": "truth", "labels": "nnls", "against": "truth", "cohorts": ["demo"]},
            "truth_plain": {"kind": "truth", "labels": "nnls", "against": "truth", "cohorts": ["plain"]},
            "left": {"kind": "residual", "labels": "nnls", "cohorts": ["demo"]},
        },
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedWorld]:
    with contextlib.chdir(tmp_path_factory.mktemp("simulated")):
        yield SimulatedWorld(config(), SHEET.parent.parent / "config.yaml")


@pytest.fixture(scope="module")
def labelled(world: SimulatedWorld) -> SimulatedWorld:
    for cohort in ("demo", "plain"):
        world.sections(cohort)
        for labels in ("nnls", "truth"):
            world.labels(labels, cohort)
    return world


def within(values: pd.DataFrame, samples: pd.Series) -> float:
    """Return the mean over sections of the correlation of two columns."""
    return float(np.mean([part.corr().iloc[0, 1] for _, part in values.groupby(samples.to_numpy())]))


@pytest.mark.slow
def test_labels_are_right_without_misspecification_and_less_right_with_it(labelled: SimulatedWorld) -> None:
    found = {}
    for check in ("truth_plain", "truth_demo"):
        rows = labelled.check_rows(check)
        cohort = rows[(rows["aggregation"] == "cohort") & (rows["metric"] == "cc")]
        own = cohort[cohort["target"] == cohort["target2"]].set_index("target")["value"]
        assert (rows.loc[rows["metric"] == "diagonal_is_max", "value"] == 1).all(), check
        found[check] = own
    assert found["truth_plain"].mean() > 0.75
    assert (found["truth_plain"] > found["truth_demo"] - 0.03).all()
    assert found["truth_plain"].mean() > found["truth_demo"].mean() + 0.02


@pytest.mark.slow
def test_types_without_a_counterpart_are_counted_and_never_averaged(labelled: SimulatedWorld) -> None:
    rows = labelled.check_rows("truth_demo")
    pairs = set(zip(rows["target"], rows["target2"], strict=True))
    assert (REFERENCE_ONLY, REFERENCE_ONLY) not in pairs
    assert (TISSUE_ONLY, TISSUE_ONLY) not in pairs
    absent = rows[(rows["target"] == PATIENT_ONLY) & (rows["target2"] == PATIENT_ONLY)]
    cohort = absent[absent["aggregation"] == "cohort"].iloc[0]
    # One patient has no pericyte: its two sections are undefined, the mean is that of the other three patients.
    assert (cohort["n"], cohort["n_nan"]) == (3, 1)
    patients = absent[absent["aggregation"] == "patient"]["value"]
    assert cohort["value"] == pytest.approx(patients.mean(skipna=True))


@pytest.mark.slow
def test_the_residual_lies_where_the_type_is_that_the_reference_lacks(labelled: SimulatedWorld) -> None:
    labels = {c: ad.read_h5ad(f"results/labels/nnls/{c}.h5ad").obs for c in ("demo", "plain")}
    truth = ad.read_h5ad("results/labels/truth/demo.h5ad")
    real = pd.DataFrame(truth.X, truth.obs_names, truth.var_names).loc[labels["demo"].index]
    left = labels["demo"]["excess_residual"]
    found = {
        name: within(pd.DataFrame({"left": left, "cells": real[name]}), labels["demo"]["sample"])
        for name in real.columns
        if name != PATIENT_ONLY
    }
    assert max(found, key=found.__getitem__) == TISSUE_ONLY
    assert found.pop(TISSUE_ONLY) > max(found.values()) + 0.1
    # A fit whose assumptions hold leaves little more than counting noise.
    assert labels["plain"]["excess_residual"].mean() < 0.3 * left.mean()
    checked = labelled.check_rows("left")
    regions = checked[checked["aggregation"] == "cohort"].set_index("target")["value"]
    assert regions.drop("all").idxmax() == "connective tissue"


@pytest.fixture(scope="module")
def scored(world: SimulatedWorld) -> dict[str, pd.DataFrame]:
    """Cohort and pooled CC of ground truth labels by type, with strangers or siblings in training."""
    found = {}
    for experiment in ("strangers", "other_sections"):
        rows = world.score(experiment, "ridge")
        rows = rows[(rows["metric"] == "cc") & (rows["train_seed"] == -1) & (rows["against"] == "labels")]
        found[experiment] = rows.pivot_table(index="target", columns="aggregation", values="value")
    return found


@pytest.mark.slow
def test_a_type_set_by_patient_has_a_pooled_cc_and_hardly_one_within_sections(scored: dict[str, pd.DataFrame]) -> None:
    # With a sibling in training the stain tells the patient, and the patient the level.
    siblings, strangers = (scored[name].loc[PATIENT_ONLY] for name in ("other_sections", "strangers"))
    assert siblings["pooled"] > 0.4
    assert siblings["cohort"] < 0.3
    assert siblings["pooled"] > siblings["cohort"] + 0.25
    assert strangers["pooled"] < 0.2


@pytest.mark.slow
def test_of_two_types_that_look_alike_only_the_sum_can_be_predicted(scored: dict[str, pd.DataFrame]) -> None:
    made = ad.read_h5ad("predictions/strangers.ridge.h5ad")
    names = list(made.var_names)
    first, second = (names.index(name) for name in TWINS)
    label, guess = np.asarray(made.layers["labels"]), np.asarray(made.X)
    sums = pd.DataFrame(
        {"label": label[:, [first, second]].sum(axis=1), "guess": guess[:, [first, second]].sum(axis=1)}
    )
    lean = pd.DataFrame(
        {"label": label[:, first] - label[:, second], "guess": guess[:, first] - guess[:, second], "sum": sums["guess"]}
    )
    samples = made.obs["sample"].astype(str).reset_index(drop=True)
    # What is left of the difference once everything that the sum says is taken out, section by section.
    parts = []
    for _, part in lean.groupby(samples):
        design = np.column_stack([np.ones(len(part)), part["sum"]])
        rest = part[["label", "guess"]].to_numpy()
        parts.append(np.corrcoef((rest - design @ np.linalg.lstsq(design, rest, rcond=None)[0]).T)[0, 1])
    assert within(sums, samples) > 0.5
    assert abs(np.mean(parts)) < 0.12
