"""The real rule: a her2st section from a loopback copy of its host, every file cut twice, verified against git's name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from histoloom.sources.fetch import digest_of
from loopback import running_site, send_file

# counts, spots and slide of B4, and where the line is cut
FILES = {
    "data/ST-cnts/B4.tsv.gz": 150_000,
    "data/ST-spotfiles/B4_selection.tsv": 5_000,
    "data/ST-imgs/B/B4/BT10737_D2_HE.jpg": 1_500_000,
}
HOST = "https://raw.githubusercontent.com"

pytestmark = [pytest.mark.workflow, pytest.mark.real]


def test_a_section_through_the_rule_cut_twice(repo: Path, real_data: Path, tmp_path: Path) -> None:
    house = tmp_path / "house"
    for part in ("workflow", "scripts", "resources", "config", "envs", "profiles"):
        shutil.copytree(repo / part, house / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repo / "Snakefile", house / "Snakefile")
    listed = house / "resources" / "files" / "her2st.tsv"
    with running_site() as site:
        listed.write_text(listed.read_text().replace(HOST, site.host))
        rows = {line.split("\t")[0]: line.split("\t") for line in listed.read_text().splitlines()}
        for file, cut in FILES.items():
            path = rows[file][1].removeprefix(site.host)
            body = (real_data / "her2st" / file).read_bytes()
            site.files[path] = body
            site.script[path] = [partial(send_file, body=body, cut_after=cut)] * 2
        targets = [f"results/sources/her2st/{file}" for file in FILES]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "snakemake", "--snakefile", str(house / "Snakefile")),
                *("--directory", str(tmp_path / "run"), "--cores", "1", "--quiet", "progress", "--", *targets),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        for file, cut in FILES.items():
            asked = [h.get("Range") for path, h in site.requests if path == rows[file][1].removeprefix(site.host)]
            assert asked == [None, f"bytes={cut}-", f"bytes={2 * cut}-"], file
    for file, target in zip(FILES, targets, strict=True):
        fetched = tmp_path / "run" / target
        assert digest_of(fetched, "git_blob_sha1") in rows[file]
        assert [p.name for p in fetched.parent.iterdir()] == [fetched.name]
        log = (tmp_path / "run" / "logs" / "sources" / "fetch_file" / "her2st" / f"{file}.log").read_text()
        assert log.count("next attempt in") == 2
        assert "checked against the published checksum" in log
