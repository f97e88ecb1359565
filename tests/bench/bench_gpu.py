"""What a GPU gains here: `python tests/bench/bench_gpu.py [encoders] [mlp] [equality] [lease]`, under five minutes in all.

Needs torch, timm, numpy, pandas, pyarrow, h5py, pillow and PyYAML; no network and no weights, which are random.

encoders  tiles/s of three sizes of ViT: the model alone on data that lies on the GPU, a plain timm loop, the engine's
          submit loop from pinned memory, and the whole job from a picture to the h5.
mlp       72 MLPs of width 512 on 1,536 features: the stack against a loop over the models, seconds per epoch.
equality  embeddings of the GPU against those of the CPU, in float32 and in half precision.
lease     a second process while the first holds the only GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import types
from collections import deque
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow" / "src"), str(ROOT / "tests")]

import numpy as np
import torch

# A bare GPU machine may lack these: entries are not validated then, and the slides here are plain pictures.
if find_spec("jsonschema") is None:
    validator = type("Validator", (), {"__init__": lambda self, schema: None, "iter_errors": lambda self, value: []})
    stub = types.SimpleNamespace(Draft202012Validator=validator, ValidationError=ValueError)
    sys.modules["jsonschema"] = stub  # type: ignore[assignment]
if find_spec("openslide") is None:
    plain = types.SimpleNamespace(detect_format=lambda path: None)
    sys.modules["openslide"] = types.SimpleNamespace(OpenSlide=plain)  # type: ignore[assignment]

import histoloom.torch_compat  # noqa: F401
from encoder_specs import full_spec
from histoloom.devices import lease_device
from histoloom.embeddings.cards import EncoderSpec, build_encoder, load_cards

SIZES = {"vit_small": (384, 8192), "vit_base": (768, 6144), "vit_large": (1024, 4096)}
TILES = {"size_px": 224, "um_per_px": "native", "background": {"method": "none"}}


def spec_of(size: str, **changes: Any) -> EncoderSpec:
    """Return the entry of a ViT with random weights."""
    card = {**load_cards()["random_vit_tiny"], "arch": f"{size}_patch16_224", "pooling": "cls", "dtype": "bfloat16"}
    card |= {"arch_kwargs": {"num_classes": 0}, "dim": SIZES[size][0], "name": size}
    card |= {key: changes.pop(key) for key in ("dtype",) if key in changes}
    return full_spec({"card": card, "tiles_spec": TILES, "name": size, **changes})


def rate(work: Callable[[], int]) -> float:
    """Return items per second of a piece of work, warmed up once."""
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    items = work()
    torch.cuda.synchronize()
    return items / (time.perf_counter() - start)


def encoders(device: str) -> None:
    """Print tiles/s, in turns of model alone, plain loop, submit loop and whole job."""
    tiles = np.random.default_rng(0).integers(0, 256, (1024, 224, 224, 3)).astype(np.uint8)
    print(f"{'model':>10} {'batch':>6} {'alone':>8} {'plain':>8} {'engine':>8} {'job':>8} {'compiled':>9}   tiles/s")
    for size, (_, n) in SIZES.items():
        encoder = build_encoder(spec_of(size), threads=8, device=device)
        batch = min(encoder.batch_size, len(tiles))
        starts = [i % (len(tiles) - batch + 1) for i in range(0, n, batch)]
        images = torch.randn(batch, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
        mean, std = encoder._mean, encoder._std

        def forward(images: torch.Tensor, model: Callable[..., torch.Tensor] = encoder.model) -> torch.Tensor:
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
                return model(images)

        def alone(starts: list[int] = starts, images: torch.Tensor = images, forward: Any = forward) -> int:
            for _ in starts:
                forward(images)
            return len(starts) * len(images)

        def plain(starts: list[int] = starts, batch: int = batch, forward: Any = forward, mean: Any = mean, std: Any = std) -> int:  # fmt: skip
            for start in starts:
                pixels = torch.from_numpy(tiles[start : start + batch]).to(device)
                features = forward((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std)
                features.float().cpu().numpy()
            return len(starts) * batch

        pinned = encoder.allocate(tiles.shape)
        pinned[:] = tiles

        def engine(starts: list[int] = starts, batch: int = batch, encoder: Any = encoder, pinned: Any = pinned) -> int:
            under_way: deque[Callable[[], np.ndarray]] = deque()
            for start in starts:
                under_way.append(encoder.submit(pinned[start : start + batch], 0.5))
                if len(under_way) == 2:
                    under_way.popleft()()
            while under_way:
                under_way.popleft()()
            return len(starts) * batch

        rates = [rate(work) for work in (alone, plain, engine)]
        encoder.close()
        del encoder, forward, alone, plain, engine, images
        torch.cuda.empty_cache()
        record = whole_job(size, n, device)
        compiled = whole_job(size, n, device, compile=True)
        row = " ".join(f"{value:8.0f}" for value in (*rates, record["items_per_s"]))
        print(f"{size:>10} {batch:>6} {row} {compiled['items_per_s']:9.0f}", end="   ")
        print(f"job: {100 * record['waited_share']:.0f} % waiting for pixels, peak {record['peak_gpu_mb']:.0f} MB, "
              f"batches of {record['batch_size']}, engine/alone {rates[2] / rates[0]:.2f}", flush=True)  # fmt: skip


def whole_job(size: str, n: int, device: str, **changes: Any) -> dict[str, Any]:
    """Embed tiles of two pictures; return the efficiency record."""
    import h5py
    import pandas as pd
    from PIL import Image

    from histoloom.artefacts import KEY, write_parquet
    from histoloom.embeddings import embed_batch
    from histoloom.identity import canonical_json, make_identity
    from histoloom.tiles.spec import TileSpec

    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = ("S1", "S2")
        for sample in names:
            facts = {"cohort": "c", "sample": sample, "identity": make_identity("samples", {"name": sample}, {})}
            with h5py.File(folder / f"{sample}.h5ad", "w") as handle:
                handle[f"uns/{KEY}"] = canonical_json(facts)
            pixels = rng.integers(0, 256, (256, 256, 3)).astype(np.uint8)
            Image.fromarray(pixels).resize((4096, 4096)).save(folder / f"{sample}.png", compress_level=1)
            centres = rng.uniform(112, 4096 - 112, (n // 2, 2))
            frame = pd.DataFrame({"obs_id": [str(i) for i in range(n // 2)], "x": centres[:, 0], "y": centres[:, 1]})
            tiles_facts = {
                "cohort": "c", "sample": sample, "spec": TileSpec.from_dict(TILES).as_dict(), "size_level0_px": 224.0,
                "um_per_px": 0.5, "identity": make_identity("tiles", {}, {"sample": facts["identity"]["sha256"]}),
            }  # fmt: skip
            write_parquet(frame.assign(kept=True), folder / f"{sample}.parquet", tiles_facts)
        record = folder / "e.json"
        embed_batch(
            cohort="c", batch="b0", samples=[folder / f"{s}.h5ad" for s in names],
            slides=[folder / f"{s}.png" for s in names], tiles=[folder / f"{s}.parquet" for s in names],
            specs=[spec_of(size, **changes)], out=[folder / "e.h5"], efficiency=[record],
            scratch=[folder / "scratch"], threads=8, device=device,
        )  # fmt: skip
        return dict(json.loads(record.read_text()))


def mlp(device: str, models: int = 72, n: int = 13_620, dim: int = 1536, n_types: int = 13, epochs: int = 2) -> None:
    """Print seconds per epoch of the stack and of a loop over stacks of one."""
    import yaml

    from histoloom.inputs.scaling import Scaler
    from histoloom.models.network import MLPSpec
    from histoloom.models.stack import Member, Rows, train_stack

    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "model.mlp.schema.yaml").read_text())
    entry = {key: value["default"] for key, value in schema["properties"].items() if "default" in value}
    spec = MLPSpec.from_json({**entry, "width": 512})
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, dim)).astype(np.float32)
    y = (x[:, :20] @ rng.normal(size=(20, n_types)) + rng.normal(size=(n, n_types))).astype(np.float32)
    scaler = Scaler(np.zeros(dim, np.float32), np.ones(dim, np.float32))
    members = []
    for seed in range(models):
        train = np.sort(rng.permutation(n)[: n * 7 // 8])
        zeros, ones = np.zeros(n_types), np.ones(n_types)
        members.append(Member("f", seed, seed, Rows(train, train, train), None, scaler, zeros, ones, epochs))

    def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
        torch.cuda.synchronize()
        start = time.perf_counter()
        trained = work()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / epochs, trained

    train_stack(x, y, members[:2], spec, device)
    torch.cuda.reset_peak_memory_stats()
    stacked, together = seconds(lambda: train_stack(x, y, members, spec, device))
    peak = torch.cuda.max_memory_allocated() / 2**20
    few = members[:8]
    single, alone = seconds(lambda: [train_stack(x, y, [member], spec, device)[0] for member in few])
    single *= models / len(few)
    apart = max(
        float((a.cpu() - b.cpu()).abs().max())
        for one, other in zip(alone, together, strict=False)
        for (a, _), (b, _) in zip(one.layers, other.layers, strict=True)
    )
    print(f"{models} MLPs of width 512, {n} x {dim} features, batches of {spec.batch_size}, seconds per epoch of all:")
    print(f"  stack {stacked:.2f}, loop over models {single:.2f} (from {len(few)}), ratio {single / stacked:.1f}; "
          f"peak {peak:.0f} MB; weights of the two differ by at most {apart:.1e}")  # fmt: skip


def equality(device: str) -> None:
    """Print how far features of the GPU are from those of the CPU."""
    tiles = np.random.default_rng(0).integers(0, 256, (64, 224, 224, 3)).astype(np.uint8)
    on_cpu = build_encoder(spec_of("vit_small"), threads=8, device="cpu").encode(tiles, 0.5)
    for dtype in ("float32", "bfloat16", "float16"):
        on_gpu = build_encoder(spec_of("vit_small", dtype=dtype, batch_size=32), threads=8, device=device).encode(tiles, 0.5)  # fmt: skip
        norms = np.linalg.norm(on_cpu, axis=1) * np.linalg.norm(on_gpu, axis=1)
        cosine = (on_cpu * on_gpu).sum(1) / norms
        spread = np.abs(on_gpu - on_cpu).max() / on_cpu.std()
        print(
            f"  GPU {dtype} against CPU float32: largest difference {spread:.1e} SD, smallest cosine {cosine.min():.7f}"
        )
    print(
        f"  TF32 in matrix products: {torch.backends.cuda.matmul.allow_tf32}, in cuDNN: {torch.backends.cudnn.allow_tf32}"
    )


def lease() -> None:
    """Print what a second process gets while this one holds a GPU, and afterwards."""
    code = "from histoloom.devices import lease_device\nwith lease_device() as device: print(device)"

    def other() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "workflow" / "src"
        )
        return done.stdout.strip()

    with lease_device() as device:
        print(f"  this process {device}; another one meanwhile {other()}", end="; ")
    print(f"afterwards {other()} (CUDA_VISIBLE_DEVICES with one GPU is shared)")


def main(argv: list[str]) -> None:
    """Run the parts that are named, all by default."""
    parts: dict[str, Callable[[], None]] = {
        "lease": lease,
        "equality": lambda: equality("cuda:0"),
        "mlp": lambda: mlp("cuda:0"),
        "encoders": lambda: encoders("cuda:0"),
    }
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name in argv or parts:
        start = time.perf_counter()
        print(name, flush=True)
        parts[name]()
        print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
