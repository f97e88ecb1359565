"""cell2location on small planted sections: near the truth, on the right type, the same for the same seed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from histoloom.errors import InputError
from histoloom.references.fitting import history_summary, relative_fall
from label_inputs import TYPES, metadata, planted, run_labels, signatures, write_reference, write_section

SPEC = {
    "method": "cell2location", "reference": "r", "max_epochs": 400, "lr": 0.02, "posterior_samples": 100,
    "n_cells_per_location": 30,
}  # fmt: skip


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], pd.DataFrame]:
    """Two sections of 60 spots whose depth differs threefold, the reference, and the planted cells."""
    folder = tmp_path_factory.mktemp("c2l")
    table = signatures()
    sections, truth = [], []
    for i, depth in enumerate((0.15, 0.45)):
        cells = planted(60, 4, 10 + i)
        rng = np.random.default_rng(20 + i)
        mean = cells @ table.to_numpy().T * depth
        counts = rng.negative_binomial(10, 10 / (10 + mean))
        sections.append(write_section(folder / f"S{i}.h5ad", counts, table.index, sample=f"S{i}"))
        truth.append(pd.DataFrame(cells, columns=TYPES).assign(sample=f"S{i}"))
    return write_reference(folder / "reference.h5ad", table), sections, pd.concat(truth, ignore_index=True)


@pytest.fixture(scope="module")
def fitted(group: tuple[Path, list[Path], pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    with pytest.MonkeyPatch.context() as patch:
        # What a SLURM job looks like to Lightning; a fit that believes it would wait for srun.
        for name, value in {
            "SLURM_JOB_ID": "1",
            "SLURM_NTASKS": "4",
            "SLURM_JOB_NAME": "x",
            "SLURM_PROCID": "0",
        }.items():
            patch.setenv(name, value)
        return run_labels(SPEC, group[1], folder, reference=group[0])


@pytest.mark.slow
def test_labels_follow_the_truth_on_the_right_type(fitted: Path, group: tuple[Path, list[Path], pd.DataFrame]) -> None:
    out, truth = ad.read_h5ad(fitted), group[2]
    assert list(out.var_names) == sorted(TYPES)
    for sample in ("S0", "S1"):
        seen = np.asarray(out[out.obs["sample"] == sample].X)
        real = truth.loc[truth["sample"] == sample, list(out.var_names)].to_numpy()
        cross = np.corrcoef(seen.T, real.T)[:4, 4:]
        assert (cross.argmax(axis=0) == np.arange(4)).all()
        assert np.diag(cross).mean() > 0.75
    # Abundance is in cells: the mean total lies near the planted one, not near 1 and not at the depth.
    assert 15 < np.asarray(out.X).sum(axis=1).mean() < 60


@pytest.mark.slow
def test_the_artefact_holds_what_the_contract_says(fitted: Path) -> None:
    out, facts = ad.read_h5ad(fitted), metadata(fitted)
    assert set(out.layers) == {"q05", "std"}
    assert (np.asarray(out.layers["q05"]) <= np.asarray(out.X)).mean() > 0.99
    assert facts["units"] == "cells"
    assert facts["qc"]["demo_fit"] is True
    assert facts["qc"]["elbo"]["epochs"] == 400
    assert facts["qc"]["passed"] == (facts["qc"]["elbo"]["fall_last_tenth"] <= 0.01)
    losses = [value for _, value in facts["qc"]["elbo"]["loss"]]
    assert losses[-1] < losses[0]
    assert all(r > 0.5 for r in facts["qc"]["reconstruction_r"].values())
    cost = json.loads(fitted.with_suffix(".json").read_text())
    assert cost["items"] == 120
    assert cost["seconds"] > 0
    assert cost["peak_rss_mb"] > 100
    assert not {"seconds", "device", "hardware"} & set(facts)


@pytest.mark.slow
def test_equal_seeds_give_equal_bytes_and_another_seed_does_not(
    group: tuple[Path, list[Path], pd.DataFrame], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = {**SPEC, "max_epochs": 30, "posterior_samples": 20}
    results = []
    with caplog.at_level(logging.INFO):
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            (tmp_path / name).mkdir()
            results.append(run_labels(short, group[1], tmp_path / name, reference=group[0], seed=seed))
    assert results[0].read_bytes() == results[1].read_bytes()
    assert not np.array_equal(ad.read_h5ad(results[0]).X, ad.read_h5ad(results[2]).X)
    assert sum("epoch 30 of 30" in r.message for r in caplog.records) == 3
    assert any("raise max_epochs" in r.message for r in caplog.records)
    assert metadata(results[0])["qc"]["passed"] is False


@pytest.mark.slow
def test_a_fit_that_diverges_stops_with_a_remedy(group: tuple[Path, list[Path], pd.DataFrame], tmp_path: Path) -> None:
    with pytest.raises((InputError, ValueError)) as error:
        run_labels({**SPEC, "max_epochs": 30, "lr": 1e6}, group[1], tmp_path, reference=group[0])
    assert isinstance(error.value, InputError)
    assert "lower `lr`" in str(error.value)
    assert not list(tmp_path.glob("g.*"))


def test_the_fall_of_a_loss_is_that_of_its_last_tenth() -> None:
    epochs = np.arange(1000)
    noise = np.random.default_rng(0).normal(0, 1, 1000)
    falling = 2000 - epochs.astype(float)  # from 1100 to 1001 over the last tenth
    assert relative_fall(falling) == pytest.approx(99 / 1001)
    flat = np.where(epochs < 900, 5000.0 - epochs, 1000.0) + noise
    assert abs(relative_fall(flat)) < 0.002
    assert history_summary(falling)["converged"] is False
    assert history_summary(flat)["converged"] is True
    assert history_summary(flat)["epochs"] == 1000
