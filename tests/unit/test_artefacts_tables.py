"""h5ad tables read and written without anndata: equal to what anndata reads and writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix

import histoloom
from error_codes import has_code
from histoloom.artefacts import Table, dense, read_elements, read_table, write_table
from histoloom.errors import InputError


def example() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "sample": ["A", "B", "A", "C"], "n": [1, 2, 3, 4], "x": [0.5, np.nan, 1.5, 2.5],
            "kind": pd.Categorical(["u", "v", None, "u"]), "seen": [True, False, True, True],
            "maybe": pd.array([1, None, 3, 4], dtype="Int64"), "name": ["long", "text", "of", "spots"],
        },
        index=[f"o{i}" for i in range(4)],
    )  # fmt: skip
    data = anndata.AnnData(X=csr_matrix(rng.poisson(1.0, (4, 3)).astype(float)), obs=obs,
                           var=pd.DataFrame(index=["a", "b", "ü"]))  # fmt: skip
    data.layers["labels"] = rng.normal(size=(4, 3)).astype(np.float32)
    data.layers["other"] = csc_matrix(np.eye(4)[:, :3])
    data.obsm["spatial"] = rng.normal(size=(4, 2))
    data.uns["histoloom"] = '{"units": "cells"}'
    return data


def test_what_anndata_wrote_is_read(tmp_path) -> None:
    data = example()
    data.write_h5ad(tmp_path / "a.h5ad")
    table = read_table(tmp_path / "a.h5ad", obsm=["spatial", "absent"])
    np.testing.assert_array_equal(dense(table.X), data.X.toarray())
    assert set(table.layers) == {"labels", "other"}
    assert table.layers["labels"].dtype == np.float32
    np.testing.assert_array_equal(table.layers["labels"], data.layers["labels"])
    np.testing.assert_array_equal(dense(table.layers["other"]), np.eye(4)[:, :3])
    np.testing.assert_array_equal(table.obsm["spatial"], data.obsm["spatial"])
    assert table.var_names == ["a", "b", "ü"]
    assert table.metadata == {"units": "cells"}
    assert list(table.obs.index) == list(data.obs.index)
    assert list(table.obs.columns) == list(data.obs.columns)
    assert table.obs["sample"].tolist() == ["A", "B", "A", "C"]
    assert table.obs["kind"].tolist() == ["u", "v", None, "u"]
    assert table.obs["maybe"].tolist() == [1, None, 3, 4]
    assert table.obs["n"].dtype == np.int64
    assert table.obs["seen"].dtype == bool
    np.testing.assert_array_equal(table.obs["x"], data.obs["x"])
    assert not read_table(tmp_path / "a.h5ad", layers=[]).layers


def test_what_is_written_anndata_reads(tmp_path) -> None:
    obs = example().obs.drop(columns="maybe")
    layers = {"labels": np.arange(12.0).reshape(4, 3), "seed_0": csr_matrix(np.eye(4)[:, :3])}
    made = Table(obs, pd.DataFrame(index=["a", "b", "c"]), np.ones((4, 3), np.float32), layers,
                 {"spatial": np.zeros((4, 2))}, {"units": "cells"})  # fmt: skip
    write_table(made, tmp_path / "b.h5ad")
    data = anndata.read_h5ad(tmp_path / "b.h5ad")
    pd.testing.assert_frame_equal(
        data.obs.astype({"sample": object, "name": object, "kind": object}), obs.astype({"kind": object}),
        check_categorical=False,
    )  # fmt: skip
    assert data.X.dtype == np.float32
    np.testing.assert_array_equal(data.layers["seed_0"].toarray(), np.eye(4)[:, :3])
    assert data.uns["histoloom"] == '{"units":"cells"}'
    again = read_table(tmp_path / "b.h5ad", obsm=["spatial"])
    assert again.obs["kind"].tolist() == ["u", "v", None, "u"]
    assert again.metadata == {"units": "cells"}


def test_a_cut_or_foreign_file_is_refused(tmp_path) -> None:
    example().write_h5ad(tmp_path / "a.h5ad")
    content = (tmp_path / "a.h5ad").read_bytes()
    (tmp_path / "cut.h5ad").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, check=has_code("h5ad-unreadable")):
        read_table(tmp_path / "cut.h5ad")
    with pytest.raises(InputError, check=has_code("h5ad-unreadable")):
        read_elements(tmp_path / "missing.h5ad", ["obs"])
    import h5py

    with h5py.File(tmp_path / "other.h5ad", "w") as handle:
        handle["X"] = np.zeros(3)
    with pytest.raises(InputError, check=has_code("h5ad-incomplete")):
        read_table(tmp_path / "other.h5ad")


def test_reading_imports_no_anndata(tmp_path) -> None:
    example().write_h5ad(tmp_path / "a.h5ad")
    code = "import sys; from histoloom.artefacts import read_table; read_table(sys.argv[1]); print(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(histoloom.__file__).parents[1])}
    modules = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.h5ad"], capture_output=True, text=True, check=True, env=env
    ).stdout.split()
    assert not {"anndata", "torch", "scanpy"} & set(modules)
