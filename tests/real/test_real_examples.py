"""The starters of `make init`, filled in with real sections: nothing stands in the way of a run."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import yaml

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.plan import Plan
from histoloom_operations.contents import check_contents
from histoloom_operations.starter import start

pytestmark = pytest.mark.real

SECTIONS = ("B4", "C2", "C3", "C4")


@pytest.fixture
def folder(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill_sheet(sheet: Path, real_data: Path) -> None:
    data, header = real_data / "her2st" / "data", sheet.read_text().splitlines()[0].split("\t")
    lines = ["\t".join(header)]
    for name in SECTIONS:
        (image,) = (data / "ST-imgs" / name[0] / name).glob("*.jpg")
        row = {
            "sample": name, "patient": name[0], "counts": data / "ST-cnts" / f"{name}.tsv.gz",
            "positions": data / "ST-spotfiles" / f"{name}_selection.tsv", "image": image, "pitch_um": 200,
            "spot_diameter_um": 100,
        }  # fmt: skip
        lines.append("\t".join(str(row.get(column, "")) for column in header))
    sheet.write_text("\n".join(lines) + "\n")


def plan_of(config: Path) -> Plan:
    return Plan.from_raw(yaml.safe_load(config.read_text()), [config])


def test_own_sections_with_an_own_reference(folder: Path, real_data: Path) -> None:
    config, sheet = start("mine", "files", "cell_types", folder)
    fill_sheet(sheet, real_data)
    raw, cells = yaml.safe_load(config.read_text()), real_data / "scdeconr_breast_ref" / "inst" / "extdata" / "refdata"
    parts = [{"folder": f"{cells}/sample{i}", "annotation": f"{cells}/phenodata_sample{i}.txt"} for i in (1, 2)]
    raw["references"]["cells"] = {"source": "mtx", "samples": parts, "cell_type_key": "celltype"}
    config.write_text(yaml.safe_dump(raw))
    # The column of the cells' names is called otherwise: said before a job starts.
    with pytest.raises(InputError, check=has_code("reference-column")):
        check_contents(plan_of(config))
    raw["references"]["cells"]["cell_id_key"] = "cellid"
    config.write_text(yaml.safe_dump(raw))
    plan = plan_of(config)
    plan.check_files()
    check_contents(plan)
    assert len(plan.sections_of_run()) == 4


def test_own_sections_with_an_own_table_of_labels(folder: Path, real_data: Path) -> None:
    config, sheet = start("mine", "files", "label_table", folder)
    fill_sheet(sheet, real_data)
    zipfile.ZipFile(real_data / "her2st" / "res" / "ST-deconv" / "props" / "minor.zip").extractall(folder)
    with pytest.raises(InputError, check=has_code("user-file-missing")):
        plan_of(config).check_files()
    config.write_text(config.read_text().replace("labels/{sample}.tsv", "minor/{sample}-proportion.tsv"))
    plan = plan_of(config)
    plan.check_files()
    check_contents(plan)


def test_a_slide_whose_scale_is_unknown_is_named_before_a_run(folder: Path, real_data: Path) -> None:
    config, sheet = start("mine", "files", "genes", folder)
    fill_sheet(sheet, real_data)
    plan = plan_of(config)
    plan.check_files()
    check_contents(plan)
    sheet.write_text(sheet.read_text().replace("\t200\t100\t", "\t\t100\t"))
    with pytest.raises(InputError, check=has_code("mpp-unknown")) as caught:
        check_contents(plan_of(config))
    assert all(f"'{name}'" in str(caught.value) for name in SECTIONS)
