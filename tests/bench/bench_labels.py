"""How right are the demo's cell2location labels? `python tests/bench/bench_labels.py [PATIENT ...]`.

Simulates the demo's patients with the misspecification effects off and on, labels them with the demo's own settings, and prints
Pearson's r with the ground truth per type (mean over sections), next to NNLS in the same run. Goal with the effects off: mean
above 0.75, and above 0.70 for every type.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow" / "src")]

import anndata as ad
import numpy as np
import pandas as pd
import yaml

from histoloom.jobs import seed_everything, set_threads
from histoloom.labels import LabelTask, label_group
from histoloom.plan import Plan
from histoloom.references import build_reference
from histoloom.samples import read_section
from histoloom.samples.her2st import SimulatedReader
from histoloom_simulation import write_reference, write_section

DEMO = ROOT / "config" / "config.yaml"


def sections(plan: Plan, patient: str, folder: Path) -> tuple[list[Path], pd.DataFrame]:
    """Write and read a patient's sections without slides; return them and the truth, index = (sample, spot)."""
    spec, samples, truth = plan.sections.simulation_spec("demo"), [], []
    for row in plan.sections.rows("demo"):
        if row["patient"] != patient:
            continue
        files = SimulatedReader.files(row, {"images": False}, folder)
        paths = {role: Path(p) for role, p in files.items() if role != "image"}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        write_section(spec=spec, row=row, out=paths)
        ground_truth = pd.read_csv(paths.pop("truth"), sep="\t", index_col=0)
        truth.append(ground_truth.set_axis(row["sample"] + "/" + ground_truth.index.astype(str)))
        samples.append(folder / f"{row['sample']}.h5ad")
        read_section(
            source="simulated", cohort="demo", row=row, spec={"source": "simulated", "images": False}, files=paths,
            out=samples[-1], picture=folder / "p.png",
        )  # fmt: skip
    return samples, pd.concat(truth)


def agreement(labels: Path, truth: pd.DataFrame) -> pd.Series:
    """Return Pearson's r per type, mean over sections; types without variation in the ground truth are left out."""
    data = ad.read_h5ad(labels)
    found = data.to_df()
    common = [t for t in found.columns if t in truth.columns]
    rows = []
    for _, part in found.groupby(data.obs["sample"].to_numpy()):
        ground_truth = truth.loc[part.index]
        rows.append({t: np.corrcoef(part[t], ground_truth[t])[0, 1] for t in common if ground_truth[t].std() > 0})
    return pd.DataFrame(rows).mean()


def measure(misspecified: bool, patients: list[str], folder: Path) -> None:
    """Print the figures of one setting."""
    raw: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    raw["cohorts"]["demo"]["effects"] = {"misspecification": misspecified}
    plan = Plan.from_raw(raw, [DEMO])
    write_reference(spec=plan.sections.simulation_spec("demo"), out=folder / "raw.h5ad")
    reference = folder / "reference.h5ad"
    files = {"h5ad": [folder / "raw.h5ad"]}
    build_reference(
        spec=plan.labels.reference_spec("sim"),
        files=files,
        out=reference,
        seed=0,
        threads=1,
        scratch=reference.parent / "scratch",
    )
    found: dict[str, list[pd.Series]] = {"c2l": [], "nnls": []}
    setting = f"misspecification {'on ' if misspecified else 'off'}"
    for patient in patients:
        samples, truth = sections(plan, patient, folder / patient)
        for name in ("c2l", "nnls"):
            seed_everything(0)
            started = time.perf_counter()
            out = folder / f"{patient}.{name}.h5ad"
            task = LabelTask(
                plan.labels.spec(name), "demo", patient, 0, samples, folder / "scratch", reference=reference
            )
            label_group(task, out)
            r = agreement(out, truth)
            found[name].append(r)
            seconds = time.perf_counter() - started
            print(
                f"{setting} {patient:4s} {name:5s} {seconds:6.1f} s  mean r {r.mean():.3f}  lowest {r.min():.3f} ({r.idxmin()})"
            )
    for name, parts in found.items():
        r = pd.concat(parts, axis=1).mean(axis=1)
        print(f"{setting} all  {name:5s} {'':8s}  mean r {r.mean():.3f}  lowest {r.min():.3f} ({r.idxmin()})")


def main() -> None:
    """Measure all settings."""
    set_threads(1)
    patients = sys.argv[1:] or ["W", "X", "Y", "Z"]
    for misspecified in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            measure(misspecified, patients, Path(folder))


if __name__ == "__main__":
    main()
