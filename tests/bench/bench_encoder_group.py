"""A group of encoders in one job against a job each: `python tests/bench/bench_encoder_group.py [--cards a,b,c] [--tiles 512]`.

Prints seconds (weights loaded in both), tiles cut out of slides, and the ratio, in turns so that other load falls on
both; files are compared byte by byte. Weights are random. A cohort as large as her2st through the shapes of UNI and CONCH,
on a GPU: `--cards uni,conch_v1 --sections 36 --tiles 13620 --threads 8 --once`; cut down, on a CPU, the same with
`--tiles 36 --slide-px 1024`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow/src"), str(ROOT / "tests"), str(ROOT / "tests/unit"), str(ROOT / "tests/bench")]

from bench_embedding_engine import world
from test_embeddings import Toy

import histoloom.torch_compat  # noqa: F401
from encoder_specs import full_spec
from histoloom.embeddings import embed_batch, reader
from histoloom.embeddings.cards import load_cards


class Count:
    """How many tiles were cut out of slides."""

    def __init__(self) -> None:
        self.tiles, self.read = 0, reader.read_tiles
        reader.read_tiles = self

    def __call__(self, slide: Any, centres: Any, *arguments: Any, **more: Any) -> Any:
        self.tiles += len(centres)
        return self.read(slide, centres, *arguments, **more)

    def take(self) -> int:
        taken, self.tiles = self.tiles, 0
        return taken


def embed_group(toy: Toy, specs: dict[str, Any], folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """Embed with all encoders in one job."""
    folder.mkdir(exist_ok=True)
    files = {name: folder / f"{name}.h5" for name in specs}
    embed_batch(
        cohort="toy",
        batch="b0",
        samples=toy.paths("h5ad"),
        slides=toy.paths("png"),
        tiles=toy.paths("parquet"),
        specs=[full_spec(spec) for spec in specs.values()],
        out=list(files.values()),
        efficiency=[path.with_suffix(".json") for path in files.values()],
        scratch=[folder / "scratch" / name for name in specs],
        threads=options.threads,
        device=options.device,
    )
    return files


def timed(work: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cards", default="random_vit_tiny,resnet50,stain_texture")
    parser.add_argument("--tiles", type=int, default=256)
    parser.add_argument("--sections", type=int, default=4)
    parser.add_argument("--slide-px", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--once", action="store_true", help="the group only, once: a large cohort")
    options = parser.parse_args()
    tiles = {"size_px": 224, "um_per_px": "native", "background": {"method": "none"}}
    specs: dict[str, Any] = {}
    for name in options.cards.split(","):
        card = load_cards()[name]
        weights = "card" if card["default_weights"] == "none" else "random"
        specs[name] = {"card": card, "tiles_spec": tiles, "name": name, "weights": weights, "upsample": True}
    count = Count()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        toy = world(place, options.tiles, options.sections, tiles, options.slide_px, pyramid=True)
        print(f"{options.sections} sections, {options.tiles} tiles from pyramidal TIFF, {options.threads} threads")
        if options.once:
            seconds, files = timed(lambda: embed_group(toy, specs, place / "group", options))
            record = json.loads(next(iter(files.values())).with_suffix(".json").read_text())
            print(
                f"  {', '.join(specs)} on {record['device']}: {seconds:.1f} s with model load, "
                f"{options.tiles / seconds:.1f} tiles/s; encoding {record['items_per_s']:.1f} tiles/s, waiting for pixels "
                f"{100 * record['waited_share']:.0f} % of it; peak GPU memory {record['peak_gpu_mb']} MB"
            )
            return
        group, apart = [], []
        # What is imported and warmed up at first would fall on whoever comes first.
        embed_group(toy, specs, place / "group", options)
        count.take()
        for _ in range(options.rounds):
            seconds, files = timed(lambda: embed_group(toy, specs, place / "group", options))
            group.append((seconds, count.take()))
            each = {n: timed(lambda n=n: toy.embed(f"{n}.h5", spec=specs[n], threads=options.threads, device=options.device)) for n in specs}  # fmt: skip
            apart.append((sum(s for s, _ in each.values()), count.take()))
            same = [n for n in specs if files[n].read_bytes() == each[n][1].read_bytes()]
            print(
                f"  group {group[-1][0]:.1f} s, {group[-1][1]} tiles read; {len(specs)} jobs {apart[-1][0]:.1f} s, "
                f"{apart[-1][1]} tiles read; {len(same)} of {len(specs)} files equal to the byte"
            )
        ratio = statistics.median(a[0] / j[0] for a, j in zip(apart, group, strict=True))
        print(f"  {', '.join(specs)}: jobs of their own take {ratio:.2f} times the group (median of {options.rounds})")


if __name__ == "__main__":
    main()
