"""What a training step waits for its pixels: `python tests/bench/bench_pixel_inputs.py [n_tiles] [model ...] [--histogene]`.

First images/s of inputs alone, from the packed file and in the way of the public loaders (for every observation a
picture that PIL decodes, its transforms, and a view of the AnnData as a row of genes), on two threads. Then, by model, the
share of a step that reading tiles takes, and reading with symmetries and scaling. ``--histogene``: peak memory of one
training step and of one prediction of a section of 5,000 spots, in the settings of its public code.
"""

from __future__ import annotations

import io
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2] / "workflow" / "src")]

import anndata
import numpy as np
import pandas as pd
import torch
from bench_pixel_models import MODELS, world
from PIL import Image
from scipy.sparse import csr_matrix
from torchvision import transforms

from histoloom.inputs import Inputs
from histoloom.models.base import FoldData, Part
from histoloom.models.histogene import HisToGeneModel, HisToGeneSpec, HisToGeneTask
from histoloom.models.pixel_training import IMAGENET, Preparation, Tiles

PX, BATCH, SPOTS = 224, 64, 5_000
TRANSFORM = transforms.Compose(
    [
        transforms.RandomHorizontalFlip(),
        transforms.RandomVerticalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(*IMAGENET),
    ]
)


def from_disk(data: FoldData, pixels: np.ndarray, folder: Path) -> FoldData:
    """Return the same data with tiles that are mapped from a packed file."""
    np.save(folder / "tiles.npy", pixels)
    packed = np.load(folder / "tiles.npy", mmap_mode="r")
    inputs = Inputs(data.train.inputs.obs, {"pixels": lambda rows: packed[rows]}, np.arange(len(pixels)), "square8")
    part = Part(inputs, data.train.y, data.train.patient, data.train.section)
    return FoldData(data.name, part, None, data.target, data.outputs, seed=0)


def inputs_alone(data: FoldData, pixels: np.ndarray) -> None:
    """Print images/s of both ways; both end with a float32 batch under a random symmetry, and its genes."""
    y, order = data.train.dense, torch.randperm(len(pixels))
    table = anndata.AnnData(csr_matrix(y), obs=pd.DataFrame(index=data.train.inputs.obs["obs_id"].to_numpy()))
    files = []
    for tile in pixels:
        file = io.BytesIO()
        Image.fromarray(tile).save(file, "PNG")
        files.append(file)

    def public(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.stack([TRANSFORM(Image.open(files[row]).convert("RGB")) for row in rows])
        genes = np.stack([table[table.obs_names[row]].to_df().to_numpy()[0] for row in rows])
        return images, torch.from_numpy(genes)

    tiles, preparation, values = Tiles(data.train.inputs, "cpu"), Preparation(*IMAGENET), torch.from_numpy(y)

    def ours(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return preparation(tiles.batch(rows), torch.randint(0, 8, (len(rows),))), values[rows]

    rates = {}
    for name, work in (("public way", lambda rows: public(rows.tolist())), ("packed", ours)):
        work(order[:BATCH])
        batches = order.split(BATCH)[: 4 if name == "public way" else None]
        start = time.perf_counter()
        seen = sum(len(work(rows)[0]) for rows in batches)
        rates[name] = seen / (time.perf_counter() - start)
    ratio = rates["packed"] / rates["public way"]
    print(
        f"inputs of {PX} px, images/s: public way {rates['public way']:.0f}, packed {rates['packed']:.0f}, ratio {ratio:.1f}"
    )


def waiting(name: str, data: FoldData, steps: int = 1) -> None:
    """Print the share of a training step that its pixels take."""
    model, spec, given = MODELS[name]
    settings = spec.from_json(given)
    task = model.task_type(settings, data, "cpu")
    task.batch_size, generator = settings.batch_size, torch.Generator().manual_seed(0)
    optimiser = task.optimiser()
    task.network.train()
    reading = preparing = whole = 0.0
    batches = task.batches(len(data.train), generator) * 2  # HisToGene has one
    for number, rows in enumerate(batches[: steps + 1]):
        start = time.perf_counter()
        task.tiles.batch(rows)
        read = time.perf_counter() - start
        task.preparation(task.tiles.batch(rows), torch.randint(0, 8, (len(rows),)))
        prepared = time.perf_counter() - start - read
        start = time.perf_counter()
        optimiser.zero_grad()
        task.loss(rows, generator).backward()
        optimiser.step()
        if number:  # the first warms up
            reading, preparing, whole = reading + read, preparing + prepared, whole + time.perf_counter() - start
    print(
        f"{name:>10}: {whole / steps:.2f} s a step of {len(rows)} images; reading {100 * reading / whole:.2f} %, "
        f"with symmetries and scaling {100 * preparing / whole:.2f} %",
        flush=True,
    )


def section(kind: str) -> None:
    """Print the peak memory of a section of `SPOTS` spots: one training step, or one prediction."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    side = int(np.ceil(np.sqrt(SPOTS)))
    spec = HisToGeneSpec.from_json({"settings": "as_code", "n_pos": side})
    row, column = np.divmod(np.arange(SPOTS), side)
    obs = pd.DataFrame({"cohort": "bench", "sample": "S", "patient": "P", "obs_id": np.arange(SPOTS).astype(str)})
    with tempfile.TemporaryDirectory() as folder:
        packed = np.lib.format.open_memmap(Path(folder) / "tiles.npy", "w+", np.uint8, (SPOTS, PX, PX, 3))
        readers = {"pixels": lambda rows: np.array(packed[rows])}
        inputs = Inputs(obs.assign(array_row=row, array_col=column), readers, np.arange(SPOTS))
        zeros = np.zeros(SPOTS, int)
        part = Part(inputs, np.random.default_rng(0).random((SPOTS, 785), np.float32), zeros, zeros)
        data = FoldData("all", part, None, world(4, 16, 2)[0].target, tuple(map(str, range(785))), seed=0)
        task = HisToGeneTask(spec, data, "cpu")
        base, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter()
        if kind == "train":
            optimiser = task.optimiser()
            task.network.train()
            task.loss(torch.arange(SPOTS), torch.Generator()).backward()
            optimiser.step()
        else:
            task.predict_inputs(inputs)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    millions = sum(p.numel() for p in task.network.parameters()) / 1e6
    print(
        f"histogene, {millions:.0f} million parameters, {SPOTS} spots, {kind}: {time.perf_counter() - start:.0f} s, "
        f"peak memory {peak:.0f} MB ({base:.0f} MB before)"
    )


def main() -> None:
    """Run all."""
    logging.disable(logging.INFO)
    for kind in ("train", "predict"):
        if f"--section-{kind}" in sys.argv:
            return section(kind)
    if "--histogene" in sys.argv:
        for kind in ("predict", "train"):  # each in a process of its own, whose peak is its own
            subprocess.run([sys.executable, __file__, f"--section-{kind}"], check=True)
        return None
    torch.set_num_threads(2)
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    with tempfile.TemporaryDirectory() as folder:
        data, pixels = world((numbers or [1024])[0], PX, 1000)
        data = from_disk(data, pixels, Path(folder))
        inputs_alone(data, pixels)
        MODELS["histogene"] = (HisToGeneModel, HisToGeneSpec, {"settings": "as_code"})
        names = ("stnet", "bleep", "cmrcnet", "histogene")
        for name in [name for name in names if name in sys.argv] or names:
            waiting(name, data)
    return None


if __name__ == "__main__":
    main()
