"""Small prediction, target and fold artefacts for the tests of metrics and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

from histoloom.artefacts import write_parquet
from histoloom.identity import canonical_json, make_identity

TYPES = ["B", "Epithelial", "Fibro", "Lost", "T"]
SPEC: dict[str, Any] = {
    "task": "evaluate", "title": "", "paper": None, "cohorts": ["demo"], "train_cohorts": [], "test_cohorts": [],
    "tiles": "native224", "split": "leave_one_patient_out", "labels": "c2l", "truth": None, "on_overlap": "fail",
    "target": {"statistic": "mean", "transform": "none"}, "models": ["ridge"], "train_seeds": [0, 1],
    "standardise": "train", "selection": "fixed", "shuffle_labels": "none", "seed": 0,
    "moran": {"length_scale_um": 240, "cutoff": 0.2, "include_self": True},
}  # fmt: skip
PROTOCOL = {"kind": "ridge", "encoders": [{"name": "st", "card": "stain_texture", "weights": "none"}]}


def make_obs(
    sections: dict[tuple[str, str], int], cohort: str = "demo", qc_flags: dict[str, str] | None = None
) -> pd.DataFrame:
    """Observations of sections given as {(patient, sample): n}, on a square array of 200 um pitch."""
    frames = []
    for (patient, sample), n in sections.items():
        side = int(np.ceil(np.sqrt(n)))
        row, column = np.divmod(np.arange(n), side)
        frames.append(
            pd.DataFrame(
                {
                    "cohort": cohort, "sample": sample, "patient": patient, "array_row": row, "array_col": column,
                    "obs_id": [f"{a}x{b}" for a, b in zip(row, column, strict=True)],
                    "x": 300.0 + 290.0 * row, "y": 300.0 + 290.0 * column, "pitch_um": 200.0,
                    "qc_flag": (qc_flags or {}).get(sample, ""),
                }
            )
        )  # fmt: skip
    obs = pd.concat(frames, ignore_index=True)
    return obs.set_index(obs["cohort"] + "/" + obs["sample"] + "/" + obs["obs_id"])


def make_values(obs: pd.DataFrame, seed: int = 0, types: int = len(TYPES)) -> np.ndarray:
    """Smooth positive abundances, different in each section."""
    rng = np.random.default_rng(seed)
    values = np.empty((len(obs), types))
    for _, index in obs.reset_index(drop=True).groupby(["cohort", "sample"]).indices.items():
        row, col = obs["array_row"].to_numpy()[index], obs["array_col"].to_numpy()[index]
        for t in range(types):
            wave = np.sin(row * rng.uniform(0.3, 1) + rng.uniform(0, 6)) + np.cos(col * rng.uniform(0.3, 1))
            values[index, t] = np.exp(0.6 * wave + 0.3 * rng.normal(size=len(index))) * (t + 1)
    return values


def lopo_folds(obs: pd.DataFrame) -> pd.DataFrame:
    """Leave-one-patient-out folds, as the fold artefact has them."""
    sections = obs[["cohort", "sample", "patient"]].drop_duplicates()
    rows = []
    for patient in sections["patient"].unique():
        for item in sections.to_dict("records"):
            role = "test" if item["patient"] == patient else "train"
            rows.append({"fold": f"patient-{patient}", **item, "obs_id": None, "block": None, "role": role})
    rows += [{"fold": "all", **s, "obs_id": None, "block": None, "role": "train"} for s in sections.to_dict("records")]
    return pd.DataFrame(rows)


def write_inputs(
    folder: Path,
    obs: pd.DataFrame,
    values: np.ndarray,
    prediction: np.ndarray,
    *,
    types: list[str] | None = None,
    seeds: dict[int, np.ndarray] | None = None,
    ground_truth: np.ndarray | None = None,
    protocol: dict | None = None,
) -> dict[str, Path]:
    """Write target.h5ad, folds.parquet and predictions.h5ad; every observation is tested once."""  # fmt: skip
    types = types or TYPES
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"units": "cells", "truth_units": "cells" if ground_truth is not None else None,
                "tiles": {"name": "native224", "spec": {"size_px": 224}},
                "identity": make_identity("targets", {}, {})}  # fmt: skip
    paths = {name: folder / name for name in ("target.h5ad", "folds.parquet", "predictions.h5ad")}
    target = anndata.AnnData(X=values, obs=obs.copy(), var=pd.DataFrame(index=types))
    target.obsm["spatial"] = obs[["x", "y"]].to_numpy()
    target.uns["histoloom"] = canonical_json(metadata)
    target.write_h5ad(paths["target.h5ad"])
    write_parquet(lopo_folds(obs), paths["folds.parquet"], {"identity": make_identity("folds", {}, {})})
    tested = obs.assign(fold="patient-" + obs["patient"])
    tested = tested.set_index(tested["fold"] + "/" + tested.index)
    predicted = anndata.AnnData(X=prediction, obs=tested, var=pd.DataFrame(index=types))
    predicted.layers["labels"] = values
    for seed, layer in (seeds or {}).items():
        predicted.layers[f"seed_{seed}"] = layer
    if ground_truth is not None:
        predicted.layers["ground_truth"] = ground_truth
    predicted.obsm["spatial"] = obs[["x", "y"]].to_numpy()
    predicted.uns["histoloom"] = canonical_json(
        {"experiment": "loo", "model": "ridge", "variant": "default", "protocol": protocol or PROTOCOL,
         "identity": make_identity("models", {}, {}, version=1)}
    )  # fmt: skip
    predicted.write_h5ad(paths["predictions.h5ad"])
    return {"target": paths["target.h5ad"], "folds": paths["folds.parquet"], "predictions": paths["predictions.h5ad"]}


def write_section(
    path: Path, cohort: str, sample: str, obs: pd.DataFrame, *, mpp: float = 0.69, **metadata: Any
) -> Path:
    """Write a section artefact with a picture; ``obs`` as from `make_obs`, optionally with region."""
    size = 2 * int(max(obs["x"].max(), obs["y"].max()) + 600) // 2
    scale = 400 / size
    rng = np.random.default_rng(0)
    image = np.full((400, 400, 3), 240, np.uint8)
    for x, y in obs[["x", "y"]].to_numpy() * scale:
        a, b = int(x), int(y)
        shape = image[max(b - 12, 0) : b + 12, max(a - 12, 0) : a + 12].shape
        image[max(b - 12, 0) : b + 12, max(a - 12, 0) : a + 12] = np.array([215, 150, 190]) + rng.integers(
            -25, 25, shape
        )
    part = obs[[c for c in ("array_row", "array_col", "region") if c in obs]].copy()
    data = anndata.AnnData(X=np.zeros((len(obs), 1), np.int32), obs=part.set_axis(obs["obs_id"].to_numpy(), axis=0))
    data.obsm["spatial"] = obs[["x", "y"]].to_numpy()
    factors = {"tissue_hires_scalef": scale, "tissue_lowres_scalef": scale, "spot_diameter_fullres": 145.0}
    data.uns["spatial"] = {sample: {"images": {"hires": image, "lowres": image}, "scalefactors": factors}}
    data.uns["histoloom"] = canonical_json(
        {"cohort": cohort, "sample": sample, "mpp": mpp, "identity": make_identity("samples", {}, {}), **metadata}
    )
    data.write_h5ad(path)
    return path


def write_labels(path: Path, obs: pd.DataFrame, values: np.ndarray, types: list[str], **metadata: Any) -> Path:
    """Write gathered labels of one cohort."""
    part = obs[["sample", "obs_id", "patient"]].copy()
    data = anndata.AnnData(
        X=values, obs=part.set_axis(part["sample"] + "/" + part["obs_id"]), var=pd.DataFrame(index=types)
    )
    data.uns["histoloom"] = canonical_json(
        {"cohort": obs["cohort"].iloc[0], "units": "cells", "identity": make_identity("labels", {}, {}), **metadata}
    )
    data.write_h5ad(path)
    return path
