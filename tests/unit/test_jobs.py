"""Jobs: nothing half-written under a final name, messages in the log, seeds set once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
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
    assert sorted(p.name for p in final.parent.iterdir()) == [".x.txt.sha256", "x.txt"]


def test_sidecar_travels_with_its_output(tmp_path: Path) -> None:
    final = tmp_path / "x.csv"
    with job(tmp_path / "log", {"x": final}) as out:
        out["x"].write_text("a")
        out["x"].with_name(out["x"].name + ".json").write_text("{}")
    assert (tmp_path / "x.csv.json").read_text() == "{}"


def test_failure_keeps_the_old_output_and_leaves_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "x.txt"
    final.write_text("old")
    with pytest.raises(SystemExit, match="1"), job(tmp_path / "logs" / "log", {"x": final}) as out:
        out["x"].write_text("half")
        _ = 1 / 0
    assert final.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs", "x.txt"]
    assert "ZeroDivisionError" in (tmp_path / "logs" / "log").read_text()


def test_forgotten_output_is_an_error_and_commits_none(tmp_path: Path) -> None:
    with (
        pytest.raises(SystemExit, match="1"),
        job(tmp_path / "log", {"first": tmp_path / "a", "second": tmp_path / "b"}) as out,
    ):
        out["first"].write_text("a")
    assert not (tmp_path / "a").exists()
    assert f"output 'second' ({tmp_path / 'b'}) was not written" in (tmp_path / "log").read_text()


def test_input_error_exits_with_its_message_in_log_and_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), job(tmp_path / "log", {"x": tmp_path / "x"}):
        raise InputError("counts.tsv", "row 3 is negative.", "fix it.", "no-counts")
    message = "counts.tsv: row 3 is negative. Remedy: fix it."
    assert message in (tmp_path / "log").read_text()
    err = capsys.readouterr().err
    assert message in err
    assert err.count(message) == 1
    for said in (err, (tmp_path / "log").read_text()):
        assert "Traceback" not in said
    assert "raised in test_jobs:" in (tmp_path / "log").read_text()


def test_seed_is_set(tmp_path: Path) -> None:
    draws = []
    for _ in range(2):
        with job(tmp_path / "log", {}, seed=3):
            draws.append((random.random(), np.random.rand()))  # noqa: NPY002
    assert draws[0] == draws[1]


def test_paths_by_role() -> None:
    items = [("embeddings_a", "x.h5"), ("embeddings_b", ["y.h5", "z.h5"]), ("model", "m.pt")]
    assert paths_by_role(items, "embeddings_") == {"a": [Path("x.h5")], "b": [Path("y.h5"), Path("z.h5")]}


LIBRARY = str(Path(__file__).resolve().parents[2] / "workflow" / "src")
COUNT_THREADS = """
import json, sys, threadpoolctl
def load():
    import numpy, scipy.linalg, torch, numba
    return numpy, torch, numba
if sys.argv[2] == "before":
    load()
from histoloom.jobs import job
with job(sys.argv[1], {}, threads=int(sys.argv[3])):
    numpy, torch, numba = load()
    numpy.ones((50, 50)) @ numpy.ones((50, 50))
    pools = sorted({p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"})
    print(json.dumps({"blas": pools, "torch": torch.get_num_threads(), "numba": numba.get_num_threads()}))
"""


@pytest.mark.parametrize(("loaded", "threads"), [("before", 1), ("later", 1), ("later", 2)])
def test_a_job_s_threads_reach_blas_torch_and_numba(loaded: str, threads: int, tmp_path: Path) -> None:
    """Whether they are loaded before the job begins or by the job itself, which would take four or all."""
    if (os.cpu_count() or 1) < threads:
        pytest.skip("OpenMP takes no more threads than there are cores")
    surroundings = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")} | {"PYTHONPATH": LIBRARY}
    if loaded == "before":
        surroundings |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "4")
    words = [sys.executable, "-c", COUNT_THREADS, str(tmp_path / "log"), loaded, str(threads)]
    done = subprocess.run(words, env=surroundings, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"blas": [threads], "torch": threads, "numba": threads}


FILL_THE_DISK = """
import resource, signal, sys
from histoloom.jobs import job
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with job(sys.argv[1], {"x": sys.argv[2]}) as out:
    out["x"].write_bytes(b"x" * 1_000_000)
"""


def test_a_disk_that_fills_under_a_job_leaves_the_old_output_and_the_system_s_words(tmp_path: Path) -> None:
    final = tmp_path / "results" / "x.bin"
    final.parent.mkdir()
    final.write_text("old")
    words = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "log"), str(final)]
    surroundings = os.environ | {"PYTHONPATH": LIBRARY}
    done = subprocess.run(words, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "File too large" in (tmp_path / "log").read_text()
    assert final.read_text() == "old"
    assert [path.name for path in final.parent.iterdir()] == ["x.bin"]


def test_threads_can_change_once_numba_runs() -> None:
    """One process makes several fits in turn; numba refuses another NUMBA_NUM_THREADS when it next compiles."""
    code = """
import numba, numpy
from histoloom.jobs import set_threads

for threads in (1, 2, 1):
    # A new function each time, so that there is something to compile.
    total = numba.njit(parallel=True)(lambda x: x.sum())
    assert total(numpy.ones(8)) == 8
    set_threads(threads)
"""
    surroundings = {**os.environ, "PYTHONPATH": LIBRARY, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
