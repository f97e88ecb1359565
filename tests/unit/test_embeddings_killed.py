"""The embedding stage, killed in its process: no worker is left, and it goes on to the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from test_embeddings import Toy


@pytest.mark.skipif(sys.platform != "linux", reason="worker processes are forked on Linux only")
def test_kill_9_leaves_no_worker_and_resumes(tmp_path: Path, repo: Path) -> None:
    toy = Toy(tmp_path, n=40)
    whole = toy.embed("whole.h5").read_bytes()
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, time
            sys.path[:0] = [{", ".join(repr(str(repo / name)) for name in ("workflow/src", "tests/unit", "tests"))}]
            from pathlib import Path
            import test_embeddings as t
            from histoloom.embeddings.stain_texture import StainTexture
            encode, calls = StainTexture.encode, []
            def slow(*arguments):
                calls.append(1)
                if len(calls) == 3:
                    print("third", flush=True)
                    time.sleep(60)
                return encode(*arguments)
            StainTexture.encode = slow
            toy = t.Toy.__new__(t.Toy)
            toy.folder, toy.names = Path({str(tmp_path)!r}), ("S1", "S2", "S3")
            toy.embed("broken.h5", threads=2)
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "third\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(children) == 2
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(_alive(int(pid)) for pid in children):
        time.sleep(0.2)
    assert not any(_alive(int(pid)) for pid in children)
    # Batches of 32: the second ends within S2, whose beginning stays under a temporary name.
    assert [p.name.split(".")[0] for p in (tmp_path / "scratch").glob("*.npy")] == ["S1"]
    assert toy.embed("broken.h5").read_bytes() == whole
    assert json.loads((tmp_path / "broken.h5.eff.json").read_text())["items_resumed"] == 40


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
