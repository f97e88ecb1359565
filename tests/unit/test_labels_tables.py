"""Published tables, ground truth, and the joining of groups and seeds."""

from __future__ import annotations

import zipfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.labels import gather_labels
from histoloom.labels.artefact import GroupLabels, write_labels
from label_inputs import label_spec, metadata, run_labels, write_section

PUBLISHED = {"method": "published", "table": "t"}
TRUTH = {"method": "truth"}
GENES = [f"G{i}" for i in range(5)]


def _sections(tmp: Path, n: int = 6, names: tuple[str, ...] = ("S1", "S2")) -> list[Path]:
    return [write_section(tmp / f"{s}.h5ad", np.full((n, 5), 30), GENES, sample=s) for s in names]


def _zip(path: Path, tables: dict[str, pd.DataFrame]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("minor/", "")
        for name, table in tables.items():
            archive.writestr(f"minor/{name}-proportion.tsv", table.to_csv(sep="\t"))
    return path


def _table(ids: list[str], seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).dirichlet(np.ones(3), size=len(ids))
    return pd.DataFrame(values, index=ids, columns=["NK cells ", "CAFs MSC/iCAF-like", "B-cells"])


def test_published_tables_are_joined_by_id_and_names_are_cut(tmp_path: Path) -> None:
    ids = [f"0x{i}" for i in range(6)]
    one, two = _table(ids[::-1], 1), _table([*ids[:5], "9x9"], 2)
    archive = _zip(tmp_path / "minor.zip", {"S1": one, "S2": two, "S3": one})
    path = run_labels(PUBLISHED, _sections(tmp_path), tmp_path, tables=[archive])
    out, facts = ad.read_h5ad(path), metadata(path)
    assert list(out.var_names) == ["B-cells", "CAFs MSC/iCAF-like", "NK cells"]
    assert list(out.obs_names) == [f"c/S1/{i}" for i in ids] + [f"c/S2/{i}" for i in ids[:5]]
    np.testing.assert_array_equal(out["c/S1/0x4"].X.ravel(), one.loc["0x4"].to_numpy()[[2, 1, 0]])
    np.testing.assert_array_equal(out["c/S2/0x4"].X.ravel(), two.loc["0x4"].to_numpy()[[2, 1, 0]])
    assert facts["dropped"]["S2"]["not in the table"] == 1
    assert facts["qc"]["table_rows_without_spot"] == {"S1": 0, "S2": 1}
    assert facts["units"] == "proportion"


def test_published_tables_that_lack_a_section_or_its_ids(tmp_path: Path) -> None:
    sections = _sections(tmp_path)
    archive = _zip(tmp_path / "a.zip", {"S1": _table(["0x1"])})
    with pytest.raises(InputError, check=has_code("published-member"), match=r"S2-proportion\.tsv"):
        run_labels(PUBLISHED, sections, tmp_path, tables=[archive])
    archive = _zip(tmp_path / "b.zip", {"S1": _table(["0x1"]), "S2": _table(["1x1.5", "2x2.5"])})
    with pytest.raises(InputError, check=has_code("published-ids"), match=r"'S2'.*'1x1\.5'.*'0x0'"):
        run_labels(PUBLISHED, sections, tmp_path, tables=[archive])
    (tmp_path / "c.zip").write_bytes(archive.read_bytes()[:200])
    with pytest.raises(InputError, check=has_code("published-zip")):
        run_labels(PUBLISHED, sections, tmp_path, tables=[tmp_path / "c.zip"])
    with pytest.raises(InputError, check=has_code("published-missing")):
        run_labels(PUBLISHED, sections, tmp_path, tables=[tmp_path / "none.zip"])


def test_published_tables_with_bad_cells(tmp_path: Path) -> None:
    sections = _sections(tmp_path, names=("S1",))
    table = _table(["0x0", "0x1"])
    for bad, code in ((np.nan, "published-number"), (-0.1, "labels-negative")):
        table.iloc[1, 2] = bad
        with pytest.raises(InputError, check=has_code(code)):
            run_labels(PUBLISHED, sections, tmp_path, tables=[_zip(tmp_path / "a.zip", {"S1": table})])
    with pytest.raises(InputError, check=has_code("published-twice"), match="0x0"):
        run_labels(PUBLISHED, sections, tmp_path, tables=[_zip(tmp_path / "a.zip", {"S1": _table(["0x0", "0x0"])})])


def test_truth_reads_types_only_and_each_section_its_own(tmp_path: Path) -> None:
    sections = _sections(tmp_path)
    tables = []
    for s, add in (("S2", 100), ("S1", 0)):  # not in the order of the sections
        table = pd.DataFrame({"obs_id": [f"0x{i}" for i in range(6)], "n_cells": 9, "T": np.arange(6) + add, "B": 1})
        tables.append(tmp_path / f"{s}_abundance.tsv")
        table.to_csv(tables[-1], sep="\t", index=False)
    out = ad.read_h5ad(run_labels(TRUTH, sections, tmp_path, tables=tables))
    assert list(out.var_names) == ["B", "T"]
    assert list(out[:, "T"].X.ravel()) == [*range(6), *range(100, 106)]
    with pytest.raises(InputError, check=has_code("truth-table"), match="S2"):
        run_labels(TRUTH, sections, tmp_path, tables=tables[1:])


def _group(path: Path, group: str, seed: int, values: np.ndarray, types: list[str], units: str = "cells") -> Path:
    obs = pd.DataFrame({
        "sample": group, "obs_id": [f"0x{i}" for i in range(len(values))], "patient": "P", "flag_low_umi": False,
    })  # fmt: skip
    facts = {
        "cohort": "c", "group": group, "seed": seed, "units": units, "dropped": {}, "qc": {"demo_fit": True, "passed": seed == 0},
        "identity": {"sha256": f"{group}{seed}"},
    }  # fmt: skip
    layers = {"q05": values / 2, "std": values / 10}
    write_labels(GroupLabels(obs, values, types, units, layers), facts, path)
    return path


SPEC = {"method": "cell2location", "reference": "r", "seeds": [0, 1, 2]}


def _groups(tmp: Path) -> tuple[list[Path], dict[tuple[str, int], np.ndarray]]:
    rng = np.random.default_rng(5)
    values, files = {}, []
    for group in ("A", "B"):
        base = rng.gamma(2, 2, size=(20, 3))
        for seed in (0, 1, 2):
            noisy = base * rng.uniform(0.5, 1.5, size=base.shape)
            noisy[:, 1] = 2.0 if group == "A" else noisy[:, 1]
            noisy[:, 2] = 0.0
            values[group, seed] = noisy
            files.append(_group(tmp / f"{group}.{seed}.h5ad", group, seed, noisy, ["b", "a", "c"]))
    return files, values


def test_gather_averages_seeds_and_says_how_far_they_agree(tmp_path: Path) -> None:
    files, values = _groups(tmp_path)
    gather_labels(spec=label_spec(SPEC), cohort="c", groups=files, out=tmp_path / "c.h5ad")
    out, facts = ad.read_h5ad(tmp_path / "c.h5ad"), metadata(tmp_path / "c.h5ad")
    assert list(out.var_names) == ["a", "b", "c"]
    stacked = {s: np.concatenate([values["A", s], values["B", s]])[:, [1, 0, 2]] for s in (0, 1, 2)}
    np.testing.assert_allclose(out.X, (stacked[0] + stacked[1] + stacked[2]) / 3)
    np.testing.assert_allclose(out.layers["q05"], out.X / 2)
    np.testing.assert_allclose(out.layers["seed_1"], stacked[1])
    found = {(a["sample"], a["type"]): a["r"] for a in facts["agreement"]}
    for group in ("A", "B"):
        r = np.corrcoef([values[group, s][:, 0] for s in (0, 1, 2)])
        assert found[group, "b"] == pytest.approx((r[0, 1] + r[0, 2] + r[1, 2]) / 3, abs=1e-6)
    assert found["A", "a"] is None
    assert found["B", "a"] is not None
    assert facts["constant_types"] == ["c"]
    assert facts["constant_by_sample"] == {"A": ["a", "c"], "B": ["c"]}
    assert facts["qc_failed"] == ["A.1", "A.2", "B.1", "B.2"]
    assert facts["demo_fit"] is True
    assert facts["seeds"] == [0, 1, 2]


def test_one_seed_has_no_agreement(tmp_path: Path) -> None:
    files, values = _groups(tmp_path)
    gather_labels(
        spec=label_spec({**SPEC, "seeds": [0]}), cohort="c", groups=[files[0], files[3]], out=tmp_path / "c.h5ad"
    )
    out = ad.read_h5ad(tmp_path / "c.h5ad")
    assert metadata(tmp_path / "c.h5ad")["agreement"] == []
    assert set(out.layers) == {"q05", "std"}
    np.testing.assert_array_equal(out[out.obs["sample"] == "A", "b"].X.ravel(), values["A", 0][:, 0])


def test_gather_refuses_what_does_not_fit_together(tmp_path: Path) -> None:
    files, values = _groups(tmp_path)
    out = tmp_path / "c.h5ad"
    with pytest.raises(InputError, check=has_code("labels-groups-missing")):
        gather_labels(spec=label_spec(SPEC), cohort="c", groups=files[:5], out=out)
    with pytest.raises(InputError, check=has_code("labels-seeds-missing")):
        gather_labels(spec=label_spec(SPEC), cohort="c", groups=[f for f in files if ".2." not in f.name], out=out)
    with pytest.raises(InputError, check=has_code("labels-no-groups")):
        gather_labels(spec=label_spec(SPEC), cohort="c", groups=[], out=out)
    one = {**SPEC, "seeds": [0]}
    other = _group(tmp_path / "o.0.h5ad", "O", 0, values["A", 0], ["a", "b", "d"])
    with pytest.raises(InputError, check=has_code("labels-types-differ")):
        gather_labels(spec=label_spec(one), cohort="c", groups=[files[0], other], out=out)
    other = _group(tmp_path / "o.0.h5ad", "O", 0, values["A", 0], ["a", "b", "c"], units="proportion")
    with pytest.raises(InputError, check=has_code("labels-units")):
        gather_labels(spec=label_spec(one), cohort="c", groups=[files[0], other], out=out)
    shorter = [files[0], files[1], _group(tmp_path / "x.h5ad", "A", 2, values["A", 2][:9], ["b", "a", "c"])]
    with pytest.raises(InputError, check=has_code("labels-seeds-differ")):
        gather_labels(spec=label_spec(SPEC), cohort="c", groups=shorter, out=out)
    assert not out.exists()
