"""Encoders' speed in this run: `python tests/bench/bench_embeddings.py [--threads N] [--device cpu|cuda] [--cards a,b]`.

Prints tiles/s. stain_texture: one core, and its ratio to 80 tiles/s; its scaling over workers. End to end: slide to
artefact, against encoding alone. timm: the encoder with its transform and transfers, against the bare model on a ready
batch, same run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[i] / p) for i, p in ((2, "workflow/src"), (1, "unit"))]

from histoloom.embeddings.cards import build_encoder, full_spec, load_cards
from histoloom.embeddings.stain_texture import StainTexture

WANTED = 80.0


def tissue(n: int, size: int = 224) -> np.ndarray:
    """Make tiles that look enough like tissue: dark nuclei of random size on pink."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    tiles = np.empty((n, size, size, 3), np.uint8)
    for tile in tiles:
        mask = np.zeros((size, size), bool)
        for cx, cy, r in zip(*rng.uniform(0, size, (2, 60)), rng.uniform(3, 9, 60), strict=True):
            mask |= (x - cx) ** 2 + (y - cy) ** 2 < r * r
        noise = rng.normal(0, 12, (size, size, 1))
        tile[:] = np.clip(np.where(mask[..., None], (90, 60, 140), (225, 170, 205)) + noise, 0, 255)
    return tiles


def rate(work: Callable[[], Any], tiles: int, rounds: int = 4, clock: Callable[[], float] = time.perf_counter) -> float:
    work()
    best = float("inf")
    for _ in range(rounds):
        start = clock()
        work()
        best = min(best, clock() - start)
    return tiles / best


def stain(threads: int) -> None:
    tiles = tissue(96)
    one = StainTexture({})
    single = rate(lambda: one.encode(tiles, 0.69), len(tiles))
    per_core = rate(lambda: one.encode(tiles, 0.69), len(tiles), clock=time.process_time)
    print(
        f"stain_texture, 224 px: {per_core:.0f} tiles per second of one core, ratio to {WANTED:.0f}/s {per_core / WANTED:.2f}"
    )
    print(f"  {single:.0f} tiles/s by the clock on the wall (a busy machine shares its cores)")
    if threads > 1:
        pool = StainTexture({}, threads=threads)
        many = rate(lambda: pool.encode(tiles, 0.69), len(tiles))
        pool.close()
        print(f"stain_texture, {threads} workers: {many:.0f} tiles/s, {many / single:.2f} times one")


def timm_card(name: str, threads: int, device: str, batch: int) -> None:
    import torch

    spec = full_spec(
        {"card": load_cards()[name], "tiles_spec": {}, "name": name, "weights": "random", "batch_size": batch}
    )
    encoder: Any = build_encoder(spec, threads=threads, device=device)
    n = batch * (8 if encoder.device != "cpu" else 1)
    tiles = np.random.default_rng(0).integers(0, 256, (n, 224, 224, 3)).astype(np.uint8)
    ours = rate(lambda: encoder.encode(tiles, 0.5), n)
    ready = encoder._transform(torch.from_numpy(tiles[:batch]).to(encoder.device))
    precision = getattr(torch, encoder.precision)

    def bare() -> None:
        with torch.inference_mode(), torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
            for _ in range(n // batch):
                encoder._pooled(ready)
        if encoder.device != "cpu":
            torch.cuda.synchronize()

    base = rate(bare, n)
    print(
        f"{name}, {encoder.device}, {encoder.precision}, batch {batch}: {ours:.0f} tiles/s, bare model {base:.0f}/s, "
        f"ratio {ours / base:.2f}"
    )


def end_to_end(threads: int) -> None:
    from test_embeddings import Toy

    from histoloom.embeddings.artefact import read_embeddings

    with tempfile.TemporaryDirectory() as folder:
        toy = Toy(Path(folder), ("S1", "S2"), n=150)
        start = time.perf_counter()
        path = toy.embed(threads=threads)
        whole = time.perf_counter() - start
        found = read_embeddings([path])
        rows = np.random.default_rng(0).integers(60, 250, (len(found.obs_id), 32, 32, 3)).astype(np.uint8)
        encoder = StainTexture({}, threads=threads)
        alone = rate(lambda: encoder.encode(rows, 0.5), len(rows))
        encoder.close()
    done = len(found.obs_id) / whole
    print(f"end to end, 2 small sections of 32 px tiles, start-up included: {done:.0f} tiles/s,")
    print(f"  encoding alone {alone:.0f}/s, ratio {done / alone:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cards", default="random_vit_tiny")
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    stain(options.threads)
    end_to_end(options.threads)
    for name in filter(None, options.cards.split(",")):
        timm_card(name, options.threads, options.device, options.batch)


if __name__ == "__main__":
    main()
