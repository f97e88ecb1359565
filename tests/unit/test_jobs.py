"""Jobs: nothing half-written under a final name, messages in the log, seeds set once."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from histoloom.errors import InputError
from histoloom.jobs import job, paths_by_role


def test_output_appears_only_on_success(tmp_path: Path) -> None:
    final = tmp_path / "results" / "x.txt"
    with job(tmp_path / "log", {"x": final}) as out:
        out["x"].write_text("done")
        assert not final.exists()
        assert out["x"].suffix == ".txt"
    assert final.read_text() == "done"
    assert [p.name for p in final.parent.iterdir()] == ["x.txt"]


def test_sidecar_travels_with_its_output(tmp_path: Path) -> None:
    final = tmp_path / "x.csv"
    with job(tmp_path / "log", {"x": final}) as out:
        out["x"].write_text("a")
        out["x"].with_name(out["x"].name + ".json").write_text("{}")
    assert (tmp_path / "x.csv.json").read_text() == "{}"


def test_failure_keeps_the_old_output_and_leaves_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "x.txt"
    final.write_text("old")
    with pytest.raises(ZeroDivisionError), job(tmp_path / "logs" / "log", {"x": final}) as out:
        out["x"].write_text("half")
        _ = 1 / 0
    assert final.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs", "x.txt"]
    assert "ZeroDivisionError" in (tmp_path / "logs" / "log").read_text()


def test_forgotten_output_is_an_error_and_commits_none(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="second"),
        job(tmp_path / "log", {"first": tmp_path / "a", "second": tmp_path / "b"}) as out,
    ):
        out["first"].write_text("a")
    assert not (tmp_path / "a").exists()


def test_input_error_exits_with_its_message_in_log_and_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), job(tmp_path / "log", {"x": tmp_path / "x"}):
        raise InputError("counts.tsv", "row 3 is negative.", "mend it.")
    message = "counts.tsv: row 3 is negative. Remedy: mend it."
    assert message in (tmp_path / "log").read_text()
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_seed_is_set(tmp_path: Path) -> None:
    draws = []
    for _ in range(2):
        with job(tmp_path / "log", {}, seed=3):
            draws.append((random.random(), np.random.rand()))  # noqa: NPY002
    assert draws[0] == draws[1]


def test_paths_by_role() -> None:
    items = [("embeddings_a", "x.h5"), ("embeddings_b", ["y.h5", "z.h5"]), ("model", "m.pt")]
    assert paths_by_role(items, "embeddings_") == {"a": [Path("x.h5")], "b": [Path("y.h5"), Path("z.h5")]}
