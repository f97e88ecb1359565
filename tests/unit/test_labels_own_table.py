"""Labels from a table of the user's own: three formats, one file or one per section, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.labels import LabelTask, gather_labels
from histoloom.plan import Plan
from label_inputs import label_spec, metadata, run_labels, write_section

DEMO = Path(__file__).resolve().parents[2] / "config" / "config.yaml"
SPEC = {"method": "table", "path": "mine.csv", "units": "cells"}
TYPES = ["Tumour", "B cells", "Stroma"]


@pytest.fixture
def sections(tmp_path: Path) -> list[Path]:
    counts = np.full((4, 5), 40)
    return [
        write_section(tmp_path / f"{name}.h5ad", counts, [f"G{i}" for i in range(5)], sample=name)
        for name in ("S1", "S2")
    ]


def values(sample: str) -> pd.DataFrame:
    """Rows in another order than the section's, one spot missing and one unknown."""
    rng = np.random.default_rng(int(sample[1:]))
    return pd.DataFrame(
        rng.gamma(2, 3, (4, 3)), index=pd.Index(["0x3", "0x0", "9x9", "0x2"], name="obs_id"), columns=TYPES
    )


def cohort_table() -> pd.DataFrame:
    return pd.concat([values(s).assign(sample=s) for s in ("S2", "S1")]).reset_index()


def write(path: Path, frame: pd.DataFrame) -> Path:
    if path.suffix == ".h5ad":
        names = frame["sample"] + "/" + frame["obs_id"]
        data = ad.AnnData(
            frame[TYPES].to_numpy(), obs=frame[["sample", "obs_id"]].set_axis(names), var=pd.DataFrame(index=TYPES)
        )
        data.write_h5ad(path)
    else:
        frame.to_csv(path, sep="," if ".csv" in path.name else "\t", index=False)
    return path


def assert_is_the_table(out: Path) -> None:
    labels = ad.read_h5ad(out)
    assert list(labels.var_names) == sorted(TYPES)
    assert list(labels.obs_names) == [f"c/{s}/{i}" for s in ("S1", "S2") for i in ("0x0", "0x2", "0x3")]
    for sample in ("S1", "S2"):
        part = labels[labels.obs["sample"] == sample].to_df().set_axis(["0x0", "0x2", "0x3"])
        pd.testing.assert_frame_equal(
            part[TYPES], values(sample).loc[["0x0", "0x2", "0x3"]], check_names=False, check_exact=True
        )
    facts = metadata(out)
    assert facts["units"] == "cells"
    assert {s: d["not in the table"] for s, d in facts["dropped"].items()} == {"S1": 1, "S2": 1}
    assert facts["qc"]["table_rows_without_spot"] == {"S1": 1, "S2": 1}


@pytest.mark.parametrize("name", ["t.csv", "t.tsv.gz", "t.h5ad"])
def test_one_file_for_a_cohort(tmp_path: Path, sections: list[Path], name: str) -> None:
    table = write(tmp_path / name, cohort_table())
    out = run_labels({**SPEC, "path": name}, sections, tmp_path, tables=[table])
    assert_is_the_table(out)
    # The artefact itself is such a table: labels of one run serve another.
    (tmp_path / "again").mkdir()
    again = run_labels(SPEC, sections, tmp_path / "again", tables=[out])
    np.testing.assert_array_equal(ad.read_h5ad(again).X, ad.read_h5ad(out).X)


def test_a_file_for_each_section_with_ids_in_the_first_column(tmp_path: Path, sections: list[Path]) -> None:
    tables = []
    for sample in ("S1", "S2"):
        tables.append(tmp_path / f"{sample}.csv")
        values(sample).rename_axis("spot").to_csv(tables[-1])
    assert_is_the_table(run_labels({**SPEC, "path": "{sample}.csv"}, sections, tmp_path, tables=tables))


def test_row_numbers_that_pandas_writes_are_no_type(tmp_path: Path, sections: list[Path]) -> None:
    cohort_table().to_csv(tmp_path / "t.csv")
    assert_is_the_table(run_labels(SPEC, sections, tmp_path, tables=[tmp_path / "t.csv"]))


