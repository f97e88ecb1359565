"""`make init`: every starter is a valid config, and what is wrong with a filled-in one is said in one list."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from error_codes import has_code
from histoloom.config import load_config
from histoloom.errors import InputError, InputErrors
from histoloom.plan import Plan
from histoloom_operations.starter import ROWS, TASKS, start


def load(path: Path) -> Plan:
    return Plan.from_raw(yaml.safe_load(path.read_text()), [path])


@pytest.mark.parametrize(
    ("task", "source"), [(t, s) for t in TASKS for s in ROWS if (t == "slides") == (s == "slides")]
)
def test_a_starter_is_a_valid_config_that_lacks_only_files(task: str, source: str, tmp_path: Path) -> None:
    config, sheet = start("mine", source, task, tmp_path)
    assert len(config.read_text().splitlines()) < 60
    assert sheet.read_text().count("\t") == 2 * (len(ROWS[source]) + 1)
    if task == "slides":
        pytest.skip("needs the folder of a trained model")
    with pytest.raises(InputError, check=has_code("user-file-missing")) as caught:
        load(config).check_files()
    # Every path of the example row is asked for, and so is the reference or the table.
    assert "S1" in str(caught.value)
    if task in {"cell_types", "label_table"}:
        assert isinstance(caught.value, InputErrors)


def test_the_source_follows_the_task_and_nothing_is_overwritten(tmp_path: Path) -> None:
    start("one", "", "slides", tmp_path)
    assert "source: slides" in (tmp_path / "one.yaml").read_text()
    assert "source: files" in start("two", "", "", tmp_path)[0].read_text()
    for name, source, task, code in (
        ("one", "", "slides", "start-exists"),
        ("a b", "", "", "start-name"),
        ("c", "hest", "", "start-choice"),
        ("c", "files", "slides", "start-choice"),
        ("c", "", "maps", "start-choice"),
    ):
        with pytest.raises(InputError, check=has_code(code)):
            start(name, source, task, tmp_path)


def test_all_that_is_wrong_with_a_config_is_in_one_list(tmp_path: Path) -> None:
    config, sheet = start("mine", "files", "cell_types", tmp_path)
    raw = yaml.safe_load(config.read_text())
    raw["experiments"]["mine"] |= {"spilt": 1, "labels": "c2l", "models": ["ridge", "mlp"]}
    raw["labels"]["quick"]["reference"] = "sim"
    raw["encoders"]["texture"]["tiles"] = "um11"
    raw["models"]["coordinates"]["kind"] = "coords"
    sheet.write_text(
        sheet.read_text()
        + "S1\tP1\tc\tp\ti\t\t\t\t\t\n"
        + "S3  P2\t\tc\tp\ti\t\t\t\t\t\n"
        + "S4\t\tc\tp\ti\t\t\t\t\t\n"
    )
    with pytest.raises(InputErrors) as caught:
        load_config(raw, [config])
    codes = [error.code for error in caught.value.errors]
    text = str(caught.value)
    for part in ("'spilt'", "'c2l'", "'mlp'", "'sim'", "'um11'", "'coords'", "row 3", "row 4", "row 5"):
        assert part in text, part
    assert {"sheet-twice", "sheet-spaces", "sheet-patient", "name-unknown"} <= set(codes)
    assert text.count("\n") == len(codes)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("sample patient image\nS1 P1 a.tif\n", "sheet-separator"),
        ("sample\tpatient\tcounts\timage\tposition\nS1\tP1\tc\ti\tp\n", "sheet-column"),
        ("sample\tpatient\tcounts\nS1\tP1\tc\n", "sheet-column"),
        ("sample\tpatient\tcounts\timage\n", "sheet-empty"),
    ],
)
def test_a_sheet_that_is_no_sheet_is_said_once(text: str, code: str, tmp_path: Path) -> None:
    config, sheet = start("mine", "files", "genes", tmp_path)
    sheet.write_text(text)
    with pytest.raises(InputError, check=has_code(code)):
        load(config)
