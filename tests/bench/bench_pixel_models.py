"""Training images/s of the models on pixels: `python tests/bench/bench_pixel_models.py [n_tiles] [model ...] [--cpu]`.

Each model trains on the same random tiles in two ways in one process: our loop (uint8 tiles on the device, symmetries and
normalisation there, full precision and bf16), and the public codes' way (one PIL image per observation, transforms and
normalisation on the CPU, a loader without workers, float32 batches). Peak GPU memory is torch's, allocated.
`bench_retrieval.py` has the search of the retrieval models, `bench_pixel_inputs.py` what a step waits for its pixels.
"""

from __future__ import annotations

import logging
import sys
import time
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow" / "src")]

import numpy as np
import pandas as pd
import torch

# A bare GPU machine may lack it; nothing is validated here.
if find_spec("jsonschema") is None:
    validator = type("Validator", (), {"__init__": lambda self, schema: None, "iter_errors": lambda self, value: []})
    sys.modules["jsonschema"] = types.SimpleNamespace(  # type: ignore[assignment]
        Draft202012Validator=validator, ValidationError=ValueError
    )

from histoloom.inputs import Inputs
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.models.bleep import BLEEP, BleepSpec
from histoloom.models.cmrcnet import CMRCNet, CmrcnetSpec
from histoloom.models.hist2cell import Hist2CellModel, Hist2CellSpec
from histoloom.models.pixel_training import IMAGENET
from histoloom.models.stnet import STNet, STNetSpec
from histoloom.targets import kind_of

RANDOM = {"weights": "random", "epochs": 1}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "stnet": (STNet, STNetSpec, {**RANDOM, "batch_size": 32, "normalise": "imagenet"}),
    "bleep": (BLEEP, BleepSpec, {**RANDOM, "batch_size": 128}),
    "cmrcnet": (CMRCNet, CmrcnetSpec, {"batch_size": 64, "epochs": 1}),
    "hist2cell": (Hist2CellModel, Hist2CellSpec, {**RANDOM, "batch_size": 16, "graph": "square8"}),
}


def world(n: int, px: int, genes: int) -> tuple[FoldData, np.ndarray]:
    """Return random tiles of one square section with random expression."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, px, px, 3), dtype=np.uint8)
    side = int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(n), side)
    obs = pd.DataFrame({"cohort": "bench", "sample": "S", "patient": "P", "obs_id": np.arange(n).astype(str)})
    obs = obs.assign(array_row=row, array_col=column, pitch_um=200.0)
    inputs = Inputs(obs, {"pixels": lambda rows: pixels[rows]}, np.arange(n), "square8")
    y = rng.random((n, genes)).astype(np.float32)
    codes = np.zeros(n, int)
    part = Part(inputs, y, codes, codes)
    return FoldData("all", part, None, kind_of("expression"), tuple(map(str, range(genes))), seed=0), pixels


def ours(name: str, data: FoldData, device: str, precision: str) -> tuple[float, float]:
    """Return images/s of a second epoch's worth of training and peak GPU memory, MB."""
    model, spec, given = MODELS[name]
    rates = []
    for _ in range(2):  # the first warms up
        job = JobContext(device=device)
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        model(spec.from_json({**given, "precision": precision})).fit(data, job)
        rates.append(float(job.record["examples_per_s"]))
    return rates[1], torch.cuda.max_memory_allocated() / 1e6 if device != "cpu" else float("nan")


def public_way(name: str, data: FoldData, pixels: np.ndarray, device: str, batches: int) -> float:
    """Return images/s of a loop in the way of the public codes; Hist2Cell's batches hold its two-hop nodes."""
    from PIL import Image
    from torchvision import transforms

    model, spec, given = MODELS[name]
    settings = spec.from_json(given)
    task = model.task_type(settings, data, device)
    task.batch_size = settings.batch_size
    task.network.to(device).train()
    optimiser = task.optimiser()
    to_tensor = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(*IMAGENET),
        ]
    )
    generator = torch.Generator().manual_seed(0)
    seen, start = 0, 0.0
    for number, rows in enumerate(task.batches(len(pixels), generator)[: batches + 1]):
        if number == 1:
            if device != "cpu":
                torch.cuda.synchronize()
            seen, start = 0, time.perf_counter()
        images = torch.stack([to_tensor(Image.fromarray(pixels[row])) for row in rows.tolist()])
        loss = task.image_loss(images.to(device), rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()
        seen += len(rows)
    return seen / (time.perf_counter() - start)


def main() -> None:
    """Run all."""
    logging.disable(logging.INFO)
    device = "cpu" if "--cpu" in sys.argv or not torch.cuda.is_available() else "cuda:0"
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    n, px, genes = (numbers or [4096])[0], 224 if device != "cpu" else 64, 1000
    name = torch.cuda.get_device_name() if device != "cpu" else "CPU"
    print(f"{name}, torch {torch.__version__}; {n} tiles of {px} px, {genes} genes; images/s")
    print(f"{'model':>10} {'public way':>11} {'ours fp32':>10} {'MB':>7} {'ours bf16':>10} {'MB':>7}  ratio fp32, bf16")
    words = [word for word in sys.argv[1:] if word in MODELS]
    large, small = world(n, px, genes), world(min(n, 1024), px, 80)
    for model in words or MODELS:
        given, pixels = small if model == "hist2cell" else large
        plain = public_way(model, given, pixels, device, 4)
        full, full_mb = ours(model, given, device, "32-true")
        half, half_mb = ours(model, given, device, "bf16-mixed") if device != "cpu" else (float("nan"), float("nan"))
        print(
            f"{model:>10} {plain:11.0f} {full:10.0f} {full_mb:7.0f} {half:10.0f} {half_mb:7.0f}  "
            f"{full / plain:.1f}, {half / plain:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
