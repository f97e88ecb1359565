"""Configs as people write them: repeated keys, tabs, tags, names that look alike."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from error_codes import has_code
from histoloom import patients
from histoloom.config import load_config
from histoloom.errors import InputError
from histoloom.schemas import NAME_PATTERN, SCHEMAS
from histoloom.user_yaml import read_user_yaml

FLAG = "it_ran"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", "yaml-key-twice", "'a' stands in lines 1 and 3"),
        ("m:\n  x: {k: 1, l: 2, k: 3}\n", "yaml-key-twice", "'k'"),
        ("m:\n- {k: 1, k: 1}\n", "yaml-key-twice", "'k'"),
        ("m:\n\tx: 1\n", "yaml-tab", "line 2"),
        (f"m: !!python/object/apply:os.system ['touch {FLAG}']\n", "yaml-tag", "line 1"),
        (f"m: !!python/object/new:os.mkdir ['{FLAG}']\n", "yaml-tag", "line 1"),
        ("m: !include other.yaml\n", "yaml-tag", "line 1"),
        ("m: [1, 2\nn: 3\n", "yaml-syntax", "line 2"),
        ("- a\n- b\n", "yaml-no-keys", "list"),
        ("just text\n", "yaml-no-keys", "str"),
        ("# nothing but a comment\n", "yaml-no-keys", "nothing"),
    ],
)
def test_faults_of_a_config_name_their_line(
    tmp_path: Path, text: str, code: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, check=has_code(code)) as error:
        read_user_yaml(tmp_path / "c.yaml")
    assert says in str(error.value)
    assert not (tmp_path / FLAG).exists()


@pytest.mark.parametrize("raw", [b"\xff\xfea\x00", b"a: caf\xe9\n", b"a: 1\x00\n"])
def test_a_config_that_is_no_utf_8(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(raw)
    with pytest.raises(InputError, check=has_code("text-encoding")):
        read_user_yaml(tmp_path / "c.yaml")


def test_json_with_tabs_is_fine_and_repeated_keys_are_not(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{\n\t"a": 1\n}')
    assert read_user_yaml(path) == {"a": 1}
    path.write_text('{"a": {"b": 1, "b": 2}}')
    with pytest.raises(InputError, check=has_code("yaml-key-twice")):
        read_user_yaml(path)


def test_merged_keys_are_not_repeated_ones(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {k: 1}\nb: {<<: *a, k: 2}\nc: {<<: [*a, {l: 3}]}\n")
    assert read_user_yaml(tmp_path / "c.yaml") == {"a": {"k": 1}, "b": {"k": 2}, "c": {"k": 1, "l": 3}}


def test_our_own_configs_are_read_as_pyyaml_reads_them(repo: Path) -> None:
    for path in (*(repo / "config").glob("*.yaml"), *(repo / "tests").rglob("*.yaml")):
        assert read_user_yaml(path) == yaml.safe_load(path.read_text())


def loaded(folder: Path, rows: str, text: str = "") -> None:
    (folder / "sheet.tsv").write_text("sample\tpatient\tcounts\timage\n" + rows)
    path = folder / "c.yaml"
    path.write_text("cohorts: {mine: {source: files, sheet: sheet.tsv}}\nexperiments: {}\n" + text)
    load_config(yaml.safe_load(path.read_text()), [path])


def test_a_repeated_key_stops_before_anything_is_planned(tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("yaml-key-twice")):
        loaded(tmp_path, "a\tP\tc\ti\n", "tiles: {}\nexperiments: {}\n")


@pytest.mark.parametrize("name", ["a\nb", "x" * 81, "x" * 300, "a b", "a.b", "é", ".."])
def test_names_are_checked_to_their_last_character(tmp_path: Path, name: str) -> None:
    (tmp_path / "sheet.tsv").write_text("sample\tpatient\tcounts\timage\na\tP\tc\ti\n")
    for section in ("tiles", "models"):
        raw = {section: {name: {}, "a\n": {}}, "experiments": {}}
        with pytest.raises(InputError) as error:
            load_config(raw, [tmp_path / "c.yaml"])
        assert "is no name" in str(error.value)
    for column in ("{}\tP\tc\ti\n", "a\t{}\tc\ti\n"):
        with pytest.raises(InputError):
            loaded(tmp_path, column.format(name))


def test_a_line_end_does_not_hide_behind_a_name(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_config({"tiles": {"a\n": {}}, "experiments": {}}, [tmp_path / "c.yaml"])
    patterns = [line for path in SCHEMAS.glob("*.yaml") for line in path.read_text().split("\n") if "pattern:" in line]
    assert not [line for line in patterns if line.rstrip(" '\"}").endswith("$")]
    assert any(NAME_PATTERN.replace("\\", "\\\\") in line for line in patterns)


@pytest.mark.parametrize(("first", "second", "asked"), [
    ("P1", "p1", True), ("007", "7", True), ("P01", "P1", True), ("P-001", "p-1", True),
    ("P1", "P2", False), ("P10", "P1", False), ("P100", "P10", False), ("0", "00", True),
])  # fmt: skip
def test_patients_that_look_alike_are_asked_about(
    tmp_path: Path, first: str, second: str, asked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    patients._ask.cache_clear()
    with caplog.at_level(logging.WARNING):
        loaded(tmp_path, f"a\t{first}\tc\ti\nb\t{second}\tc\ti\nc\t{first}\tc\ti\n")
    assert (f"'{first}' (mine/a), '{second}' (mine/b)" in caplog.text) == asked
