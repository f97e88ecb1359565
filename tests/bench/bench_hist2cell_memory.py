"""Memory and speed of Hist2Cell's options: `python tests/bench/bench_hist2cell_memory.py [px] [nodes] [steps] [device]`.

Every option trains the same batch of nodes with square8's edges, in one process. Printed per option: what a forward pass
keeps for the backward one, and on a GPU the peak that torch allocates, both also over those of the plain network (fp32,
everything kept, channels first); steps per second over the plain network's; and how far its last loss is from the plain one.
AMP on a CPU is much slower than full precision and is left out there.
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "workflow" / "src")]

import numpy as np
import torch

import histoloom.torch_compat  # noqa: F401 - before timm, which imports torchvision
from histoloom.networks.hist2cell import Hist2Cell

OPTIONS: dict[str, dict[str, bool]] = {
    "plain": {},
    "channels_last": {"channels_last": True},
    "checkpoint_activations": {"checkpoint": True},
    "both": {"channels_last": True, "checkpoint": True},
    "bf16-mixed": {"amp": True},
    "all three": {"amp": True, "channels_last": True, "checkpoint": True},
}


def make_batch(px: int, nodes: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    side = int(np.ceil(np.sqrt(nodes)))
    place = np.stack(np.divmod(np.arange(nodes), side), axis=1)
    near = abs(place[:, None] - place[None]).max(axis=2) == 1
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(nodes, 3, px, px, generator=generator), torch.rand(nodes, 39, generator=generator)
    return images.to(device), torch.from_numpy(np.stack(np.nonzero(near))).to(device), labels.to(device)


def measure(batch: tuple[torch.Tensor, ...], steps: int, device: str, **chosen: bool) -> dict[str, float]:
    images, edges, labels = batch
    cuda = device.startswith("cuda")
    torch.manual_seed(0)
    network: Any = Hist2Cell(39, checkpoint_activations=chosen.get("checkpoint", False)).train().to(device)
    if chosen.get("channels_last"):
        network, images = (
            network.to(memory_format=torch.channels_last),
            images.contiguous(memory_format=torch.channels_last),
        )
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=1e-4)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step() -> float:
        with torch.autocast(device.partition(":")[0], torch.bfloat16) if chosen.get("amp") else nullcontext():
            loss = torch.nn.functional.mse_loss(network(images, edges), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    losses = [step() for _ in range(steps)]
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if cuda else float("nan")
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    bytes_kept = sum(size for place, size in kept.items() if place not in weights)
    return {"kept": bytes_kept, "peak": peak, "rate": steps / seconds, "loss": losses[-1]}


def main() -> None:
    px, nodes, steps = (int(value) for value in [*sys.argv[1:4], *("64", "96", "3")[len(sys.argv[1:4]) :]])
    device = sys.argv[4] if len(sys.argv) > 4 else "cuda" if torch.cuda.is_available() else "cpu"
    batch = make_batch(px, nodes, device)
    print(
        f"{nodes} nodes of {px} px on {torch.cuda.get_device_name() if device != 'cpu' else 'one core'}, {steps} steps"
    )
    if device == "cpu":
        torch.set_num_threads(1)
    plain: dict[str, float] = {}
    for name, chosen in OPTIONS.items():
        if chosen.get("amp") and device == "cpu":
            continue
        got = measure(batch, steps, device, **chosen)
        plain = plain or got
        text = f"{name:>23}: kept {got['kept'] / 2**20:7.0f} MiB ({got['kept'] / plain['kept']:.2f} of plain)"
        if np.isfinite(got["peak"]):
            text += f", peak {got['peak'] / 2**20:7.0f} MiB ({got['peak'] / plain['peak']:.2f})"
        speed, apart = got["rate"] / plain["rate"], abs(got["loss"] / plain["loss"] - 1)
        print(f"{text}, steps/s {speed:.2f} of plain, last loss {apart:.1e} apart", flush=True)


if __name__ == "__main__":
    main()
