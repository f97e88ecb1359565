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

from histoloom.inputs import Inputs
from histoloom.models.base import FoldData, JobContext, Part
from histoloom.models.mlp import MLP
from histoloom.models.network import MLPSpec
from histoloom.targets import kind_of


def make(n: int, dim: int, folds: int, seeds: int, types: int = 40) -> tuple[Part, list[FoldData]]:
    """All observations, and training data by fold and seed: equal patients, one fold each, and the one of everyone."""
    rng = np.random.default_rng(0)
    patient = np.arange(n) % folds
    name = np.array([f"P{i}" for i in patient], dtype=object)
    obs = pd.DataFrame({"cohort": "c", "sample": name, "patient": name, "obs_id": np.arange(n).astype(str)})
    x = rng.normal(size=(n, dim)).astype(np.float32)
    y = np.maximum(x[:, :20] @ rng.normal(size=(20, types)) * 0.3 + rng.normal(size=(n, types)), 0)
    inputs = Inputs(obs, {"features": lambda rows: x[rows]}, np.arange(n))
    everyone = Part(inputs, y.astype(np.float32), patient, patient)
    trained = {**{f"P{i}": np.flatnonzero(patient != i) for i in range(folds)}, "all": np.arange(n)}
    target, outputs = kind_of("abundance"), tuple(map(str, range(types)))
    return everyone, [
        FoldData(fold, everyone.take(rows), None, target, outputs, seed)
        for fold, rows in trained.items()
        for seed in range(seeds)
    ]


def plain(data: FoldData, everyone: Part, spec: MLPSpec, device: str) -> np.ndarray:
    """Train one MLP with torch.nn, data on the device; return its predictions of all rows."""
    torch.manual_seed(data.seed)
    features, values = data.train.inputs.features(), data.train.dense
    scaler = data.scaler(features)
    x = torch.from_numpy(scaler(features)).to(device)
    mean, std = values.mean(0), values.std(0)
    y = torch.from_numpy((values - mean) / std).to(device)
    sizes = [x.shape[1], *[spec.width] * spec.hidden_layers, y.shape[1]]
    layers: list[torch.nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(a, b), torch.nn.SiLU()]
    net = torch.nn.Sequential(*layers[:-1]).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    for _ in range(spec.epochs):
        for rows in torch.tensor_split(torch.randperm(len(x)), -(-len(x) // spec.batch_size)):
            p, t = net(x[rows]), y[rows]
            a, b = p - p.mean(0), t - t.mean(0)
            r = (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0) + spec.pearson_eps)
            loss = (p - t).square().mean() + spec.l1 * (p - t).abs().mean() - spec.l2 * r.mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        return net(torch.from_numpy(scaler(everyone.inputs.features())).to(device)).cpu().double().numpy() * std + mean


def main(argv: list[str]) -> None:
    """Print the table."""
    n, dim, folds, seeds, width = [*map(int, argv[:5]), *[2400, 64, 4, 3, 64][len(argv[:5]) :]]
    device = argv[5] if len(argv) > 5 else "cpu"
    schema = yaml.safe_load(
        (Path(__file__).resolve().parents[2] / "workflow/schemas/model.mlp.schema.yaml").read_text()
    )
    entry = {key: value["default"] for key, value in schema["properties"].items() if "default" in value}
    spec = MLPSpec.from_json({**entry, "width": width, "epochs": 5})
    everyone, data = make(n, dim, folds, seeds)
    plain(data[0], everyone, spec, device)  # warm up
    job = JobContext(device)
    start = time.perf_counter()
    fitted = MLP(spec).fit_many(data, job)
    stacked = time.perf_counter() - start
    start = time.perf_counter()
    alone = [plain(one, everyone, spec, device) for one in data]
    single = time.perf_counter() - start
    together = [model.predict(everyone.inputs, {}, job) for model in fitted]
    cc = np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(alone, together, strict=True)])
    print(f"{n} observations x {dim} features, {len(data)} models of width {width}, 5 epochs, {device}")
    print(f"one by one {single:.2f} s, stacked {stacked:.2f} s, ratio {single / stacked:.2f}")
    print(f"predictions of the two (other random starts) correlate at {cc:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
