"""cell2location on small simulated sections: near the truth, on the right type, the same for the same seed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from error_codes import has_code
from histoloom.artefacts import write_parquet
from histoloom.checks.base import run_check
from histoloom.errors import InputError
from histoloom.labels import gather_labels, label_groups
from histoloom.labels.artefact import LabelTask
from histoloom.labels.cell2location import _statistic, expected_cells, fit
from histoloom.labels.prepare import prepare
from histoloom.labels.thinning import thin_section
from histoloom.metrics.rows import read_metrics
from histoloom.references.fitting import history_summary, import_cell2location, relative_fall
from histoloom.schemas import check, load_schema
from label_inputs import TYPES, label_spec, metadata, run_labels, signatures, true_cells, write_reference, write_section

SPEC = {
    "method": "cell2location", "reference": "r", "max_epochs": 400, "lr": 0.02, "posterior_samples": 100,
    "n_cells_per_location": 30,
}  # fmt: skip


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], pd.DataFrame]:
    """Two sections of 60 spots whose depth differs threefold, the reference, and the true cells."""
    folder = tmp_path_factory.mktemp("c2l")
    table = signatures()
    sections, truth = [], []
    for i, depth in enumerate((0.15, 0.45)):
        cells = true_cells(60, 4, 10 + i)
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
        task = LabelTask(label_spec(SPEC), "c", "g", 0, group[1], folder / "scratch", group[0])
        label_groups([task], folder / "out", folder / "g.0.json")
        return folder / "out" / "g.0.h5ad"


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
    # Abundance is in cells: the mean total lies near the true one, not near 1 and not at the depth.
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
    cost = json.loads((fitted.parents[1] / "g.0.json").read_text())
    assert cost["items"] == 120
    assert cost["seconds"] > 0
    assert cost["peak_rss_mb"] > 100
    assert not {"seconds", "device", "hardware"} & set(facts)


def test_sections_are_batches_of_the_fit_with_the_expected_cells_as_prior(
    group: tuple[Path, list[Path], pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a batch per section the depth of one section is taken for cells of the other."""
    model_class, made = import_cell2location().Cell2location, []

    def train(self: Any, **options: Any) -> None:
        made.append((self, options))
        raise InterruptedError

    monkeypatch.setattr(model_class, "train", train)
    task = LabelTask(label_spec({**SPEC, "detection_alpha": 35}), "c", "g", 0, group[1], tmp_path, group[0])
    with pytest.raises(InterruptedError):
        fit(prepare(task), task, 17.0)
    ((model, options),) = made
    assert model.summary_stats.n_batch == 2
    batch = model.adata_manager.get_from_registry("batch").ravel()
    assert list(batch) == [0] * 60 + [1] * 60
    generative = model.module.model
    assert float(generative.N_cells_per_location) == 17.0
    assert float(generative.detection_hyp_prior["alpha"]) == 35.0
    assert options["max_epochs"] == SPEC["max_epochs"]


def test_statistics_are_read_by_the_names_of_types_not_by_their_place() -> None:
    columns = ["q05cell_abundance_w_sf_b", "q05cell_abundance_w_sf_a"]
    obsm = {"q05_cell_abundance_w_sf": pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=columns)}
    values = _statistic(SimpleNamespace(obsm=obsm), "q05", ["a", "b"])
    np.testing.assert_array_equal(values, [[2.0, 1.0], [4.0, 3.0]])


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


def nuclei_of(folder: Path, counts: dict[str, list[float]]) -> list[Path]:
    """Write counted nuclei of sections, spots s0, s1, ..."""
    for sample, values in counts.items():
        table = pd.DataFrame({"obs_id": [f"s{i}" for i in range(len(values))], "nuclei": values})
        write_parquet(table, folder / f"{sample}.parquet", {"cohort": "c", "sample": sample})
    return [folder / f"{sample}.parquet" for sample in counts]


