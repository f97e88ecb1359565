"""Encoders' speed in this run: `python tests/bench/bench_embeddings.py [--device cpu|cuda] [--cards a,b]`.

Prints tiles/s. stain_texture: one core, and its ratio to 80 tiles/s; its scaling over workers. End to end: slide to
artefact, against encoding alone. timm: the model on a ready batch, and with transform and transfers, against timm's own
benchmark at the best of its settings (its loop is restated here: the wheel does not carry the script), in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[i] / p) for i, p in ((2, "workflow/src"), (1, "."), (1, "unit"))]

from encoder_specs import full_spec
from histoloom.embeddings.cards import build_encoder, load_cards
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


def timms_own(card: dict[str, Any], batch: int, device: str, rounds: int, **how: Any) -> float:
    """Return images/s as timm's benchmark.py measures them (InferenceBenchmarkRunner); the wheel does not carry it.

    A ready batch of noise on the device, no gradients, warm-up, every step waited for, images over the seconds of all.
    """
    import timm
    import torch

    amp, dtype = how.get("amp"), how.get("dtype", torch.float32)
    layout = torch.channels_last if how.get("channels_last") else torch.contiguous_format
    model = timm.create_model(card["arch"], pretrained=False, **card["arch_kwargs"])
    model = model.eval().to(device=device, dtype=dtype, memory_format=layout)
    if how.get("compile"):
        model = torch.compile(model)
    px = card["input_px"]
    images = torch.randn((batch, 3, px, px), device=device, dtype=dtype).contiguous(memory_format=layout)

    def wait() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def step() -> None:
        with torch.autocast(device.split(":")[0], dtype=amp or torch.bfloat16, enabled=amp is not None):
            model(images)
        wait()

    with torch.no_grad():
        for _ in range(max(1, rounds // 5)):
            step()
        started = wait()
        for _ in range(rounds):
            step()
        return rounds * batch / (wait() - started)


def settings_of(device: str, compiled: bool) -> dict[str, dict[str, Any]]:
    """Return the settings that timm's benchmark is tried with."""
    import torch

    if not device.startswith("cuda"):
        # What our encoders compute in on a CPU: half precision there is another product.
        return {"float32": {}, "float32, channels last": {"channels_last": True}}
    found: dict[str, dict[str, Any]] = {}
    for last in (False, True):
        tail = ", channels last" if last else ""
        found[f"amp bfloat16{tail}"] = {"amp": torch.bfloat16, "channels_last": last}
        found[f"bfloat16{tail}"] = {"dtype": torch.bfloat16, "channels_last": last}
    if compiled:
        found |= {f"{name}, compiled": {**how, "compile": True} for name, how in list(found.items())}
    return found


def timm_card(name: str, options: argparse.Namespace) -> None:
    """Print our rates next to timm's own, measured in turns."""
    import torch

    card, rounds = load_cards()[name], options.rounds
    entry = {"card": card, "tiles_spec": {}, "name": name, "weights": "random", "batch_size": options.batch}
    encoder: Any = build_encoder(
        full_spec(entry | {"compile": options.compile}), threads=options.threads, device=options.device
    )
    batch, device, px = encoder.batch_size, encoder.device, card["input_px"]
    n = batch * (8 if encoder.on_gpu else 1)
    tiles = np.random.default_rng(0).integers(0, 256, (n, px, px, 3)).astype(np.uint8)
    ready = encoder._transform(torch.from_numpy(tiles[:batch]).to(device))
    precision = getattr(torch, encoder.precision)

    def alone() -> float:
        def work() -> None:
            with torch.inference_mode(), torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
                for _ in range(rounds):
                    encoder._forward(ready)
            if encoder.on_gpu:
                torch.cuda.synchronize()

        return rate(work, batch * rounds, 1)

    settings, ours, whole = settings_of(device, options.compile), [], []
    theirs: dict[str, list[float]] = {how: [] for how in settings}
    for _ in range(options.turns):
        ours.append(alone())
        whole.append(rate(lambda: encoder.encode(tiles, 0.5), n, max(1, rounds // 2)))
        for how, arguments in settings.items():
            theirs[how].append(timms_own(card, batch, device, rounds, **arguments))
    best = max(theirs, key=lambda how: statistics.median(theirs[how]))
    pairs = [mine / other for mine, other in zip(ours, theirs[best], strict=True)]
    print(
        f"{name}, {device}, {encoder.precision}, batch {batch}, {options.turns} turns: model alone "
        f"{statistics.median(ours):.1f} images/s, with transform and copies {statistics.median(whole):.1f}"
    )
    for how, rates in theirs.items():
        print(f"  timm's own measurement, {how}: {statistics.median(rates):.1f} images/s")
    print(
        f"  ratio to timm's best ({best}): model alone {statistics.median(pairs):.2f} "
        f"({min(pairs):.2f} to {max(pairs):.2f}); with transform and copies "
        f"{statistics.median(whole) / statistics.median(theirs[best]):.2f}"
    )


def end_to_end(threads: int) -> None:
    from test_embeddings import Toy

    from histoloom.embeddings.artefact import open_embeddings

    with tempfile.TemporaryDirectory() as folder:
        toy = Toy(Path(folder), ("S1", "S2"), n=150)
        start = time.perf_counter()
        path = toy.embed(threads=threads)
        whole = time.perf_counter() - start
        found = open_embeddings([path])
        rows = np.random.default_rng(0).integers(60, 250, (len(found), 32, 32, 3)).astype(np.uint8)
        encoder = StainTexture({}, threads=threads)
        alone = rate(lambda: encoder.encode(rows, 0.5), len(rows))
        encoder.close()
    done = len(found) / whole
    print(f"end to end, 2 small sections of 32 px tiles, start-up included: {done:.0f} tiles/s,")
    print(f"  encoding alone {alone:.0f}/s, ratio {done / alone:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cards", default="random_vit_tiny")
    parser.add_argument("--batch", type=lambda text: text if text == "auto" else int(text), default="auto")
    parser.add_argument("--rounds", type=int, default=10, help="steps of a measurement; timm's own default is 50")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only-cards", action="store_true")
    options = parser.parse_args()
    if not options.only_cards:
        stain(options.threads)
        end_to_end(options.threads)
    for name in filter(None, options.cards.split(",")):
        timm_card(name, options)


if __name__ == "__main__":
    main()
