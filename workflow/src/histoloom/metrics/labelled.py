"""Labels as checks read them: one cohort's gathered labels, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import read_metadata
from histoloom.errors import InputError
from histoloom.obs_keys import observation_keys
from histoloom.stats import Floats


@dataclass(frozen=True)
class Labels:
    """Labels of one cohort: obs with sample, obs_id, patient, qc_flag and, where the method has it, excess_residual.

    The index is ``cohort/sample/obs_id``.
    """

    obs: pd.DataFrame
    types: list[str]
    values: Floats
    metadata: Mapping[str, Any]
    path: Path


def _text(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    for column in frame.select_dtypes(["category", "string"]).columns:
        frame[column] = frame[column].astype(object)
    return frame


def read_labels(path: str | Path) -> Labels:
    """Read the gathered labels of a cohort."""
    import anndata

    data = anndata.read_h5ad(path)
    metadata = read_metadata(path)
    cohort = str(metadata.get("cohort") or Path(path).stem)
    obs = _text(data.obs[["sample", "obs_id", "patient"]].astype(str))
    qc_flag = data.obs["qc_flag"].astype(str).to_numpy() if "qc_flag" in data.obs else ""
    obs = obs.assign(cohort=cohort, qc_flag=qc_flag)
    if "excess_residual" in data.obs:
        obs["excess_residual"] = data.obs["excess_residual"].to_numpy(dtype=float)
    obs.index = observation_keys(obs)
    values = np.asarray(data.X.toarray() if hasattr(data.X, "toarray") else data.X, dtype=np.float64)
    return Labels(obs, [str(name) for name in data.var_names], values, metadata, Path(path))


def place_of(obs: pd.DataFrame, patient: str) -> dict[str, str]:
    """Return where the observations of one section lie, as columns of a metrics table."""
    first = obs.iloc[0]
    return {
        "fold": "", "cohort": str(first["cohort"]), "sample": str(first["sample"]), "patient": patient,
        "qc_flag": str(first["qc_flag"]),
    }  # fmt: skip


def sections_of(labels: Labels) -> list[tuple[dict[str, str], np.ndarray]]:
    """Return each section's place and the positions of its observations, in order of name."""
    found = []
    for _, index in sorted(labels.obs.groupby("sample", sort=True).indices.items()):
        part = labels.obs.iloc[index]
        found.append((place_of(part, str(part["patient"].iloc[0])), np.asarray(index)))
    return found


def members(types: Sequence[str], wanted: str | Sequence[str], where: str, path: Path) -> list[int]:
    """Return the columns of one or several types, whose abundances are summed."""
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    missing = [name for name in names if name not in types]
    if missing:
        raise InputError(where, f"'{missing[0]}' is no type of {path}.", f"use its types: {', '.join(types)}.")
    return [list(types).index(name) for name in names]


def joined(wanted: str | Sequence[str]) -> str:
    """Return one or several names as one."""
    return wanted if isinstance(wanted, str) else " + ".join(wanted)


def flagged(labels: Labels, qc_flags: Mapping[str, str]) -> Labels:
    """Return labels with the qc_flags of their sections."""
    qc_flag = labels.obs["sample"].map(qc_flags).fillna(labels.obs["qc_flag"])
    return Labels(labels.obs.assign(qc_flag=qc_flag), labels.types, labels.values, labels.metadata, labels.path)


def read_predicted(path: str | Path) -> list[Labels]:
    """Read held-out predictions as labels, one item per cohort.

    An observation that several folds test gets the mean over them. ``metadata["method"]`` is ``prediction``.
    """
    import anndata

    data = anndata.read_h5ad(path)
    metadata = {"method": "prediction", **read_metadata(path)}
    values = np.asarray(data.X.toarray() if hasattr(data.X, "toarray") else data.X, dtype=np.float64)
    obs = _text(data.obs.reset_index(drop=True))
    for column in ("cohort", "sample", "patient", "obs_id"):
        obs[column] = obs[column].astype(str)
    if "qc_flag" not in obs:
        obs["qc_flag"] = ""
    obs["qc_flag"] = obs["qc_flag"].fillna("").astype(str)
    types = [str(name) for name in data.var_names]
    key = observation_keys(obs)
    first = ~key.duplicated()
    mean = pd.DataFrame(values).groupby(key.to_numpy(), sort=False).mean().reindex(key[first]).to_numpy()
    obs = obs[first].set_axis(key[first])
    found = []
    for _, index in sorted(obs.reset_index(drop=True).groupby("cohort", sort=True).indices.items()):
        found.append(Labels(obs.iloc[index], types, mean[index], metadata, Path(path)))
    return found
