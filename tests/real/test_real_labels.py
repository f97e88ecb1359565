"""References and labels on real tissue: her2st's published proportions and a small real breast reference."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.references import build_reference
from label_inputs import metadata, reference_spec, run_labels

pytestmark = pytest.mark.real
SPEC = {
    "source": "mtx", "cell_id_key": "cellid", "cell_type_key": "celltype", "donor_key": "subjectid",
    "assay_key": "cohort", "samples": [{"folder": "1", "annotation": "1"}, {"folder": "2", "annotation": "2"}],
    "gene_filter": {"cell_count_cutoff": 5, "cell_percentage_cutoff2": 0.03, "nonz_mean_cutoff": 1.12},
}  # fmt: skip


def _section(real_data: Path, name: str, tmp: Path) -> Path:
    counts = pd.read_csv(real_data / f"her2st/data/ST-cnts/{name}.tsv.gz", sep="\t", index_col=0)
    data = ad.AnnData(
        csr_matrix(counts.to_numpy(np.int32)),
        obs=pd.DataFrame({"in_tissue": True}, index=counts.index.astype(str)),
        var=pd.DataFrame(index=counts.columns),
    )
    data.uns["histoloom"] = json.dumps({"cohort": "her2st", "sample": name, "patient": name[0]})
    data.write_h5ad(tmp / f"{name}.h5ad")
    return tmp / f"{name}.h5ad"


@pytest.fixture(scope="module")
def breast(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = real_data / "scdeconr_breast_ref/inst/extdata/refdata"
    if not folder.is_dir():
        pytest.skip(f"no breast reference at {folder}")
    out = tmp_path_factory.mktemp("ref") / "breast.h5ad"
    files = {
        "folders": [folder / "sample1", folder / "sample2"],
        "annotations": [folder / "phenodata_sample1.txt", folder / "phenodata_sample2.txt"],
    }
    build_reference(spec=reference_spec(SPEC), files=files, out=out, seed=0, threads=1, scratch=out.parent / "scratch")
    return out


@pytest.fixture(scope="module")
def all_sections(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The 36 sections with their own ids and one count each: ids are all that a published table is joined by."""
    folder = tmp_path_factory.mktemp("ids")
    sections = []
    for source in sorted((real_data / "her2st/data/ST-cnts").glob("*.tsv.gz")):
        with gzip.open(source, "rt") as lines:
            next(lines)
            ids = [line[: line.index("\t")] for line in lines]
        data = ad.AnnData(
            csr_matrix(np.ones((len(ids), 1), dtype=np.int32)),
            obs=pd.DataFrame({"in_tissue": True}, index=ids),
            var=pd.DataFrame(index=["g"]),
        )
        name = source.name.split(".")[0]
        data.uns["histoloom"] = json.dumps({"cohort": "her2st", "sample": name, "patient": name[0]})
        data.write_h5ad(folder / f"{name}.h5ad")
        sections.append(folder / f"{name}.h5ad")
    assert len(sections) == 36
    return sections


@pytest.mark.parametrize(("level", "n_types"), [("major", 8), ("minor", 22)])
def test_published_proportions_of_all_sections(
    real_data: Path, all_sections: list[Path], tmp_path: Path, level: str, n_types: int
) -> None:
    archive = real_data / f"her2st/res/ST-deconv/props/{level}.zip"
    path = run_labels({"method": "published", "table": level}, all_sections, tmp_path, tables=[archive])
    out = ad.read_h5ad(path)
    assert out.shape == (13_620, n_types)
    assert out.obs["sample"].nunique() == 36
    np.testing.assert_allclose(np.asarray(out.X).sum(axis=1), 1, atol=1e-4)
    assert list(out.var_names) == [name.strip() for name in out.var_names]
    assert ("NK cells" in out.var_names) == (level == "minor")
    assert not any(metadata(path)["qc"]["table_rows_without_spot"].values())


def test_the_breast_reference_has_its_eight_types(breast: Path) -> None:
    out, facts = ad.read_h5ad(breast), metadata(breast)
    assert out.n_obs == 260
    assert len(facts["types"]) == 8
    assert sum(facts["n_cells"].values()) == 260
    assert facts["cells"]["read"]["folders"] == {
        "sample1": {"cells": 140, "annotated": 140}, "sample2": {"cells": 120, "annotated": 120},
    }  # fmt: skip
    found = out.varm["signatures"]
    assert found.loc["KRT18"].idxmax() == "Epithelial cells"
    assert not any(name.startswith("MT-") for name in out.var_names)


def test_nnls_of_c2_finds_epithelium_where_stereoscope_does(real_data: Path, breast: Path, tmp_path: Path) -> None:
    section = _section(real_data, "C2", tmp_path)
    path = run_labels({"method": "nnls", "reference": "b", "max_genes": 2500}, [section], tmp_path, reference=breast)
    ours, facts = ad.read_h5ad(path), metadata(path)
    assert facts["qc"]["genes"]["used"] == 2500
    archive = real_data / "her2st/res/ST-deconv/props/major.zip"
    published = ad.read_h5ad(
        run_labels({"method": "published", "table": "major"}, [section], tmp_path, tables=[archive], group="p")
    )[ours.obs_names]
    theirs = published[:, [n for n in published.var_names if "pithelial" in n]].X.sum(axis=1)
    assert np.corrcoef(ours[:, "Epithelial cells"].X.ravel(), np.asarray(theirs).ravel())[0, 1] > 0.3


def test_symbols_against_ensembl_ids(real_data: Path, breast: Path, tmp_path: Path) -> None:
    section = ad.read_h5ad(_section(real_data, "B4", tmp_path))
    section.var_names = [f"ENSG{i:011d}" for i in range(section.n_vars)]
    section.write_h5ad(tmp_path / "B4.h5ad")
    with pytest.raises(InputError, check=has_code("labels-genes-shared"), match=r"'B4'.* 0 .*7864"):
        run_labels({"method": "nnls", "reference": "b"}, [tmp_path / "B4.h5ad"], tmp_path, reference=breast)


@pytest.mark.slow
@pytest.mark.skipif("HISTOLOOM_LONG" not in os.environ, reason="minutes of fitting; set HISTOLOOM_LONG=1")
def test_cell2location_of_c2_finds_epithelium_where_stereoscope_does(
    real_data: Path, breast: Path, tmp_path: Path
) -> None:
    section = _section(real_data, "C2", tmp_path)
    spec = {
        "method": "cell2location", "reference": "b", "max_genes": 2500, "max_epochs": 400, "lr": 0.02,
        "posterior_samples": 100,
    }  # fmt: skip
    path = run_labels(spec, [section], tmp_path, reference=breast)
    ours = ad.read_h5ad(path)
    archive = real_data / "her2st/res/ST-deconv/props/major.zip"
    published = ad.read_h5ad(
        run_labels({"method": "published", "table": "major"}, [section], tmp_path, tables=[archive], group="p")
    )[ours.obs_names]
    theirs = published[:, [n for n in published.var_names if "pithelial" in n]].X.sum(axis=1)
    share = np.asarray(ours.X) / np.asarray(ours.X).sum(axis=1, keepdims=True)
    column = list(ours.var_names).index("Epithelial cells")
    assert np.corrcoef(share[:, column], np.asarray(theirs).ravel())[0, 1] > 0.3
