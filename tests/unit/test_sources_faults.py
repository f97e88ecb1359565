"""Faults of lines, servers, disks and lists, each as it happens, on 127.0.0.1."""

from __future__ import annotations

import email.utils
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.jobs import job
from histoloom.sources import registry_entry
from histoloom.sources.fetch import fetch_file
from loopback import Site, redirect, running_site, send, send_file, status

BODY = hashlib.shake_256(b"body").digest(700_000)
PLACES = (0, 1, 2, 4_096, 65_536, 262_144, 262_145, 524_288, len(BODY) - 2, len(BODY) - 1)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_site() as found:
        found.files["/a.bin"] = BODY
        yield found


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited, without waiting."""
    found: list[float] = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


def entry(site: Site, **columns: str) -> dict[str, str]:
    return {
        "file": "a.bin",
        "source": "src",
        "url": f"{site.host}/a.bin",
        "bytes": str(len(BODY)),
        "sha256": hashlib.sha256(BODY).hexdigest(),
        "licence": "CC BY 4.0",
        "citation": "10.1/x",
        **columns,
    }


def fetch(row: dict[str, str], out: Path, **options: Any) -> None:
    fetch_file(entry=row, mirror=None, out=out, **{"tries": 3, "backoff_s": 0.01, **options})


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("place", PLACES)
def test_a_line_cut_anywhere_is_taken_up_there(site: Site, tmp_path: Path, place: int) -> None:
    site.script["/a.bin"] = [lambda handler: send_file(handler, BODY, cut_after=place)]
    fetch(entry(site), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert [headers.get("Range") for _, headers in site.requests] == [None, f"bytes={place}-" if place else None]
    assert left(tmp_path) == ["a"]


def test_cuts_that_bring_something_each_time_are_never_too_many(site: Site, tmp_path: Path) -> None:
    site.script["/a.bin"] = [lambda handler: send_file(handler, BODY, cut_after=60_000)] * 10
    fetch(entry(site), tmp_path / "a", tries=2)
    assert (tmp_path / "a").read_bytes() == BODY
    assert len(site.requests) == 11


@pytest.mark.parametrize("size", [len(BODY) - 10, len(BODY) + 10, 1])
def test_right_bytes_and_a_wrong_published_size(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    fetch(entry(site, bytes=str(size)), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert "correct `bytes`" in caplog.text


def test_a_wrong_published_size_alone_proves_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("other-bytes")):
        fetch(entry(site, bytes="5", sha256="", note="none published"), tmp_path / "a")
    assert left(tmp_path) == []


def test_a_finished_part_with_a_wrong_size_in_the_list(site: Site, tmp_path: Path) -> None:
    row = entry(site, bytes=str(len(BODY) + 10))
    (tmp_path / f".{row['sha256'][:20]}.download").write_bytes(BODY)
    fetch(row, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_redirects_in_a_circle_end_at_once(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    site.script["/a.bin"] = [redirect(f"{site.host}/b")] * 20
    site.script["/b"] = [redirect(f"{site.host}/a.bin")] * 20
    with pytest.raises(InputError, check=has_code("redirects")):
        fetch(entry(site), tmp_path / "a")
    assert len(site.requests) <= 12
    assert pauses == []


@pytest.mark.parametrize("number", [401, 403, 404, 410])
def test_refusals_are_final(site: Site, tmp_path: Path, pauses: list[float], number: int) -> None:
    site.script["/a.bin"] = [status(number)] * 5
    with pytest.raises(InputError, check=has_code("refused")) as caught:
        fetch(entry(site, gate="ask the authors"), tmp_path / "a")
    assert (caught.value.remedy == "ask the authors") == (number in (401, 403))
    assert (len(site.requests), pauses) == (1, [])


def test_429_waits_as_long_as_it_was_asked_to(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    later = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    site.script["/a.bin"] = [status(429, Retry_After="7"), status(429, Retry_After=later), status(500)]
    fetch(entry(site), tmp_path / "a", tries=4)
    assert pauses[0] == 7
    assert 90 < pauses[1] <= 100
    assert pauses[2] < 1
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize(("text", "seconds"), [("soon", []), ("12", [12]), ("99999", [900]), ("-5", [])])
def test_pauses_that_servers_ask_for(
    site: Site, tmp_path: Path, pauses: list[float], text: str, seconds: list[float]
) -> None:
    site.script["/a.bin"] = [status(503, Retry_After=text)]
    fetch(entry(site), tmp_path / "a")
    assert pauses == seconds
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_server_that_says_nothing_is_left_after_the_timeout(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histoloom.sources.web.TIMEOUT_S", (0.3, 0.3))

    def hang(handler: Any) -> None:
        send(handler, 200, BODY[:1000], length=len(BODY))
        handler.wfile.flush()
        handler.close_connection = False
        time.sleep(1)

    site.script["/a.bin"] = [hang]
    fetch(entry(site), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert site.requests[1][1]["Range"] == "bytes=1000-"


def test_without_network_it_says_at_once_what_to_copy_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    wanted = {
        "her2st": ("data/ST-cnts/A1.tsv.gz", "raw.githubusercontent.com"),
        "stnet": ("metadata.csv", "data.mendeley.com"),
        "hest": ("st/TENX95.h5ad", "huggingface.co"),
        "xenium": ("Xenium_Prime_Human_Lung_Cancer_FFPE_outs/cells.parquet", "s3-us-west-2.amazonaws.com"),
        "hbca": ("hbca_all_cells.h5ad", "api.cellxgene.cziscience.com"),
    }
    for source, (file, host) in wanted.items():
        with pytest.raises(InputError, check=has_code("no-network")) as caught:
            fetch(registry_entry(source, file), tmp_path / "a")
        assert host in caught.value.problem
        assert f"<folder>/{source}/{file}" in caught.value.remedy
        assert "mirror_dir" in caught.value.remedy
    assert pauses == []
    assert left(tmp_path) == []


def test_a_network_that_goes_away_on_the_way_may_come_back(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    resolve, lost = socket.getaddrinfo, [0]

    def flicker(*words: Any, **more: Any) -> Any:
        if site.requests and lost[0] < 2:
            lost[0] += 1
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return resolve(*words, **more)

    monkeypatch.setattr(socket, "getaddrinfo", flicker)
    site.script["/a.bin"] = [lambda handler: send_file(handler, BODY, cut_after=100)]
    fetch(entry(site), tmp_path / "a", tries=5)
    assert (tmp_path / "a").read_bytes() == BODY
    assert lost[0] == 2
    assert pauses


def test_a_disk_too_small_is_told_before_the_first_byte(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(InputError, check=has_code("disk-full")):
        fetch(entry(site, mirrors=f"http {site.host}/a.bin"), tmp_path / "a")
    assert site.requests == []


def test_a_disk_that_fills_up_keeps_what_is_there(site: Site, tmp_path: Path) -> None:
    # A limit on the size of files stands for a full disk: the same call fails, half way through.
    code = (
        "import json, resource, sys\n"
        "from pathlib import Path\n"
        "from histoloom.sources.fetch import fetch_file\n"
        "row, out, limit = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "fetch_file(entry=row, mirror=None, out=out)\n"
    )
    row, out = entry(site), tmp_path / "a"
    command = [sys.executable, "-c", code, json.dumps(row), str(out)]
    source = str(Path(__file__).resolve().parents[2] / "workflow" / "src")
    done = subprocess.run(
        [*command, "300000"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": source, "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 1
    assert "is full" in done.stderr
    assert "what was downloaded is kept" in done.stderr
    (part,) = tmp_path.iterdir()
    assert 0 < part.stat().st_size <= 300_000
    kept = part.stat().st_size
    fetch(row, out)
    assert out.read_bytes() == BODY
    assert site.requests[-1][1]["Range"] == f"bytes={kept}-"
    assert left(tmp_path) == ["a"]


def test_a_small_file_system_that_is_really_full(site: Site, tmp_path: Path) -> None:
    """A tmpfs of 400 kB in a name space of its own; what the file system says, not what a limit stands for."""
    space = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*space, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount")
    code = (
        "import json, shutil, sys\n"
        "from pathlib import Path\n"
        "from histoloom.sources.fetch import fetch_file\n"
        # as if others filled the disk after the look at it
        "real = shutil.disk_usage\n"
        "shutil.disk_usage = lambda folder: real(folder)._replace(free=10**9)\n"
        "fetch_file(entry=json.loads(sys.argv[1]), mirror=None, out=Path(sys.argv[2]) / 'a')\n"
    )
    small = tmp_path / "small"
    small.mkdir()
    script = 'mount -t tmpfs -o size=400k tmpfs "$1" && "$2" -c "$3" "$4" "$1"; status=$?; ls -A "$1"; exit $status'
    done = subprocess.run(
        [*space, "sh", "-c", script, "sh", str(small), sys.executable, code, json.dumps(entry(site))],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "workflow" / "src"),
            "NO_PROXY": "127.0.0.1",
            "PATH": os.environ["PATH"],
        },
    )
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "what was downloaded is kept" in done.stderr
    (kept,) = done.stdout.split()
    assert kept.endswith(".download")
    assert len(site.requests) == 1


def _fetch_in_a_process(row: dict[str, str], out: Path) -> None:
    logging.disable()
    fetch_file(entry=row, mirror=None, out=out)


def test_two_processes_take_turns(site: Site, tmp_path: Path) -> None:
    under_way, together = [0], [0]

    def slow(handler: Any) -> None:
        under_way[0] += 1
        together[0] = max(together[0], under_way[0])
        time.sleep(0.4)
        send_file(handler, BODY)
        under_way[0] -= 1

    site.script["/a.bin"] = [slow] * 3
    context = multiprocessing.get_context("spawn")
    outs = [tmp_path / f"out{number}" for number in range(3)]
    workers = [context.Process(target=_fetch_in_a_process, args=(entry(site), out)) for out in outs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [out.read_bytes() == BODY for out in outs] == [True] * 3
    assert together[0] == 1
    assert left(tmp_path) == ["out0", "out1", "out2"]


@pytest.mark.real
def test_a_real_file_through_the_job_cut_twice(site: Site, tmp_path: Path, real_data: Path) -> None:
    """her2st's B4 counts against the name that git gives them."""
    row = registry_entry("her2st", "data/ST-cnts/B4.tsv.gz")
    body = (real_data / "her2st" / row["file"]).read_bytes()
    site.files["/B4"] = body
    site.script["/B4"] = [lambda handler: send_file(handler, body, cut_after=200_000)] * 2
    with job(tmp_path / "log", {"file": tmp_path / "B4.tsv.gz"}) as out:
        fetch_file(entry={**row, "url": f"{site.host}/B4"}, mirror=None, out=out["file"], backoff_s=0.01)
    assert (tmp_path / "B4.tsv.gz").read_bytes() == body
    assert [headers.get("Range") for _, headers in site.requests] == [None, "bytes=200000-", "bytes=400000-"]
    assert "checked against the published checksum" in (tmp_path / "log").read_text()


def test_progress_is_told(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("histoloom.sources.transfer._REPORT_S", 0.0)
    with caplog.at_level(logging.INFO):
        fetch(entry(site), tmp_path / "a")
    assert f"{len(BODY)} of {len(BODY)} bytes, 100 %" in caplog.text
