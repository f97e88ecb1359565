"""What label methods take and give, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import KEY
from histoloom.identity import canonical_json
from histoloom.obs_keys import obs_keys


@dataclass(frozen=True)
class LabelTask:
    """What a label method is asked to do.

    Attributes
    ----------
    spec
        The method's entry, defaults filled in.
    cohort, group, seed
        What is labelled, and the optimiser seed.
    samples
        h5ad of each section of the group.
    reference
        The reference's h5ad, where the method takes one.
    tables
        Published tables or ground truth, where the method reads them.
    scratch
        Folder for temporary files.
    threads
        Threads of the fit.
    nuclei
        Counted nuclei of the sections, where the method expects cells by them.
    identity
        Identity (sha256) of the labels to be made; decides which checkpoint of an earlier try belongs to them.
    granted_mb
        Memory that the job may use, None where it is unknown. It decides nothing but whether a fit is begun.
    genes
        Table through which genes of the sections and of the reference meet; None: by name.
    """

    spec: Mapping[str, Any]
    cohort: str
    group: str
    seed: int
    samples: list[Path]
    reference: Path | None
    tables: list[Path]
    scratch: Path
    threads: int
    nuclei: list[Path] = field(default_factory=list)
    identity: str = ""
    granted_mb: float | None = None
    genes: Path | None = None
    device: str = "cpu"

    @property
    def where(self) -> str:
        """Name the job in messages."""
        return f"labels of cohort '{self.cohort}', group '{self.group}' ({self.spec['method']})"


@dataclass(frozen=True)
class GroupLabels:
    """What a label method gives.

    Attributes
    ----------
    obs
        One row per labelled observation: sample, obs_id, patient, flag_low_umi; and excess_residual
        (`histoloom.labels.residual`) where the method explains counts.
    mean
        Abundance, shape (n, T), float.
    types
        Names of the T types.
    units
        ``"cells"`` (per spot) or ``"proportion"``.
    layers
        Further statistics of the method (q05, std), shapes (n, T).
    dropped
        Observations without a label, by sample and reason.
    qc
        Facts about the fit, JSON.
    """

    obs: pd.DataFrame
    mean: np.ndarray
    types: list[str]
    units: str
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    qc: Mapping[str, Any] = field(default_factory=dict)


def write_labels(
    obs: pd.DataFrame,
    types: list[str],
    mean: np.ndarray,
    layers: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    out: Path,
) -> None:
    """Write labels as h5ad: index ``sample/obs_id``, types in alphabetical order, X = mean, metadata in uns."""
    import anndata as ad

    order = np.argsort(np.array(types, dtype=object))
    columns = ["sample", "obs_id", "patient", "flag_low_umi", *obs.columns.intersection(["excess_residual"])]
    obs = obs.assign(
        sample=obs["sample"].astype(str),
        obs_id=obs["obs_id"].astype(str),
        patient=obs["patient"].astype(str),
        flag_low_umi=obs["flag_low_umi"].astype(bool),
    )[columns]
    labels = ad.AnnData(
        np.asarray(mean, dtype=np.float64)[:, order],
        obs=obs.set_axis(obs_keys(obs["sample"], obs["obs_id"]), axis=0),
        var=pd.DataFrame(index=pd.Index([types[i] for i in order], dtype=object)),
        layers={name: np.asarray(value, dtype=np.float64)[:, order] for name, value in layers.items()},
    )
    labels.uns[KEY] = canonical_json(metadata)
    labels.write_h5ad(out)
