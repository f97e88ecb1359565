"""stereoscope, DestVI and Tangram on a small section: near the truth, on the right type, resumed to the same labels."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.job_resources import OVERHEAD_MB
from histoloom.labels.artefact import LabelTask
from histoloom.labels.prepare import prepare
from histoloom.labels.scvi_methods import read_cells
from label_inputs import TYPES, label_spec, metadata, run_labels, signatures, true_cells, write_section

SPECS = {
    "stereoscope": {"reference_epochs": 100, "max_epochs": 900, "lr": 0.05},
    "destvi": {"reference_epochs": 40, "max_epochs": 150},
    "tangram": {"max_epochs": 300},
}


def write_cells(path: Path, per_type: int = 30, drop: str = "") -> Path:
    """A built reference with cells: negative binomial counts around the signatures, genes in another order."""
    table, rng = signatures(), np.random.default_rng(5)
    table = table.iloc[rng.permutation(len(table))]
    names = np.repeat(TYPES, per_type)
    mean = table[names].to_numpy().T * rng.gamma(5, 0.2, size=(len(names), 1))
    counts = rng.negative_binomial(5, 5 / (5 + mean))
    counts[names == drop] = 0
    order = rng.permutation(len(names))
    obs = pd.DataFrame({"cell_type": names[order], "donor": "d", "assay": "a"}, index=[f"c{i}" for i in order])
    data = ad.AnnData(csr_matrix(counts[order].astype(np.int32)), obs=obs, var=pd.DataFrame(index=table.index))
    data.varm["signatures"] = table
    data.uns["histoloom"] = json.dumps({"types": sorted(TYPES), "identity": {"sha256": "0" * 64}})
    data.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("cells")
    table, cells = signatures(), true_cells(80, 4, 10)
    counts = np.random.default_rng(20).poisson(cells @ table.to_numpy().T * 0.3)
    section = write_section(folder / "S1.h5ad", counts, table.index)
    truth = pd.DataFrame(cells / cells.sum(axis=1, keepdims=True), columns=TYPES)
    return write_cells(folder / "reference.h5ad"), section, truth


@pytest.mark.slow
@pytest.mark.parametrize("method", SPECS)
def test_labels_follow_the_truth_on_the_right_type(
    method: str, world: tuple[Path, Path, pd.DataFrame], tmp_path: Path
) -> None:
    reference, section, truth = world
    path = run_labels({"method": method, "reference": "r", **SPECS[method]}, [section], tmp_path, reference=reference)
    out, facts = ad.read_h5ad(path), metadata(path)
    assert list(out.var_names) == sorted(TYPES)
    np.testing.assert_allclose(np.asarray(out.X).sum(axis=1), 1, atol=1e-5)
    cross = np.corrcoef(np.asarray(out.X).T, truth[list(out.var_names)].to_numpy().T)[:4, 4:]
    assert (cross.argmax(axis=0) == np.arange(4)).all()
    assert np.diag(cross).mean() > 0.75
    assert facts["units"] == "proportion"
    assert facts["qc"]["demo_fit"] is (method != "tangram")
    assert "elbo" in facts["qc"] or method == "tangram"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["stereoscope", "destvi"])
def test_a_fit_that_was_ended_goes_on_to_the_same_labels(
    method: str, world: tuple[Path, Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    from histoloom.checkpoints import Checkpoint

    reference, section, _ = world
    spec = {"method": method, "reference": "r", "reference_epochs": 6, "max_epochs": 12}
    whole = run_labels(spec, [section], tmp_path, reference=reference, scratch=tmp_path / "a")
    monkeypatch.setenv("HISTOLOOM_CHECKPOINT_SECONDS", "0")
    save, saved = Checkpoint.save, []

    class Killed(BaseException):
        """As a SIGKILL after a save."""

    def save_then_die(self: Checkpoint, state, progress):
        done = save(self, state, progress)
        saved.append(self.name)
        if self.name == "spots" and saved.count("spots") == 5:
            raise Killed
        return done

    (tmp_path / "b").mkdir()
    options = {"reference": reference, "scratch": tmp_path / "s"}
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save_then_die)
        with pytest.raises(Killed):
            run_labels(spec, [section], tmp_path / "b", **options)
    with caplog.at_level(logging.INFO):
        again = run_labels(spec, [section], tmp_path / "b", **options)
    assert "going on from" in caplog.text
    a, b = ad.read_h5ad(whole), ad.read_h5ad(again)
    np.testing.assert_array_equal(a.X, b.X)
    assert metadata(whole)["qc"] == metadata(again)["qc"]


def test_cells_are_read_on_the_genes_of_the_fit(world: tuple[Path, Path, pd.DataFrame], tmp_path: Path) -> None:
    reference, section, _ = world
    spec = label_spec({"method": "tangram", "reference": "r", "max_genes": 40})
    task = LabelTask(spec, "c", "g", 0, [section], tmp_path, reference)
    data = prepare(task)
    cells, whole = read_cells(task, data), ad.read_h5ad(reference)
    assert list(cells.var_names) == list(data.signatures.index)
    np.testing.assert_array_equal(
        cells.X.toarray(), whole[cells.obs_names.str[1:].astype(int), cells.var_names].X.toarray()
    )
    assert list(cells.obs["cell_type"]) == list(whole.obs["cell_type"].iloc[cells.obs_names.str[1:].astype(int)])


def test_what_cannot_be_fitted(world: tuple[Path, Path, pd.DataFrame], tmp_path: Path) -> None:
    reference, section, _ = world
    spec = {"method": "stereoscope", "reference": "r"}
    with pytest.raises(InputError, check=has_code("labels-memory")):
        run_labels(spec, [section], tmp_path, reference=reference, granted_mb=OVERHEAD_MB + 100)
    silent = write_cells(tmp_path / "silent.h5ad", drop="Stroma")
    with pytest.raises(InputError, check=has_code("labels-type-without-counts")):
        run_labels(spec, [section], tmp_path, reference=silent)


@pytest.mark.parametrize("method", SPECS)
def test_a_section_of_another_gene_set_is_refused_before_any_fit(
    method: str, world: tuple[Path, Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_fit(*given: object, **more: object) -> None:
        raise AssertionError("a fit was begun")

    monkeypatch.setattr("histoloom.labels.fits.trained", no_fit)
    reference, section, _ = world
    other = ad.read_h5ad(section)
    other.var_names = [name if i < 5 else f"other{i}" for i, name in enumerate(other.var_names)]
    other.write_h5ad(tmp_path / "S1.h5ad")
    with pytest.raises(InputError, check=has_code("labels-genes-shared")):
        run_labels({"method": method, "reference": "r"}, [tmp_path / "S1.h5ad"], tmp_path, reference=reference)
    assert not list(tmp_path.rglob("*.0.h5ad"))
