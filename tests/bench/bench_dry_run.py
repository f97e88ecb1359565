"""How long does the plan of thousands of sections take? `python tests/bench/bench_dry_run.py HEST_v1_1_0.csv 1229 5000`.

Writes a sheet with samples of HEST-1k, again under other names where more are asked for, and a config with five encoders, and
times `snakemake -n` on it. Goal: 5,000 sections under 60 s, and no more per section than with fewer.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

import pandas as pd
import yaml

ENCODERS = ("uni", "uni2_h", "conch_v1", "resnet50", "densenet121")


def write_config(table: Path, folder: Path, n: int) -> Path:
    """Write the sheet and the config; the raw files are empty stand-ins, a dry run opens none."""
    meta = pd.read_csv(table, dtype=str, keep_default_na=False)
    meta = pd.DataFrame({"id": [f"{meta['id'][i % len(meta)]}_{i // len(meta)}" for i in range(n)]})
    sheet = pd.DataFrame({"sample": meta["id"], "patient": meta["id"], "mpp": "0.5", "pitch_um": "100"})
    sheet["spot_diameter_um"] = "55"
    for column, suffix in (("counts", "h5ad"), ("image", "tif")):
        sheet[column] = [f"{column}/{name}.{suffix}" for name in meta["id"]]
        (folder / column).mkdir()
        for name in sheet[column]:
            (folder / name).touch()
    sheet = sheet.assign(positions="", exclude="", qc_flag="")
    sheet.to_csv(folder / "hest.tsv", sep="\t", index=False)
    config: dict[str, Any] = {
        "cohorts": {"hest": {"source": "files", "sheet": "hest.tsv"}},
        "tiles": {"um112": {"size_px": 224, "um_per_px": 0.5}},
        "references": {"atlas": {"source": "h5ad", "path": str(folder / "counts" / f"{meta['id'][0]}.h5ad")}},
        "labels": {"nnls": {"method": "nnls", "reference": "atlas"}},
        "encoders": {name: {"card": name, "tiles": "um112", "upsample": True} for name in ENCODERS},
        "models": {f"ridge_{name}": {"kind": "ridge", "inputs": [name]} for name in ENCODERS},
        "experiments": {
            "all": {
                "task": "evaluate", "cohorts": ["hest"], "tiles": "um112", "split": "leave_one_patient_out",
                "labels": "nnls", "models": [f"ridge_{name}" for name in ENCODERS],
            }
        },
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def main() -> None:
    """Time the dry run of each number of sections."""
    for n in map(int, sys.argv[2:] or ["1229"]):
        with tempfile.TemporaryDirectory() as name:
            config = write_config(Path(sys.argv[1]), Path(name), n)
            command = [sys.executable, "-m", "snakemake", "-n", "-s", str(ROOT / "Snakefile"), "--directory", name]
            command += ["--workflow-profile", str(ROOT / "profiles" / "ci"), "--configfile", str(config)]
            started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run([*command, "--quiet", "rules"], capture_output=True, text=True, check=False)
            seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
        jobs = re.search(r"^total\s+(\d+)", done.stdout + done.stderr, re.M)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{n} sections, {jobs.group(1) if jobs else '?'} jobs: {seconds:.1f} s, {cpu:.1f} CPU-s")


if __name__ == "__main__":
    main()
