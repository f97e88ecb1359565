"""How much memory a large Xenium matrix takes on its way to a sample: made, read, checked, written.

Usage: python tests/bench/bench_xenium_memory.py [--cells 700000] [--genes 5001] [--per-cell 250] [--folder DIR]

Making and reading are processes of their own, so that the peak is the reader's alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow" / "src"), str(ROOT / "tests")]
CHUNK = 20_000


def make(folder: Path, cells: int, genes: int, per_cell: int) -> None:
    """Write a bundle in pieces: about `per_cell` genes a cell, 400 control probes, an H&E of 4,000 px."""
    import h5py
    import pandas as pd

    from raw_layouts import slide_with_tissue, write_ome

    rng = np.random.default_rng(0)
    bundle = folder / "run_outs"
    bundle.mkdir(parents=True)
    features = genes + 400
    ids = np.array([f"{i:08d}aaaa-1"[-14:] for i in range(cells)], "S14")
    with h5py.File(bundle / "cell_feature_matrix.h5", "w") as handle:
        matrix = handle.create_group("matrix")
        options = {"maxshape": (None,), "chunks": (1 << 20,), "compression": "gzip", "compression_opts": 1}
        data = matrix.create_dataset("data", (0,), np.int32, **options)
        indices = matrix.create_dataset("indices", (0,), np.int64, **options)
        starts = [np.zeros(1, np.int64)]
        size = 0
        for first in range(0, cells, CHUNK):
            n = min(CHUNK, cells - first)
            number = np.minimum(rng.poisson(per_cell, n), genes)
            # Every cell takes a run of the genes with a random step: distinct and sorted without a draw per cell.
            step = rng.integers(1, features // (number.max() + 1) + 1, n)
            within = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
            columns = np.repeat(rng.integers(0, 60, n), number) + within * np.repeat(step, number)
            columns = np.minimum(columns, features - 1)
            last = size + len(columns)
            data.resize((last,))
            indices.resize((last,))
            data[size:], indices[size:] = rng.integers(1, 6, len(columns)), columns
            starts.append(size + np.cumsum(number))
            size = last
        matrix["indptr"] = np.concatenate(starts)
        matrix["shape"] = np.array([features, cells], np.int32)
        matrix["barcodes"] = ids
        names = [f"GENE{i}" for i in range(genes)] + [f"NegControlProbe_{i:05d}" for i in range(400)]
        matrix["features/name"] = np.array(names, "S")
        matrix["features/id"] = np.array([f"ENSG{i:011d}" for i in range(genes)] + names[genes:], "S")
        kinds = ["Gene Expression"] * genes + ["Negative Control Probe"] * 400
        matrix["features/feature_type"] = np.array(kinds, "S")
    he = rng.uniform(200, 3800, (cells, 2))
    um = he * 10 * 0.2125
    table = {"cell_id": ids.astype(str), "x_centroid": um[:, 0], "y_centroid": um[:, 1]}
    table["cell_area"] = rng.uniform(40, 120, cells)
    pd.DataFrame(table).to_parquet(bundle / "cells.parquet", index=False)
    (bundle / "experiment.xenium").write_text(json.dumps({"pixel_size": 0.2125, "num_cells": cells}))
    (folder / "a.csv").write_text("10,0,0\n0,10,0\n0,0,1\n")
    write_ome(folder / "he.ome.tif", slide_with_tissue(4000, 4000, (100, 100, 3900, 3900)))
    print(json.dumps({"values": size, "h5_mb": (bundle / "cell_feature_matrix.h5").stat().st_size >> 20}))


def read(folder: Path) -> None:
    """Read the bundle into a sample and print the peak."""
    from histoloom.samples import read_section
    from histoloom.samples.xenium import XeniumReader

    row = {"sample": "X", "patient": "P", "bundle": "run_outs", "image": "he.ome.tif", "alignment": "a.csv"}
    files = {role: Path(path) for role, path in XeniumReader.files(row, {}, folder).items()}
    started = time.perf_counter()
    section = XeniumReader.read(files, row, {})
    seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    matrix = section.X
    size = (matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes) / 2**30
    print(json.dumps({"read_s": round(seconds, 1), "read_peak_gb": round(peak, 2), "matrix_gb": round(size, 2)}))
    print(json.dumps({"cells": section.n_obs, "genes": section.n_vars, "values": int(matrix.nnz)}))
    del section, matrix
    started = time.perf_counter()
    read_section(
        source="xenium",
        cohort="bench",
        row=row,
        spec={},
        files=files,
        out=folder / "x.h5ad",
        picture=folder / "x.png",
    )
    seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"sample_s": round(seconds, 1), "peak_gb": round(peak, 2), "limit_gb": 12}))
    if peak > 12:
        sys.exit("more than 12 GB")


def main() -> None:
    """Run both halves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=700_000)
    parser.add_argument("--genes", type=int, default=5001)
    parser.add_argument("--per-cell", type=int, default=250)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--step", choices=["make", "read"])
    options = parser.parse_args()
    if options.step == "make":
        make(options.folder, options.cells, options.genes, options.per_cell)
    elif options.step == "read":
        read(options.folder)
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            arguments = ["--cells", str(options.cells), "--genes", str(options.genes)]
            arguments += ["--per-cell", str(options.per_cell), "--folder", folder]
            for step in ("make", "read"):
                subprocess.run([sys.executable, __file__, *arguments, "--step", step], check=True)


if __name__ == "__main__":
    main()
