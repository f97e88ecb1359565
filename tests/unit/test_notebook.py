"""The readers for notebooks, and the example notebook run from its first cell to its last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from metrics_inputs import SPEC, TYPES, make_obs, make_values, write_inputs, write_labels, write_section

import histoloom
from error_codes import has_code
from histoloom.errors import InputError
from histoloom.metrics import score_predictions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder results as the demo leaves it, of two small sections."""
    folder = tmp_path_factory.mktemp("run") / "results"
    obs = make_obs({("A", "A1"): 30, ("B", "B1"): 36})
    values = make_values(obs)
    where = folder / "predictions" / "demo" / "ridge"
    prediction = values + np.random.default_rng(0).normal(size=values.shape)
    files = write_inputs(where, obs, values, prediction, protocol={"labels": "nn"})
    (folder / "labels" / "nn").mkdir(parents=True)
    write_labels(folder / "labels" / "nn" / "demo.h5ad", obs, values, TYPES)
    files["predictions"].rename(where / "default.h5ad")
    files["predictions"] = where / "default.h5ad"
    (folder / "metrics" / "demo").mkdir(parents=True)
    score_predictions(spec=SPEC, experiment="demo", model="ridge", out=folder / "metrics/demo/ridge.parquet", **files)
    (folder / "samples" / "demo").mkdir(parents=True)
    for (cohort, sample), part in obs.groupby(["cohort", "sample"]):
        write_section(folder / "samples" / cohort / f"{sample}.h5ad", cohort, sample, part)
    return folder


def test_predictions_are_ready_for_scanpy_and_squidpy(results: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import scanpy

    data = histoloom.read_predictions(results / "predictions/demo/ridge/default.h5ad")
    assert data.uns["histoloom"]["model"] == "ridge"
    assert np.isfinite(data.obsm["spatial"]).all()
    assert data.obsm["spatial"] == pytest.approx(data.obs[["x", "y"]].to_numpy())
    part = data[data.obs["sample"] == "B1"].copy()
    scanpy.pl.spatial(part, library_id="B1", color=TYPES[0], show=False)
    # What squidpy looks for: the same names in obs and in uns.
    assert set(data.obs["library_id"]) == set(data.uns["spatial"])
    assert data.uns["spatial"]["B1"]["scalefactors"]["spot_diameter_fullres"] > 0


def test_a_file_that_is_none_of_these_is_named(results: Path, tmp_path: Path) -> None:
    for path, code in (
        (results / "predictions/demo/ridge/nothing.h5ad", "file-missing"),
        (results / "samples/demo/B1.h5ad", "notebook-file"),
    ):
        with pytest.raises(InputError, check=has_code(code)):
            histoloom.read_predictions(path)
    elsewhere = tmp_path / "p.h5ad"
    elsewhere.write_bytes((results / "predictions/demo/ridge/default.h5ad").read_bytes())
    with pytest.raises(InputError, check=has_code("notebook-results")):
        histoloom.read_predictions(elsewhere)
    assert histoloom.read_predictions(elsewhere, results=results).n_obs


def test_the_import_reads_nothing_heavy() -> None:
    code = "import sys, histoloom; assert not {'numpy', 'pandas', 'anndata'} & set(sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "src")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_the_example_notebook_runs(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbclient is a development package")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is a development package")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "workflow" / "src"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    notebook = nbformat.read(ROOT / "docs" / "results.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(results.parent)}}
    )
    client.execute()
    table = str(notebook.cells[-1]["outputs"][0]["data"]["text/plain"])
    assert all(name in table for name in TYPES)
