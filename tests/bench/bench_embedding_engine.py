"""The embedding engine end to end: `python tests/bench/bench_embedding_engine.py [--card uni] [--tiles 512] [--memory]`.

Prints ratios of one run: slide to artefact against the model alone on ready batches (plain JPEG and pyramidal TIFF), and
the host's peak memory for 10,000 and 100,000 tiles, each in a process of its own, with an encoder that costs nothing.
Weights are random. On a GPU the bare model runs at its best of several batch sizes, compiled too with --compile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow/src"), str(ROOT / "tests"), str(ROOT / "tests/unit"), str(ROOT / "tests/bench")]

from PIL import Image
from test_embeddings import Toy

import histoloom.torch_compat  # noqa: F401
from encoder_specs import full_spec
from histoloom.embeddings.cards import build_encoder, load_cards
from histoloom.kind_entries import EncoderKind
from histoloom.kinds import ENCODERS


class Free:
    """Costs nothing, gives 1,024 numbers: what is left is the engine's own cost."""

    weights_sha256 = revision = feature_names = None
    device, precision, batch_size, dim, token_grid = "cpu", "float32", 64, 1024, 0

    @classmethod
    def from_spec(cls, spec: Any, *, threads: int, device: str) -> Free:
        return cls()

    def submit(self, tiles: np.ndarray, um_per_px: Any) -> Callable[[], np.ndarray]:
        features = np.repeat(tiles[:, 0, 0, :1].astype(np.float32), self.dim, axis=1)
        return lambda: features

    def allocate(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.empty(shape, np.uint8)

    def close(self) -> None:
        pass


def slide(folder: Path, name: str, size: int, *, pyramid: bool) -> None:
    """Coarse blocks under noise; a JPEG, or a tiled JPEG TIFF with three levels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 230, (size // 32, size // 32, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
    pixels = np.clip(pixels.astype(np.int16) + rng.integers(-20, 20, (size, size, 1)), 0, 255).astype(np.uint8)
    if not pyramid:
        Image.fromarray(pixels).save(folder / f"{name}.png", format="JPEG", quality=85)
        return
    import tifffile

    with tifffile.TiffWriter(folder / f"{name}.png", bigtiff=True) as writer:
        options: dict[str, Any] = {"tile": (256, 256), "compression": "jpeg", "photometric": "rgb"}
        writer.write(pixels, subifds=0, **options)
        for step in (2, 4):
            writer.write(pixels[::step, ::step], subfiletype=1, **options)


def world(folder: Path, tiles: int, sections: int, spec: dict[str, Any], size: int, *, pyramid: bool) -> Toy:
    toy = Toy.__new__(Toy)
    toy.folder, toy.names = folder, tuple(f"S{i}" for i in range(sections))
    rng = np.random.default_rng(1)
    for name in toy.names:
        slide(folder, name, size, pyramid=pyramid)
        toy.write_sample(name, rng.uniform(spec["size_px"], size - spec["size_px"], (tiles // sections, 2)))
        toy.cut(name, spec)
    return toy


def end_to_end(options: argparse.Namespace) -> None:
    import torch

    card = load_cards()[options.card]
    px = card["input_px"] or 224
    spec = {"size_px": px, "um_per_px": "native", "background": {"method": "none"}}
    entry = {"card": card, "tiles_spec": spec, "name": "x", "weights": "random", "batch_size": options.batch}
    entry["compile"] = options.compile
    encoder: Any = build_encoder(full_spec(entry), threads=options.threads, device=options.device)
    tiles = np.random.default_rng(0).integers(0, 256, (encoder.batch_size, px, px, 3)).astype(np.uint8)
    ready = encoder._transform(torch.from_numpy(tiles).to(encoder.device))

    def bare(rounds: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(rounds):
                with torch.autocast(
                    "cuda", dtype=getattr(torch, encoder.precision), enabled=encoder.precision != "float32"
                ):
                    encoder._forward(ready)
        if encoder.on_gpu:
            torch.cuda.synchronize()
        return rounds * len(tiles) / (time.perf_counter() - started)

    bare(1)
    rounds = max(1, options.tiles // encoder.batch_size)
    print(
        f"{options.card} on {encoder.device}, {encoder.precision}, batch {encoder.batch_size}, {options.threads} threads"
    )
    for pyramid in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            toy = world(Path(folder), options.tiles, 4, spec, options.slide_px, pyramid=pyramid)
            rates, alone = [], []
            for _ in range(options.rounds):
                alone.append(bare(rounds))
                path = toy.embed(spec=entry, threads=options.threads, device=options.device)
                record = json.loads(path.with_name("e.h5.eff.json").read_text())
                rates.append(record["items_per_s"])
            name = "pyramidal TIFF" if pyramid else "plain JPEG"
            print(
                f"  {name}: model alone {max(alone):.1f}/s, slide to features {max(rates):.1f}/s, ratio "
                f"{max(rates) / max(alone):.2f}; waited for pixels {100 * record['waited_share']:.0f} % of the time; "
                f"peak GPU memory {record['peak_gpu_mb']} MB"
            )


def peak(tiles: int) -> dict[str, Any]:
    """Embed so many tiles in this process; its record."""
    sys.modules["bench_embedding_engine"] = sys.modules[__name__]
    ENCODERS["free"] = EncoderKind("bench_embedding_engine:Free")
    spec = {"size_px": 64, "um_per_px": "native", "background": {"method": "none"}}
    with tempfile.TemporaryDirectory() as folder:
        toy = world(Path(folder), tiles, 4, spec, 4096, pyramid=False)
        card = {**load_cards()["stain_texture"], "kind": "free", "dim": 1024}
        path = toy.embed(spec={"card": card, "tiles_spec": spec, "name": "x"}, threads=2)
        return dict(json.loads(path.with_name("e.h5.eff.json").read_text()))


def memory() -> None:
    found = {}
    for tiles in (10_000, 100_000):
        command = [sys.executable, __file__, "--peak", str(tiles)]
        found[tiles] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{tiles} tiles: peak {found[tiles]['peak_rss_mb']} MB, {found[tiles]['items_per_s']:.0f} tiles/s")
    ratio = found[100_000]["peak_rss_mb"] / found[10_000]["peak_rss_mb"]
    print(f"  features alone are {100_000 * 4096 / 2**20:.0f} MB of the larger; ratio of the peaks {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--card", default="random_vit_tiny")
    parser.add_argument("--tiles", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slide-px", type=int, default=4096)
    parser.add_argument("--batch", type=lambda text: text if text == "auto" else int(text), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", type=int, default=0)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(options.peak)))
    elif options.memory:
        memory()
    else:
        end_to_end(options)


if __name__ == "__main__":
    main()
