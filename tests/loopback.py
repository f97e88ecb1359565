"""A server on 127.0.0.1 that plays publishers' hosts, and misbehaves on demand as real ones do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Answer = Callable[[BaseHTTPRequestHandler], None]


def send(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    length: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answer; a `length` beyond the body's is a connection that is cut."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
    handler.close_connection = True


def asked_range(handler: BaseHTTPRequestHandler, size: int) -> tuple[int, int] | None:
    """The range of a request as (first, end); None without one. A suffix counts from the end."""
    text = handler.headers.get("Range")
    if not text:
        return None
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def send_file(
    handler: BaseHTTPRequestHandler,
    body: bytes,
    ranges: bool = True,
    cut_after: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Give a file or the range that was asked for; `cut_after` bytes of it the line is cut."""
    asked = asked_range(handler, len(body)) if ranges else None
    first, end = asked or (0, len(body))
    if first >= len(body):
        send(handler, 416, b"")
        return
    part = body[first:end]
    more = dict(headers or {}) | ({"Content-Range": f"bytes {first}-{end - 1}/{len(body)}"} if asked else {})
    sent = part if cut_after is None else part[:cut_after]
    send(handler, 206 if asked else 200, sent, length=len(part), headers=more)


def redirect(url: str) -> Answer:
    """Answer 302 to an address."""
    return lambda handler: send(handler, 302, b"", headers={"Location": url})


def status(number: int, body: bytes = b"no", **headers: str) -> Answer:
    """Answer a status."""
    return lambda handler: send(
        handler, number, body, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


class Site:
    """Files, JSON and scripts by path.

    Attributes
    ----------
    files
        Bytes by path, given with ranges unless `ranges` is False.
    pages
        Object by path, given as JSON.
    script
        Answers by path, used up first, one a request; None stands for the usual answer.
    headers
        Further headers by path.
    requests
        (path with query, headers by Title-Case name) of every request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.pages: dict[str, Any] = {}
        self.script: dict[str, list[Answer | None]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.headers: dict[str, dict[str, str]] = {}
        self.ranges = True
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site._answer(self)

            do_POST = do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.host = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append((handler.path, {name.title(): value for name, value in handler.headers.items()}))
        path = unquote(urlsplit(handler.path).path)
        waiting = self.script.get(path)
        answer = waiting.pop(0) if waiting else None
        if answer is not None:
            answer(handler)
        elif path in self.pages:
            send(handler, 200, json.dumps(self.pages[path]).encode(), headers={"Content-Type": "application/json"})
        elif path in self.files:
            send_file(handler, self.files[path], self.ranges, headers=self.headers.get(path))
        else:
            send(handler, 404, b"<html>not here</html>")

    def paths(self) -> list[str]:
        """What was asked for, without queries."""
        return [unquote(urlsplit(path).path) for path, _ in self.requests]


@contextmanager
def running_site() -> Iterator[Site]:
    """A site for the time of a test."""
    site = Site()
    try:
        yield site
    finally:
        site.http.shutdown()
        site.http.server_close()


def play_hub(
    site: Site, repo: str, files: Mapping[str, bytes], *, kind: str = "datasets", commit: str = "c" * 40
) -> None:
    """Let a site speak as the Hugging Face hub does, for one repository."""
    import hashlib

    base = f"/api/{kind}/{repo}"
    listing = [
        {
            "type": "file",
            "path": name,
            "size": len(body),
            "oid": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest(),
            **(
                {"lfs": {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}}
                if not name.endswith(".json")
                else {}
            ),
        }
        for name, body in files.items()
    ]
    site.pages[f"{base}/revision/main"] = {
        "id": repo,
        "sha": commit,
        "siblings": [{"rfilename": n} for n in files],
        "private": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
    }
    site.pages[f"{base}/revision/{commit}"] = site.pages[f"{base}/revision/main"]
    site.pages[f"{base}/tree/{commit}"] = site.pages[f"{base}/tree/main"] = listing
    for item in listing:
        name = str(item["path"])
        etag = item["lfs"]["oid"] if "lfs" in item else item["oid"]  # type: ignore[index]
        for revision in ("main", commit):
            path = f"/{kind}/{repo}/resolve/{revision}/{name}"
            site.files[path] = files[name]
            site.headers[path] = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
