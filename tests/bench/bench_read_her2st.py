"""Reading the sections of her2st against pandas and AnnData, in turns: `python tests/bench/bench_read_her2st.py [ROOT]`.

Ours reads counts and positions, checks them, draws the picture and writes the canonical h5ad. The baseline reads both tables
with pandas, joins them by id and writes an h5ad; it checks nothing and draws nothing. Slides are left out (`images: false`),
since four of them are at hand. ROOT holds her2st's own layout.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "workflow" / "src"))

from histoloom.config import read_sheet
from histoloom.samples import read_section
from histoloom.samples.her2st import Her2stReader

SPEC = {"images": False}


def ours(row: dict[str, str], root: Path, folder: Path) -> Path:
    files = {role: Path(path) for role, path in Her2stReader.files(row, SPEC, root).items()}
    out = folder / f"{row['sample']}.h5ad"
    read_section(
        source="her2st", cohort="her2st", row=row, spec=SPEC, files=files, out=out, picture=out.with_suffix(".png")
    )
    return out


def baseline(row: dict[str, str], root: Path, folder: Path) -> Path:
    files = Her2stReader.files(row, SPEC, root)
    counts = pd.read_csv(files["counts"], sep="\t", index_col=0)
    spots = pd.read_csv(files["spots"], sep="\t")
    spots.index = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    spots = spots.loc[counts.index]
    data = anndata.AnnData(csr_matrix(counts.to_numpy(np.int32)), obs=spots, var=pd.DataFrame(index=counts.columns))
    data.obsm["spatial"] = spots[["pixel_x", "pixel_y"]].to_numpy()
    out = folder / f"{row['sample']}.baseline.h5ad"
    data.write_h5ad(out, compression="gzip")
    return out


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY.parent / "shared" / "data" / "her2st"
    seconds = {"ours": 0.0, "baseline": 0.0}
    rows = read_sheet(REPOSITORY / "config" / "cohorts" / "her2st.tsv", "her2st")
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            written = []
            for name, read in (("ours", ours), ("baseline", baseline)):
                start = time.perf_counter()
                written.append(read(row, root, Path(folder)))
                seconds[name] += time.perf_counter() - start
            one, other = (anndata.read_h5ad(path) for path in written)
            assert (one.X != other.X).nnz == 0
            assert (one.obs_names == other.obs_names).all()
    ratio = seconds["ours"] / seconds["baseline"]
    print(
        f"{len(rows)} sections: ours {seconds['ours']:.1f} s, pandas and AnnData {seconds['baseline']:.1f} s, {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
