"""The hub over a real socket: a small server on this machine speaks its protocol, the client is the real one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import histoloom.torch_compat  # noqa: F401
from histoloom.embeddings.weights import resolved_revision

torch = pytest.importorskip("torch")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_a_test"
ARCH = {"img_size": 32, "num_classes": 0, "depth": 1, "embed_dim": 12, "num_heads": 3}


class Hub(ThreadingHTTPServer):
    files: dict[str, bytes]
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, *, body: bool) -> None:
        self.server.asked.append(self.path)
        parts = self.path.split("?")[0].strip("/").split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "GatedRepo")
        if len(parts) < 5 or parts[3] not in {"main", COMMIT}:
            return self.refuse(404, "RevisionNotFound")
        content = self.server.files.get("/".join(parts[4:]))
        if content is None:
            return self.refuse(404, "EntryNotFound")
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    import timm

    torch.manual_seed(3)
    torch.save(timm.create_model("vit_tiny_patch16_224", pretrained=False, **ARCH).state_dict(), tmp_path / "w")
    server = Hub(("127.0.0.1", 0), Handler)
    server.files, server.asked = {"pytorch_model.bin": (tmp_path / "w").read_bytes()}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def loads(repo: Path, home: Path, port: int, *asked: tuple[str, str], offline: bool = False) -> list[str]:
    """Build encoders with ``weights: hub`` in a process of their own, one by (token, revision); return what it says."""
    code = f"""
    import os, sys
    sys.path[:0] = [{str(repo / "workflow/src")!r}, {str(repo / "tests")!r}]
    import time
    time.sleep = lambda seconds: None  # the client waits ever longer for a hub that is down
    import numpy as np
    from histoloom.errors import InputError
    from encoder_specs import full_spec
    from histoloom.embeddings.cards import build_encoder, load_cards
    for token, revision in {asked!r}:
        os.environ["HF_TOKEN"] = token
        card = load_cards()["uni"] | {{"arch": "vit_tiny_patch16_224", "arch_kwargs": {ARCH}, "revision": revision}}
        card |= {{"input_px": 32, "dim": 12}}
        try:
            built = build_encoder(full_spec({{"card": card, "tiles_spec": {{}}, "name": "x"}}), threads=1, device="cpu")
        except InputError as error:
            print("InputError", error)
        else:
            print("loaded", built.revision, float(built.encode(np.full((1, 32, 32, 3), 99, np.uint8), 0.5).sum()))
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


def test_a_gated_model_is_fetched_once_and_then_loads_without_hub_or_token(
    repo: Path, tmp_path: Path, hub: Hub
) -> None:
    home, port = tmp_path / "home", hub.server_address[1]
    refused, stranger, gone, online = loads(
        repo, home, port, ("", "main"), ("hf_of_somebody_else", "main"), (TOKEN, "gone"), (TOKEN, "main")
    )
    assert "the hub refused it (401)" in refused
    assert "HF_TOKEN is empty" in refused
    assert "accept the terms at https://huggingface.co/MahmoodLab/UNI" in refused
    assert "HF_TOKEN is set but has no access" in stranger
    assert "no such revision" in gone
    # safetensors are asked for first; the repository has none.
    assert online.startswith(f"loaded {COMMIT}")
    files = [path.rpartition("/")[2] for path in hub.asked]
    assert files.index("model.safetensors") < files.index("pytorch_model.bin")

    hub.shutdown()
    hub.server_close()
    cached, absent = loads(repo, home, port, ("", "main"), ("", "v2"), offline=True)
    assert cached == online
    assert "HF_HUB_OFFLINE is set" in absent
    # A hub that is down must not matter to what is cached.
    cached, absent = loads(repo, home, port, (TOKEN, "main"), (TOKEN, "v2"))
    assert cached == online
    assert "the hub is out of reach" in absent


def test_the_commit_of_a_cached_file_is_what_is_recorded() -> None:
    card = {"name": "x", "revision": "main"}
    inside = Path("hub/models--a--b/snapshots") / COMMIT
    assert resolved_revision(card, inside / "model.safetensors") == COMMIT
    assert resolved_revision(card, inside / "folder" / "model.pth") == COMMIT
    assert resolved_revision(card, Path("elsewhere/model.pth")) == "main"
    assert resolved_revision(card, Path("snapshots/latest/model.pth")) == "main"