@pytest.mark.parametrize(
    ("asked", "counts", "expected", "why"),
    [
        (12, {"A": [5.0]}, 12.0, "config"),
        # The median over the labelled spots of all sections; the last one of A and an unreadable one do not count.
        ("nuclei", {"A": [4.0, 8.0, np.nan, 90.0], "B": [10.0, 20.0]}, 9.0, "median of nuclei under 4 spots"),
        ("nuclei", {}, 25.0, "fallback: the sections are read without slides"),
        ("nuclei", {"A": [0.0, 0.0, 0.0]}, 25.0, "fallback: median of 0 nuclei under 3 spots"),
        ("nuclei", {"A": [np.nan, np.nan]}, 25.0, "fallback: median of 0 nuclei under 0 spots"),
    ],
)
def test_expected_cells_are_the_median_of_counted_nuclei(
    asked: str | int, counts: dict[str, list[float]], expected: float, why: str, tmp_path: Path
) -> None:
    spec = {**SPEC, "n_cells_per_location": asked, "n_cells_fallback": 25}
    check(spec, load_schema("labels.cell2location"), "labels.l")
    labelled = [("A", "s0"), ("A", "s1"), ("A", "s2"), ("B", "s0"), ("B", "s1")]
    task = LabelTask(spec, "c", "g", 0, [], tmp_path, nuclei=nuclei_of(tmp_path, counts))
    assert expected_cells(task, pd.DataFrame(labelled, columns=["sample", "obs_id"])) == (expected, why)


def test_another_word_than_nuclei_is_refused() -> None:
    with pytest.raises(InputError, check=has_code("schema-value"), match="n_cells_per_location"):
        check({**SPEC, "n_cells_per_location": "nucleus"}, load_schema("labels.cell2location"), "labels.l")


@pytest.mark.slow
def test_abundance_is_linear_in_the_counted_nuclei(
    group: tuple[Path, list[Path], pd.DataFrame], tmp_path: Path
) -> None:
    """Twice the nuclei, twice the cells; what was expected, and why, is recorded."""
    short = {**SPEC, "max_epochs": 25, "posterior_samples": 10, "n_cells_per_location": "nuclei"}
    totals = {}
    for cells in (10.0, 20.0):
        (tmp_path / str(cells)).mkdir()
        nuclei = []
        for name in ("S0", "S1"):
            table = pd.DataFrame({"obs_id": ad.read_h5ad(group[1][0]).obs_names, "nuclei": cells})
            write_parquet(table, tmp_path / str(cells) / f"{name}.parquet", {"cohort": "c", "sample": name})
            nuclei.append(tmp_path / str(cells) / f"{name}.parquet")
        made = run_labels(short, group[1], tmp_path / str(cells), reference=group[0], nuclei=nuclei)
        facts = metadata(made)
        assert facts["qc"]["n_cells_per_location"] == cells
        assert facts["qc"]["n_cells_from"] == "median of nuclei under 120 spots"
        assert "nuclei" in str(facts["identity"]["inputs"])
        totals[cells] = np.asarray(ad.read_h5ad(made).X).sum(axis=1).mean()
    assert totals[20.0] / totals[10.0] == pytest.approx(2, rel=0.35)


@pytest.mark.slow
def test_halves_of_the_counts_give_a_ceiling_that_falls_with_depth(
    group: tuple[Path, list[Path], pd.DataFrame], tmp_path: Path
) -> None:
    """Two sections with the same kind of tissue, one with three times the counts: its types are the more attainable."""
    halves = []
    for half in (0, 1):
        folder = tmp_path / str(half)
        folder.mkdir()
        samples = [folder / path.name for path in group[1]]
        for whole, thinned in zip(group[1], samples, strict=True):
            thin_section(sample=whole, half=half, seed=0, out=thinned)
        short = {**SPEC, "max_epochs": 80, "posterior_samples": 15, "seeds": [0]}
        made = run_labels(short, samples, folder, reference=group[0])
        gather_labels(spec=label_spec(short), cohort="c", groups=[made], out=folder / "c.h5ad")
        halves.append(folder / "c.h5ad")
    entry = {"kind": "ceiling", "labels": "c2l", "cohorts": ["c"], "name": "top"}
    run_check(spec=entry, labels=halves[:1], against=halves[1:], out=tmp_path / "top.parquet")
    rows = read_metrics([tmp_path / "top.parquet"])
    sections = rows[(rows["metric"] == "ceiling") & (rows["aggregation"] == "section") & (rows["target"] != "")]
    by_section = sections.groupby("sample")["value"].mean()
    assert by_section["S1"] > by_section["S0"]
    assert 0.6 < by_section["S1"] <= 1
    assert json.loads(rows["protocol"].iloc[0])["labels"]["demo_fit"] is True
