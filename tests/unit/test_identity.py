"""What changes an identity, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from histoloom import identity
from histoloom.identity import make_identity, source_hash

ARGUMENTS: dict[str, Any] = {
    "stage": "tiles", "params": {"a": 1, "b": [1, 2]}, "inputs": {"x": "0", "y": "1"}, "seed": 3, "version": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "samples"},
        {"params": {"a": 1, "b": [2, 1]}},
        {"params": {"a": 1}},
        {"inputs": {"x": "1", "y": "0"}},
        {"inputs": {"x": "0", "z": "1"}},
        {"seed": 4},
        {"seed": None},
        {"version": 2},
    ],
)
def test_each_part_changes_the_hash(changes: dict[str, Any]) -> None:
    assert make_identity(**ARGUMENTS | changes)["sha256"] != make_identity(**ARGUMENTS)["sha256"]


def test_order_of_keys_changes_nothing() -> None:
    turned = {"params": {"b": [1, 2], "a": 1}, "inputs": {"y": "1", "x": "0"}}
    assert make_identity(**ARGUMENTS | turned) == make_identity(**ARGUMENTS)


def test_source_of_a_sub_folder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "__file__", str(tmp_path / "identity.py"))
    deep = tmp_path / "stage" / "deep" / "code.py"
    deep.parent.mkdir(parents=True)
    (tmp_path / "stage" / "a.py").write_text("x = 1\n")
    deep.write_text("y = 1\n")
    first = source_hash("stage")
    assert source_hash("stage") == first
    deep.write_text("y = 2\n")
    assert source_hash("stage") != first
