"""Training steps of the cell transformers against one Dataset item per cell, and the class task at scale.

Run: ``python tests/bench/bench_cell_models.py steps [cells] [steps] [width]`` or
``python tests/bench/bench_cell_models.py scale [cells] [steps] [width]``; not a test, prints only.

steps  Four models, genes 512 and morphology 1,536, batch 64: steps/s of this code and of a loader that makes a tensor
       per cell and collates them, same batches; and how far the losses are apart.
scale  The multimodal model on memory-mapped embeddings of so many cells: steps/s, and the peak of memory that is no
       mapped file.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "workflow" / "src")]

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from histoloom.inputs import Inputs
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.models.cell_transformer import CellTransformerSpec, CellTransformerTask, make_network, place
from histoloom.targets import kind_of

GENES, MORPHOLOGY, CLASSES = 512, 1536, 6
logging.disable(logging.WARNING)


class Mapped:
    """Embeddings of genes and morphology side by side, mapped from a file."""

    widths = (GENES, MORPHOLOGY)
    modalities = ("counts", "morphology")

    def __init__(self, values: Any) -> None:
        self.values = values

    def __call__(self, rows: Any) -> np.ndarray:
        return np.asarray(self.values[rows])


class GenesOnly(Mapped):
    """Embeddings of genes alone."""

    widths = (GENES,)

    def __call__(self, rows: Any) -> np.ndarray:
        return np.asarray(self.values[rows, :GENES])


def fold_of(values: Any, kind: str, standardise: bool = False) -> FoldData:
    """Return all cells as the training part of a fold."""
    n, rng = len(values), np.random.default_rng(1)
    obs = pd.DataFrame({"cohort": "c", "sample": "s", "patient": "p", "obs_id": np.arange(n).astype(str),
                        "x": rng.random(n) * 4e4, "y": rng.random(n) * 4e4, "um_per_px": 0.2125})  # fmt: skip
    reader = GenesOnly if kind in ("unimodal", "spatial") else Mapped
    inputs, none = Inputs(obs, {"features": reader(values)}, np.arange(n)), np.zeros(n, np.intp)
    part = Part(inputs, rng.integers(0, CLASSES, n), none, none)
    outputs = tuple(map(str, range(CLASSES)))
    return FoldData("f", part, None, kind_of("cell_class"), outputs, 0, standardise=standardise)


class PerCell(Dataset[Any]):
    """One item per cell: numpy rows become tensors, and the loader stacks 64 of them."""

    def __init__(self, data: FoldData, spec: CellTransformerSpec) -> None:
        self.read, self.y = data.train.inputs.features, data.train.y
        self.place = place(data.train.inputs, spec)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.read(np.array([row]))[0]
        return (torch.tensor(features, dtype=torch.float32), torch.tensor(self.place[row], dtype=torch.float32),
                torch.tensor(self.y[row], dtype=torch.long))  # fmt: skip


def train_own(task: CellTransformerTask, batches: list[torch.Tensor]) -> tuple[float, list[float]]:
    """Return steps/s and losses of this code's task."""
    optimiser, losses = task.optimiser(), []
    task.network.train()
    torch.manual_seed(0)
    start = time.perf_counter()
    for number, rows in enumerate(batches):
        task.start_step(optimiser, number)
        loss = task.loss(rows, torch.Generator())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return len(batches) / (time.perf_counter() - start), losses


def train_per_cell(
    data: FoldData, spec: CellTransformerSpec, state: dict[str, torch.Tensor], batches: list[torch.Tensor], net: Any
) -> tuple[float, list[float]]:
    """Return steps/s and losses of a loader with one item per cell."""
    net.load_state_dict(state)
    net.train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    # A generator of its own: the loader would take a number from the one that draws dropout.
    order, draws = [rows.tolist() for rows in batches], torch.Generator()
    loader = DataLoader(PerCell(data, spec), batch_sampler=order, generator=draws)
    both, losses = spec.architecture in ("dual", "multi"), []
    torch.manual_seed(0)
    start = time.perf_counter()
    for features, coordinates, label in loader:
        at = coordinates if spec.architecture in ("spatial", "multi") else None
        logits = net(features[:, :GENES], features[:, GENES:] if both else None, at)
        loss = torch.nn.functional.cross_entropy(logits, label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return len(batches) / (time.perf_counter() - start), losses


def steps(n: int, count: int, width: int) -> None:
    """Print steps/s of the four models both ways."""
    values = np.random.default_rng(0).normal(size=(n, GENES + MORPHOLOGY)).astype(np.float32)
    for kind in ("unimodal", "spatial", "dual", "multi"):
        entry = {"architecture": kind, "class_weights": False, "one_cycle": False, "coordinates": "pixels",
                 "width": width, "hidden": 4 * width, "frequencies": [1.0]}  # fmt: skip
        spec, data = CellTransformerSpec.from_json(entry), fold_of(values, kind)
        torch.manual_seed(0)
        task = CellTransformerTask(spec, data, JobContext())
        state = {name: value.clone() for name, value in task.network.state_dict().items()}
        batches = list(torch.randperm(n, generator=torch.Generator().manual_seed(0)).split(64))[:count]
        net = make_network(spec, CLASSES, task.cells.widths)
        other, other_losses = train_per_cell(data, spec, state, batches, net)
        own, losses = train_own(task, batches)
        apart = max(abs(a - b) for a, b in zip(losses, other_losses, strict=True))
        print(f"{kind}, width {width}: {own:.2f} steps/s, per-cell loader {other:.2f}, ratio {own / other:.2f}; "
              f"losses at most {apart:.1e} apart", flush=True)  # fmt: skip


def anonymous_gb() -> float:
    """Return the process's memory that is no mapped file, GB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) / 1e6


def scale(n: int, count: int, width: int) -> None:
    """Print steps/s and memory of the multimodal model on `n` mapped cells."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "cells.f4"
        rng = np.random.default_rng(0)
        with path.open("wb") as handle:
            for start in range(0, n, 20_000):
                block = rng.standard_normal((min(20_000, n - start), GENES + MORPHOLOGY), dtype=np.float32)
                handle.write(block.tobytes())
        values = np.memmap(path, np.float32, "r", shape=(n, GENES + MORPHOLOGY))
        entry = {"architecture": "multi", "width": width, "hidden": 4 * width}
        spec, data = CellTransformerSpec.from_json(entry), fold_of(values, "multi", standardise=True)
        began, peak = time.perf_counter(), anonymous_gb()
        task = CellTransformerTask(spec, data, JobContext())
        prepared, peak = time.perf_counter() - began, max(peak, anonymous_gb())
        batches = list(torch.randperm(n).split(64))
        optimiser, done, start_s = task.optimiser(), 0, time.perf_counter()
        task.network.train()
        for rows in batches[:count]:
            loss = task.loss(rows, torch.Generator())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
            peak = max(peak, anonymous_gb())
        rate = done / (time.perf_counter() - start_s)
        print(f"{n} cells ({values.nbytes / 1e9:.1f} GB mapped): prepared in {prepared:.0f} s, {done} of {len(batches)} "
              f"steps of an epoch at {rate:.1f} steps/s ({len(batches) / rate / 60:.0f} min an epoch), "
              f"{peak:.2f} GB of memory besides the mapped file")  # fmt: skip


def main(argv: list[str]) -> None:
    """Run one of the two."""
    what = argv[0] if argv else "steps"
    n, count, width = [*map(int, argv[1:4]), *[4096, 20, 512][len(argv[1:4]) :]]
    {"steps": steps, "scale": scale}[what](n, count, width)


if __name__ == "__main__":
    main(sys.argv[1:])
