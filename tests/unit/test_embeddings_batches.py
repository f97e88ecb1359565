"""Batches that fit: found by doubling, halved when memory runs out."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_embeddings import TILES, Toy

import histoloom.torch_compat  # noqa: F401
from encoder_specs import full_spec
from error_codes import has_code
from histoloom.embeddings import open_embeddings, run_encoders, torch_encoder
from histoloom.embeddings.cards import build_encoder, load_cards
from histoloom.embeddings.torch_encoder import TimmEncoder
from histoloom.errors import InputError

torch = pytest.importorskip("torch")

CARD = load_cards()["random_vit_tiny"]
CARD |= {"arch_kwargs": {"img_size": 32, "num_classes": 0, "depth": 2, "embed_dim": 24, "num_heads": 3}}
CARD |= {"input_px": 32, "dim": 48}


def encoder(**changes: Any) -> Any:
    return build_encoder(full_spec({"card": CARD, "tiles_spec": {}, "name": "x", **changes}), threads=1, device="cpu")


def tiles(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)


def memory_for(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """A device that holds `most` tiles; returns the sizes tried."""
    run, tried = TimmEncoder._run, []

    def limited(self: Any, part: Any) -> Any:
        tried.append(len(part))
        if len(part) > most:
            raise torch.OutOfMemoryError("no room")
        return run(self, part)

    monkeypatch.setattr(TimmEncoder, "_run", limited)
    return tried


def test_out_of_memory_halves_the_batch_and_loses_no_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = encoder().encode(tiles(50), 0.5)
    tried = memory_for(monkeypatch, 9)
    built = encoder(batch_size=32)
    found = built.encode(tiles(50), 0.5)
    assert tried == [32, 16, 8, 8, 8, 8, 8, 8, 2]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    # What was learnt is kept.
    del tried[:]
    built.encode(tiles(10), 0.5)
    assert tried == [8, 2]


def test_out_of_memory_at_one_tile_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    memory_for(monkeypatch, 0)
    with pytest.raises(InputError, check=has_code("gpu-memory")):
        encoder(batch_size=4).encode(tiles(4), 0.5)


def test_out_of_memory_in_a_job_changes_no_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(tmp_path)
    spec = {"card": CARD, "tiles_spec": TILES, "name": "v", "batch_size": 16}
    whole = open_embeddings([toy.embed("whole.h5", spec=spec)])
    memory_for(monkeypatch, 5)
    small = open_embeddings([toy.embed("small.h5", spec=spec)])
    assert small.obs["obs_id"].tolist() == whole.obs["obs_id"].tolist()
    np.testing.assert_allclose(small.rows(), whole.rows(), atol=1e-5)
    assert small.metadata[0]["identity"] == whole.metadata[0]["identity"]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("batch", [1, 7, 64, "auto"])
def test_a_job_gives_the_same_features_for_any_batch_and_threads(tmp_path: Path, threads: int, batch: Any) -> None:
    toy = Toy(tmp_path, n=9)
    spec = {"card": CARD, "tiles_spec": TILES, "name": "v"}
    first = open_embeddings([toy.embed("a.h5", spec={**spec, "batch_size": 3})])
    other = open_embeddings([toy.embed("b.h5", spec={**spec, "batch_size": batch}, threads=threads)])
    np.testing.assert_allclose(other.rows(), first.rows(), atol=1e-5)
    assert other.obs["sample"].tolist() == first.obs["sample"].tolist()
    torch.set_num_threads(1)


def test_compiled_batches_have_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def compiled(function: Any) -> Any:
        def call(images: Any) -> Any:
            seen.append(tuple(images.shape))
            return function(images)

        return call

    wanted = encoder().encode(tiles(11), 0.5)
    monkeypatch.setattr(torch, "compile", compiled)
    found = encoder(compile=True, batch_size=4).encode(tiles(11), 0.5)
    assert seen == [(4, 3, 32, 32)] * 3
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "device", "tiles", "compiles"),
    [
        ("auto", "cuda:0", 600_000, True),
        ("auto", "cuda:0", 3_000, False),
        ("auto", "cpu", 600_000, False),
        ("auto", "cuda:0", 0, False),
        (True, "cpu", 1, True),
        (False, "cuda:0", 600_000, False),
    ],
)
def test_compiling_is_for_large_jobs_on_a_gpu(asked: Any, device: str, tiles: int, compiles: bool) -> None:
    assert torch_encoder._compiles(asked, device, tiles) is compiles


def test_tiles_travel_on_a_stream_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the arithmetic waits for, and whose memory is not given away before it is done. Told with stand-ins."""
    told: list[Any] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Any) -> None:
            told.append((self.name, "waits for", other.name))

    class Tiles:
        def to(self, device: str, non_blocking: bool) -> Tiles:
            told.append(("copied", non_blocking))
            return self

        def record_stream(self, stream: Any) -> None:
            told.append(("kept for", stream.name))

    @contextlib.contextmanager
    def on(stream: Any) -> Any:
        told.append(("on", stream.name))
        yield
        told.append(("off", stream.name))

    built = encoder()
    built._uploads = Stream("uploads")
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("arithmetic"))
    assert isinstance(built._upload(Tiles()), Tiles)
    assert told == [
        ("on", "uploads"), ("copied", True), ("off", "uploads"), ("arithmetic", "waits for", "uploads"),
        ("kept for", "arithmetic"),
    ]  # fmt: skip


def test_progress_tells_how_busy_a_gpu_is_where_its_driver_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class NotSupportedError(Exception):
        pass

    def refused(device: str) -> int:
        raise NotSupportedError

    caplog.set_level("INFO")
    library = SimpleNamespace(NVMLError=NotSupportedError)
    silent = "waiting for pixels"
    for module, answer, told in (
        (library, lambda device: 97, "GPU 97 % busy"),
        (library, refused, silent),
        (None, lambda device: 97, silent),
    ):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        monkeypatch.setattr(torch.cuda, "utilization", answer)
        run_encoders.Progress("c/b", 4, "cuda:0").add(4)
        assert caplog.messages[-1].endswith(told)
    monkeypatch.undo()
    assert run_encoders.gpu_use("cpu") is None


def test_tiles_of_another_kind_stop() -> None:
    for bad in (tiles(2).astype(np.float32), tiles(2)[..., :1], tiles(2)[0]):
        with pytest.raises(InputError, check=has_code("encoder-tiles-type")):
            encoder().encode(bad, 0.5)
    assert encoder().encode(tiles(0), 0.5).shape == (0, 48)


def test_tiles_too_small_stop_before_weights_are_read(tmp_path: Path) -> None:
    spec = {"card": CARD, "tiles_spec": {"size_px": 31}, "name": "x", "weights": str(tmp_path / "none.bin")}
    with pytest.raises(InputError, check=has_code("encoder-tiles-small")):
        build_encoder(full_spec(spec), threads=1, device="cpu")
