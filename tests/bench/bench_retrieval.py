"""Search and prediction of the retrieval models: `python tests/bench/bench_retrieval.py [n_keys n_queries n_genes]`.

One search for k = 500, whose first columns serve k = 1, 50 and 250, against a loop over queries (a product with all keys
and a sort of all similarities for each); the same neighbours, and the peak memory of the process, in which values of
3,467 genes lie as well. On a GPU where there is one.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow" / "src"))

import numpy as np
import torch

from histoloom.networks.retrieval import find_neighbours, predict_from_neighbours

LOOPED = 100  # queries of the loop; its time is scaled up from these
SIZES = (1, 50, 250, 500)


def loop(queries: np.ndarray, keys: np.ndarray, k: int) -> list[np.ndarray]:
    return [np.argsort(-(keys @ query), kind="stable")[:k] for query in queries]


def clock(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Print seconds, ratio, share of equal neighbours and peak memory."""
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    n_keys, n_queries, n_genes = numbers if len(numbers) == 3 else (45_000, 5_000, 3_467)
    device, k = "cuda:0" if torch.cuda.is_available() else "cpu", max(SIZES)
    torch.manual_seed(0)
    keys, queries = torch.randn(n_keys, 256, device=device), torch.randn(n_queries, 256, device=device)
    host = [torch.nn.functional.normalize(rows).cpu().numpy() for rows in (queries[:LOOPED], keys)]
    for threads in (1, 2) if device == "cpu" else (1,):
        torch.set_num_threads(threads)
        find_neighbours(queries[:600], keys, k)
        start = clock(device)
        found = find_neighbours(queries, keys, k)
        once = clock(device) - start
        start = time.perf_counter()
        looped = loop(*host, k)
        each = (time.perf_counter() - start) / len(looped)
        same = np.mean([len(set(a) & set(b)) / k for a, b in zip(found.cpu().numpy(), looped, strict=False)])
        print(
            f"{device}, {threads} threads: {n_keys} keys x {n_queries} queries, k {k}: {once:.2f} s, "
            f"loop {each * n_queries:.1f} s (from {len(looped)}), ratio {each * n_queries / once:.1f}, same neighbours {same:.4f}"
        )
    values = torch.rand(n_keys, n_genes, device=device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for size in SIZES:
        start = clock(device)
        predict_from_neighbours(values, found[:, :size])
        print(f"values of {n_genes} genes, k {size}: {clock(device) - start:.2f} s")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"peak memory {after:.0f} MB, of it {values.nbytes / 1e6:.0f} MB the values; before the predictions {before:.0f} MB"
    )
    if device != "cpu":
        print(f"peak on the GPU {torch.cuda.max_memory_allocated() / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