def test_where_a_file_lies_is_not_part_of_the_labels(tmp_path: Path, sections: list[Path]) -> None:
    (tmp_path / "moved").mkdir()
    files = [write(tmp_path / "t.csv", cohort_table()), write(tmp_path / "moved" / "u.csv", cohort_table())]
    identities = [
        LabelTask(label_spec({**SPEC, "path": str(p)}), "c", "all", 0, sections, tmp_path, tables=[p]).identity
        for p in files
    ]
    assert identities[0] == identities[1]
    changed = cohort_table()
    changed.loc[0, "Tumour"] += 1
    table = write(tmp_path / "v.csv", changed)
    assert LabelTask(label_spec(SPEC), "c", "all", 0, sections, tmp_path, tables=[table]).identity != identities[0]


def broken(**changes: Any) -> pd.DataFrame:
    return cohort_table().assign(**changes)


@pytest.mark.parametrize(
    ("frame", "spec", "code"),
    [
        (cohort_table().drop(columns="sample"), {}, "table-sample-column"),
        (cohort_table().query("sample == 'S1'"), {}, "table-section"),
        (cohort_table(), {"units": "proportion"}, "table-proportions"),
        (broken(Stroma="n/a"), {}, "published-number"),
        (broken(Stroma=np.inf), {}, "published-number"),
        (broken(Stroma=-1.0), {}, "labels-negative"),
        (broken(obs_id="0x0"), {}, "published-twice"),
        (broken(obs_id=[f"spot{i}" for i in range(8)]), {}, "published-ids"),
        (cohort_table().rename(columns={"sample": "slide"}), {"sample_key": "section"}, "table-sample-column"),
    ],
    ids=str,
)
def test_tables_that_cannot_be_labels_are_refused(
    tmp_path: Path, sections: list[Path], frame: pd.DataFrame, spec: dict[str, str], code: str
) -> None:
    table = write(tmp_path / "t.csv", frame)
    with pytest.raises(InputError, check=has_code(code)):
        run_labels({**SPEC, **spec}, sections, tmp_path, tables=[table])


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [("none.csv", None, "table-missing"), ("t.xlsx", b"PK", "table-format"), ("t.h5ad", b"no h5", "h5ad-unreadable")],
)
def test_files_that_are_no_tables_are_refused(
    tmp_path: Path, sections: list[Path], name: str, content: bytes | None, code: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, check=has_code(code)):
        run_labels(SPEC, sections, tmp_path, tables=[tmp_path / name])


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("own/{cohort}.csv", ["own/demo.csv"]),
        ("{raw_dir}/own/{sample}.tsv", [f"results/sources/own/{p}{i}.tsv" for p in "WXYZ" for i in (1, 2)]),
    ],
)
def test_the_plan_reads_the_file_and_labels_a_cohort_in_one_job(path: str, files: list[str]) -> None:
    raw = yaml.safe_load(DEMO.read_text())
    raw["labels"]["own"] = {**SPEC, "path": path}
    plan = Plan.from_raw(raw, [str(DEMO)]).labels
    assert plan.part_files("own", "demo") == ["results/labels/own/demo/all.0"]
    assert plan.job_inputs("own", "demo", "all.0")["tables"] == files
    assert "path" not in plan.spec("own")


def test_own_labels_gather_like_any_other(tmp_path: Path, sections: list[Path]) -> None:
    table = write(tmp_path / "t.csv", cohort_table())
    made = run_labels(SPEC, sections, tmp_path, tables=[table], group="all")
    gather_labels(spec=label_spec(SPEC), cohort="c", groups=[made], out=tmp_path / "c.h5ad")
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "c.h5ad").X, ad.read_h5ad(made).X)
    assert metadata(tmp_path / "c.h5ad")["demo_fit"] is False


@pytest.mark.parametrize("labels", ["own", "truth"])
def test_labels_of_a_table_have_no_ceiling(labels: str) -> None:
    raw = yaml.safe_load(DEMO.read_text())
    raw["labels"]["own"] = SPEC
    raw["checks"] = {"top": {"kind": "ceiling", "labels": labels, "cohorts": ["demo"]}}
    with pytest.raises(InputError, check=has_code("ceiling-no-counts")):
        Plan.from_raw(raw, [str(DEMO)]).checks.files("top")
