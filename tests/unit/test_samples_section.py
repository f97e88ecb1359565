"""The reader of a canonical section against anndata's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix

import histoloom
from error_codes import has_code
from histoloom.errors import InputError
from histoloom.obs_keys import obs_keys, observation_keys, section_keys
from histoloom.samples.section import open_section


def write(path: Path, matrix: object, **obs: object) -> ad.AnnData:
    names = ["1x1", "1x2", "10x3", "007"]
    data = ad.AnnData(
        matrix,
        obs=pd.DataFrame({"array_row": [0, 1, 2, 3], **obs}, index=names),
        var=pd.DataFrame({"ensembl_id": ["ENSG00000141510", "", ""]}, index=["TP53", "A", "B"]),
    )
    data.obsm["spatial"] = np.arange(8.0).reshape(4, 2)
    data.uns["histoloom"] = json.dumps({"cohort": "c", "sample": "S1", "patient": "P", "mpp": 0.5})
    data.uns["spatial"] = {"S1": {"images": {"lowres": np.arange(27, dtype=np.uint8).reshape(3, 3, 3)}}}
    data.write_h5ad(path, compression="gzip")
    return ad.read_h5ad(path)


COUNTS = np.array([[0, 1, 2], [3, 0, 0], [0, 0, 0], [5, 6, 7]], np.int32)


@pytest.mark.parametrize("form", [csr_matrix, csc_matrix, np.asarray])
def test_equals_anndata(tmp_path: Path, form: type) -> None:
    data = write(
        tmp_path / "s.h5ad",
        form(COUNTS),
        in_tissue=[True, False, True, True],
        region=["tumour", "", "tumour", "fat"],
        whole=pd.array([1, None, 3, 4], dtype="Int64"),
        flag=pd.array([True, None, False, True], dtype="boolean"),
        area=[0.5, np.nan, 1.0, 2.0],
    )
    section = open_section(tmp_path / "s.h5ad")
    stored = section.obs.drop(columns=["cohort", "sample", "patient"])
    assert list(stored.index) == list(data.obs_names)
    assert list(stored.columns) == list(data.obs.columns)
    for column in stored:
        values = data.obs[column].astype(object)
        assert stored[column].tolist() == pytest.approx(
            values.where(values.notna(), stored[column]).tolist(), nan_ok=True
        )
    assert section.var["ensembl_id"].tolist() == data.var["ensembl_id"].tolist()
    assert list(section.var.index) == list(data.var_names)
    assert (section.counts.toarray() == COUNTS).all()
    assert section.counts.format == "csr"
    assert section.counts.dtype == np.int32
    assert (section.spatial == data.obsm["spatial"]).all()
    assert (section.cohort, section.sample, section.patient) == ("c", "S1", "P")
    assert section.metadata["mpp"] == 0.5
    assert section.picture("lowres", "hires").shape == (3, 3, 3)
    assert section.picture("hires") is None
    for key in ("cohort", "sample", "patient"):
        assert section.obs[key].dtype == "category"
        assert (section.obs[key].astype(str) == getattr(section, key)).all()


def test_counts_are_read_only_when_asked(tmp_path: Path) -> None:
    import h5py

    write(tmp_path / "s.h5ad", csr_matrix(COUNTS))
    with h5py.File(tmp_path / "s.h5ad", "r+") as handle:
        del handle["X"]
    section = open_section(tmp_path / "s.h5ad")
    assert len(section.obs) == 4
    with pytest.raises(InputError, check=has_code("section-incomplete")):
        _ = section.counts


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.h5ad"
    write(path, csr_matrix(COUNTS))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, check=has_code("h5ad-unreadable")):
        open_section(path)


def test_another_h5ad_is_no_section(tmp_path: Path) -> None:
    ad.AnnData(COUNTS.astype(np.float32)).write_h5ad(tmp_path / "x.h5ad")
    with pytest.raises(InputError, check=has_code("section-metadata")):
        open_section(tmp_path / "x.h5ad")


def test_keys_join_text_and_categories() -> None:
    obs = pd.DataFrame({"cohort": pd.Categorical(["a", "b"]), "sample": ["1", "1"], "obs_id": ["x", "007"]})
    assert list(section_keys(obs)) == ["a/1", "b/1"]
    assert list(observation_keys(obs)) == ["a/1/x", "b/1/007"]
    assert list(obs_keys("a", "s", obs["obs_id"])) == ["a/s/x", "a/s/007"]
    assert obs_keys("a", pd.Index([], dtype=object)).empty


def test_stages_that_read_a_section_import_no_anndata() -> None:
    rooms = "import histoloom.tiles.cut, histoloom.nuclei.count, histoloom.audit.guard, histoloom.samples"
    code = f"import sys; {rooms}; print(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(histoloom.__file__).parents[1])}
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert not {"anndata", "scanpy", "torch", "matplotlib"} & set(modules.split())
