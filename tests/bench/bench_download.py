"""Throughput of a download from 127.0.0.1 against curl's; goal: at least 0.8 of it.

    python tests/bench/bench_download.py [MB] [rounds]

Two comparisons, the best of some rounds each: the transfer alone against ``curl``, and the whole fetch (transfer, check,
rename) against ``curl`` and ``sha256sum`` one after the other.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "src"))

from histoloom.sources.fetch import fetch_file
from histoloom.sources.transfer import Download, bring
from histoloom.sources.web import Web


def serve(path: str) -> None:
    """Give one file for ever, from the kernel's cache straight into the socket; the port goes to stdout."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = os.path.getsize(path)
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.flush()
            with open(path, "rb") as handle:
                sent = 0
                while sent < size:
                    sent += os.sendfile(self.connection.fileno(), handle.fileno(), sent, size - sent)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def best(action: Callable[[], None], out: Path, rounds: int) -> float:
    """Return the shortest time (s) of some rounds, each into a new file."""
    times = []
    for _ in range(rounds):
        out.unlink(missing_ok=True)
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def main(megabytes: int, rounds: int) -> None:
    """Print the table."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "source.bin", Path(folder) / "out.bin"
        block = hashlib.shake_256(b"bench").digest(1 << 20)
        with source.open("wb") as handle:
            for _ in range(megabytes):
                handle.write(block)
        size = source.stat().st_size
        with source.open("rb") as handle:
            sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        server = subprocess.Popen([sys.executable, __file__, "--serve", str(source)], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}/file.bin"
            entry = {
                "file": "file.bin",
                "source": "bench",
                "url": url,
                "bytes": str(size),
                "sha256": sha256,
                "licence": "-",
                "citation": "-",
            }

            def transfer() -> None:
                with Web() as web:
                    bring(web, Download(url, {"bytes": str(size)}), out, "file.bin")

            def curl() -> None:
                subprocess.run(["curl", "-sS", "--noproxy", "*", "-o", out, url], check=True)

            def curl_and_check() -> None:
                curl()
                subprocess.run(["sha256sum", out], check=True, stdout=subprocess.DEVNULL)

            rows = {
                "transfer": (transfer, curl),
                "fetch with check": (lambda: fetch_file(entry=entry, mirror=None, out=out), curl_and_check),
            }
            for name, (ours, theirs) in rows.items():
                # In turns, so that both meet the same state of the machine.
                mine, other = zip(*((best(ours, out, 1), best(theirs, out, 1)) for _ in range(rounds)), strict=True)
                a, b = size / min(mine) / 1e6, size / min(other) / 1e6
                print(f"{name:18s} histoloom {a:7.0f} MB/s   curl {b:7.0f} MB/s   ratio {a / b:.2f}")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
