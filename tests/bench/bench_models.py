"""Stacked training against one model at a time: ratio of seconds, and how far the predictions are apart.

Run: ``python tests/bench/bench_models.py [n_obs] [dim] [folds] [seeds] [width] [device]``; not a test, prints ratios only.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "workflow" / "src")]

import numpy as np
import pandas as pd
import torch
import yaml

from histoloom.models.base import Fold, Rows, TrainingData
from histoloom.models.mlp import MLP


def make(n: int, dim: int, folds: int, seeds: int, types: int = 40) -> TrainingData:
    """Equal patients, one fold each, and the fold with everyone."""
    rng = np.random.default_rng(0)
    patient = np.array([f"P{i % folds}" for i in range(n)], dtype=object)
    obs = pd.DataFrame({"cohort": "c", "sample": patient, "patient": patient, "obs_id": np.arange(n).astype(str)})
    x = rng.normal(size=(n, dim)).astype(np.float32)
    y = np.maximum(x[:, :20] @ rng.normal(size=(20, types)) * 0.3 + rng.normal(size=(n, types)), 0)
    rows, none = np.arange(n), np.array([], dtype=int)
    parts = [Fold(f"P{i}", rows[patient != f"P{i}"], none, rows[patient == f"P{i}"], rows) for i in range(folds)]
    return TrainingData(
        Rows(obs, x), y, [str(t) for t in range(types)], [*parts, Fold("all", rows, none, none, rows)],
        list(range(seeds)), "fixed", "train", 0,
    )  # fmt: skip


def plain(data: TrainingData, fold: Fold, seed: int, spec: dict, device: str) -> np.ndarray:
    """Train one MLP with torch.nn, data on the device; return its predictions of all rows."""
    torch.manual_seed(seed)
    scaler = data.scaler(fold.train)
    x = torch.from_numpy(scaler(data.features)).to(device)
    mean, std = data.values[fold.train].mean(0), data.values[fold.train].std(0)
    y = torch.from_numpy(((data.values - mean) / std).astype(np.float32)).to(device)
    sizes = [x.shape[1], *[spec["width"]] * spec["hidden_layers"], y.shape[1]]
    layers: list[torch.nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(a, b), torch.nn.SiLU()]
    net = torch.nn.Sequential(*layers[:-1]).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=spec["lr"], weight_decay=spec["weight_decay"])
    train = torch.from_numpy(fold.train)
    for _ in range(spec["epochs"]):
        order = train[torch.randperm(len(train))]
        for rows in torch.tensor_split(order, -(-len(train) // spec["batch_size"])):
            p, t = net(x[rows]), y[rows]
            a, b = p - p.mean(0), t - t.mean(0)
            r = (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0) + spec["pearson_eps"])
            loss = (p - t).square().mean() + spec["l1"] * (p - t).abs().mean() - spec["l2"] * r.mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        return net(x).cpu().double().numpy() * std + mean


def main(argv: list[str]) -> None:
    """Print the table."""
    n, dim, folds, seeds, width = [*map(int, argv[:5]), *[2400, 64, 4, 3, 64][len(argv[:5]) :]]
    device = argv[5] if len(argv) > 5 else "cpu"
    schema = yaml.safe_load(
        (Path(__file__).resolve().parents[2] / "workflow/schemas/model.mlp.schema.yaml").read_text()
    )
    spec = {key: value["default"] for key, value in schema["properties"].items() if "default" in value}
    spec |= {"width": width, "epochs": 5}
    data = make(n, dim, folds, seeds)
    plain(data, data.folds[0], 0, spec | {"epochs": 1}, device)  # warm up
    start = time.perf_counter()
    model = MLP(spec)
    model.fit(data, device)
    stacked = time.perf_counter() - start
    start = time.perf_counter()
    loose = {(fold.name, seed): plain(data, fold, seed, spec, device) for fold in data.folds for seed in data.seeds}
    single = time.perf_counter() - start
    together = {key: model.predict(*key, data.rows) for key in loose}
    cc = np.mean([np.corrcoef(loose[k].ravel(), together[k].ravel())[0, 1] for k in loose])
    print(f"{n} observations x {dim} features, {len(loose)} models of width {width}, 5 epochs, {device}")
    print(f"one by one {single:.2f} s, stacked {stacked:.2f} s, ratio {single / stacked:.2f}")
    print(f"predictions of the two (other random starts) correlate at {cc:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
