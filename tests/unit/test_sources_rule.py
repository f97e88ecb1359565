"""The real rule: a her2st file from a loopback copy of its host, cut twice, then verified against git's own checksum."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from histoloom.sources.verify import git_blob_sha1
from loopback import running_site, send_file

FILE = "data/ST-cnts/B4.tsv.gz"
HOST = "https://raw.githubusercontent.com"

pytestmark = [pytest.mark.workflow, pytest.mark.real]


def test_a_section_through_the_rule_cut_twice(repo: Path, real_data: Path, tmp_path: Path) -> None:
    house = tmp_path / "house"
    for part in ("workflow", "scripts", "resources", "config", "envs", "profiles"):
        shutil.copytree(repo / part, house / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repo / "Snakefile", house / "Snakefile")
    listed = house / "resources" / "files" / "her2st.tsv"
    body = (real_data / "her2st" / FILE).read_bytes()
    with running_site() as site:
        listed.write_text(listed.read_text().replace(HOST, site.host))
        (row,) = [line for line in listed.read_text().splitlines() if line.startswith(f"{FILE}\t")]
        address = row.split("\t")[1]
        path = address.removeprefix(site.host)
        assert address.startswith(site.host)
        site.files[path] = body
        site.script[path] = [lambda handler: send_file(handler, body, cut_after=150_000)] * 2
        target = f"results/sources/her2st/{FILE}"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "snakemake", "--snakefile", str(house / "Snakefile")),
                *("--directory", str(tmp_path / "run"), "--cores", "1", "--quiet", "progress", "--", target),
            ],
            capture_output=True,
            text=True,
            timeout=100,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert [headers.get("Range") for _, headers in site.requests] == [None, "bytes=150000-", "bytes=300000-"]
    fetched = tmp_path / "run" / target
    assert git_blob_sha1(fetched) in row.split("\t")
    assert [p.name for p in fetched.parent.iterdir()] == [fetched.name]
    log = (tmp_path / "run" / "logs" / "sources" / "fetch_file" / "her2st" / f"{FILE}.log").read_text()
    assert log.count("next attempt in") == 2
    assert "checked against the published checksum" in log
