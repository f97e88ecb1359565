"""Fetching: a loopback server that misbehaves as real ones do, and a mirror."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.jobs import job
from histoloom.sources import registry_entry
from histoloom.sources.fetch import check_magic_bytes, digest_of, fetch_file
from histoloom.sources.registry import load_registry

BODY = bytes(range(256)) * 4000
Answer = Callable[[BaseHTTPRequestHandler, int], None]


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def start_of(handler: BaseHTTPRequestHandler) -> int:
    return int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


def whole(handler: BaseHTTPRequestHandler, _: int) -> None:
    start = start_of(handler)
    if start:
        send(handler, 206, BODY[start:], Content_Range=f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
    else:
        send(handler, 200, BODY)


class Server:
    """Answers the n-th request with the n-th answer, the last one for ever; notes what was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [whole]
        self.requests: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number = len(outer.requests)
                outer.requests.append(dict(self.headers))
                outer.answers[min(number, len(outer.answers) - 1)](self, number)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/data/a.bin"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def entry(url: str) -> dict[str, str]:
    return {
        "file": "data/a.bin",
        "source": "src",
        "url": url,
        "bytes": str(len(BODY)),
        "git_blob_sha1": hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest(),
        "licence": "CC BY 4.0",
        "citation": "10.1/x",
    }


