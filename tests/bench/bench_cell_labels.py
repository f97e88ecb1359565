"""SingleR labels of a section against the package's own call on the same arrays: ratio of seconds, and equal labels.

Run: ``python tests/bench/bench_cell_labels.py [cells] [genes] [profiles] [labels] [threads]``; not a test, prints only.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "workflow" / "src")]

import anndata
import numpy as np
import pandas as pd
import singler
from scipy.sparse import csr_matrix, vstack

from histoloom.artefacts import Table, write_table
from histoloom.cells.labels import label_cells
from histoloom.schemas import check, load_schema


def main(argv: list[str]) -> None:
    """Print the line."""
    n, g, profiles, labels, threads = [*map(int, argv[:5]), *[10_000, 5_001, 259, 25, 1][len(argv[:5]) :]]
    rng = np.random.default_rng(0)
    means = rng.lognormal(-3.6, 1.5, (labels, g))
    genes, ids = [f"G{i}" for i in range(g)], [f"c{i}" for i in range(n)]
    parts = [csr_matrix(rng.poisson(means[rng.integers(0, labels, 1000)])) for _ in range(-(-n // 1000))]
    counts = vstack(parts, format="csr")[:n]
    kind = np.arange(profiles) % labels
    values = np.log1p(rng.poisson(means[kind] * 200) / 20.0)
    names = np.array([f"L{i}" for i in kind])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = {"cohort": "c", "sample": "s", "patient": "p", "mpp": 0.5}
        obs = pd.DataFrame({"in_tissue": True}, index=ids)
        write_table(Table(obs, pd.DataFrame(index=genes), counts, {}, {}, facts), folder / "s.h5ad")
        data = anndata.AnnData(values, pd.DataFrame({"main": names}, index=[f"p{i}" for i in range(profiles)]))
        data.var_names = genes
        data.write_h5ad(folder / "ref.h5ad")
        spec = {"method": "singler", "reference": "r", "label_key": "main", "values": "log", "pruned": "keep"}
        check(spec, load_schema("cell_labels.singler"), "bench")
        files, out = {"reference": folder / "ref.h5ad"}, folder / "out.csv"
        start = time.perf_counter()
        label_cells(spec=spec, sample=folder / "s.h5ad", files=files, out=out, steps=folder / "s.csv", threads=threads)
        own = time.perf_counter() - start
        start = time.perf_counter()
        result = singler.annotate_single(
            counts.T, values.T, list(names), test_features=genes, ref_features=genes, num_threads=threads
        )
        package = time.perf_counter() - start
        same = (pd.read_csv(out)["label"].to_numpy() == np.asarray(result.get_column("best"))).mean()
    print(f"{n} cells x {g} genes ({counts.nnz / n:.0f} a cell), {labels} labels of {profiles} profiles, "
          f"{threads} threads: {own:.1f} s with reading and writing, package {package:.1f} s, "
          f"ratio {own / package:.2f}, equal labels {same:.4f}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