def fetch(server: Server, out: Path, **options: object) -> None:
    fetch_file(entry=entry(server.url), mirror=None, out=out, backoff_s=0.01, **options)  # type: ignore[arg-type]


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_checksum_is_gits_own(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(BODY)
    try:
        found = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("no git")
    assert digest_of(path, "git_blob_sha1") == found.stdout.strip()


def test_download(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert left(tmp_path) == ["a.bin"]
    assert server.requests[0]["User-Agent"].startswith("histoloom/")


def test_a_cut_connection_is_taken_up_where_it_ended(server: Server, tmp_path: Path) -> None:
    def cut(handler: BaseHTTPRequestHandler, _: int) -> None:
        send(handler, 200, BODY[:300_000], length=len(BODY))

    server.answers = [cut, whole]
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert "Range" not in server.requests[0]
    start = int(server.requests[1]["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 300_000
    assert left(tmp_path) == ["a.bin"]


def test_a_later_run_takes_up_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    def cut(handler: BaseHTTPRequestHandler, _: int) -> None:
        send(handler, 200, BODY[:300_000], length=len(BODY))

    def gone(handler: BaseHTTPRequestHandler, _: int) -> None:
        send(handler, 503, b"")

    server.answers = [cut, gone]
    with pytest.raises(InputError, check=has_code("host-fault")):
        fetch(server, tmp_path / ".a.1.part.bin", tries=2)
    server.answers = [whole]
    fetch(server, tmp_path / ".a.2.part.bin")
    assert int(server.requests[-1]["Range"][6:-1]) > 0
    assert (tmp_path / ".a.2.part.bin").read_bytes() == BODY


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    def cut(handler: BaseHTTPRequestHandler, _: int) -> None:
        send(handler, 200, BODY[:300_000], length=len(BODY))

    def all_of_it(handler: BaseHTTPRequestHandler, _: int) -> None:
        send(handler, 200, BODY)

    server.answers = [cut, all_of_it]
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_stale_part_is_thrown_away_once(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{entry('')['git_blob_sha1'][:20]}.download").write_bytes(b"x" * 1000)
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert [r.get("Range") for r in server.requests] == ["bytes=1000-", None]


def test_a_finished_part_needs_no_request(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{entry('')['git_blob_sha1'][:20]}.download").write_bytes(BODY)
    fetch(server, tmp_path / "a.bin")
    assert server.requests == []


def test_wrong_bytes_stop_at_once_and_leave_nothing(server: Server, tmp_path: Path) -> None:
    server.answers = [lambda handler, _: send(handler, 200, b"y" + BODY[1:])]
    with pytest.raises(InputError, check=has_code("other-bytes")):
        fetch(server, tmp_path / "a.bin")
    assert len(server.requests) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_asked_again(server: Server, tmp_path: Path, status: int) -> None:
    server.answers = [lambda handler, _: send(handler, status, b"<html>no</html>")]
    with pytest.raises(InputError, check=has_code("refused")) as caught:
        fetch(server, tmp_path / "a.bin")
    assert server.url in str(caught.value)
    assert "mirror_dir" in caught.value.remedy
    assert len(server.requests) == 1
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_fault_is_tried_again(server: Server, tmp_path: Path, status: int) -> None:
    server.answers = [lambda handler, _: send(handler, status, b"busy")] * 2 + [whole]
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert len(server.requests) == 3


def test_a_fault_that_stays_ends_with_its_name(server: Server, tmp_path: Path) -> None:
    server.answers = [lambda handler, _: send(handler, 500, b"broken")]
    with pytest.raises(InputError, check=has_code("host-fault")) as caught:
        fetch(server, tmp_path / "a.bin", tries=3)
    assert "500" in caught.value.problem
    assert len(server.requests) == 3


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>sorry</html>", b'{"error": "later"}'])
def test_a_page_with_status_200_is_no_file(server: Server, tmp_path: Path, page: bytes) -> None:
    server.answers = [lambda handler, _: send(handler, 200, page)]
    with pytest.raises(InputError, check=has_code("other-bytes")):
        fetch(server, tmp_path / "a.bin", tries=2)
    assert left(tmp_path) == []
    server.requests.clear()
    server.answers = [lambda handler, _: send(handler, 200, page), whole]
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize(
    ("name", "body", "complaint"),
    [
        ("a.geojson", b'{"type": "FeatureCollection", "features": []}', None),
        ("a.xml", b'<?xml version="1.0"?><OME/>', None),
        ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', None),
        ("a.svg", b"\xef\xbb\xbf<!DOCTYPE svg PUBLIC '-'><svg/>", None),
        ("a.xml", b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "a web page"),
        ("a.svg", b"<!DOCTYPE html><html/>", "a web page"),
        ("a.tsv", b'{"error": "later"}', "a JSON message"),
        ("a.geojson", b"", "empty"),
    ],
)
def test_data_that_looks_like_a_message(tmp_path: Path, name: str, body: bytes, complaint: str | None) -> None:
    (tmp_path / name).write_bytes(body)
    problem = check_magic_bytes(tmp_path / name, name)
    assert problem is None if complaint is None else complaint in str(problem)


def test_no_server_ends_with_a_clear_error(tmp_path: Path, server: Server) -> None:
    dead = entry("http://127.0.0.1:9/data/a.bin")
    with pytest.raises(InputError, check=has_code("host-fault")):
        fetch_file(entry=dead, mirror=None, out=tmp_path / "a.bin", tries=2, backoff_s=0.01)


def mirrored(tmp_path: Path, body: bytes = BODY) -> Path:
    path = tmp_path / "mirror" / "src" / "data" / "a.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(body)
    return path


def test_mirror_gives_a_link_that_survives_the_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = mirrored(tmp_path)
    monkeypatch.chdir(tmp_path)
    final = tmp_path / "results" / "deep" / "a.bin"
    with job(tmp_path / "log", {"file": final}) as out:
        fetch_file(entry=entry("http://nowhere.invalid/a"), mirror=Path("mirror"), out=out["file"])
    assert final.is_symlink()
    assert final.readlink() == original
    assert final.read_bytes() == BODY


def test_mirror_without_the_file_says_what_to_copy_where(tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("mirror-missing")) as caught:
        fetch_file(entry=entry("http://host/a.bin"), mirror=tmp_path, out=tmp_path / "a.bin")
    assert str(tmp_path / "src" / "data" / "a.bin") in str(caught.value)
    assert "http://host/a.bin" in str(caught.value)


def test_mirror_with_another_file_stops(tmp_path: Path) -> None:
    mirrored(tmp_path, BODY[:-1] + b"!")
    with pytest.raises(InputError, check=has_code("mirror-bytes")):
        fetch_file(entry=entry("http://host/a.bin"), mirror=tmp_path / "mirror", out=tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_her2st_list_has_every_section_once(repo: Path) -> None:
    files = load_registry(repo / "resources" / "files" / "her2st.tsv")
    kinds = {
        kind: [f for f in files if f.startswith(kind)] for kind in ("data/ST-cnts", "data/ST-spotf", "data/ST-imgs")
    }
    assert {kind: len(names) for kind, names in kinds.items()} == dict.fromkeys(kinds, 36)
    # Sum of the published sizes of the 36 slides.
    assert sum(int(files[f]["bytes"]) for f in kinds["data/ST-imgs"]) == 339_662_939
    assert all(len(e["git_blob_sha1"]) == 40 and e["source"] == "her2st" for e in files.values())
    assert all(e["url"].endswith(f"/85df7411b987a7dec3feff9718b869a7a82091ec/{f}") for f, e in files.items())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("file\turl\na\tu\n", "schema-missing-key"),
        ("file\turl\tlicence\tcitation\tmd5\na\tu\tl\tc\t1\na\tu\tl\tc\t1\n", "files-twice"),
        ("file\turl\tlicence\tcitation\tmd5\na\tu\tl\tc\t\n", "files-checksum"),
        ("file\turl\tlicence\tcitation\tmd5\n../a\tu\tl\tc\t1\n", "schema-value"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(text)
    with pytest.raises(InputError, check=has_code(code)):
        load_registry(path)


def test_one_entry_by_name() -> None:
    found = registry_entry("her2st", "data/ST-cnts/B4.tsv.gz")
    assert (found["source"], found["bytes"]) == ("her2st", "563881")
    with pytest.raises(InputError, check=has_code("files-unlisted")) as caught:
        registry_entry("her2st", "data/ST-cnts/B4.tsv")
    assert "Did you mean 'data/ST-cnts/B4.tsv.gz'" in caught.value.problem
    with pytest.raises(InputError, check=has_code("files-missing")):
        registry_entry("nosuch", "a")
