"""What label methods take and give, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom import kinds
from histoloom.artefacts import Table, identities_of, write_table
from histoloom.identity import make_identity
from histoloom.obs_keys import observation_keys


@dataclass(frozen=True)
class LabelTask:
    """One fit: a group of sections and an optimiser seed, which methods without a fit ignore."""

    spec: Mapping[str, Any]  # the method's entry (``labels.<method>.schema.yaml``), with its defaults
    cohort: str
    group: str
    seed: int
    samples: Sequence[Path]  # sections of the group
    scratch: Path  # folder of the fit's checkpoints
    reference: Path | None = None
    tables: Sequence[Path] = ()  # published table of the cohort, the user's own, or ground truth of each section
    nuclei: Sequence[Path] = ()  # counted nuclei of the sections, where the method expects cells by them
    genes: Path | None = None  # table through which genes are matched (`histoloom.genes`); None: by name
    threads: int = 1
    granted_mb: float | None = None  # memory of the job; a fit that needs more is refused. None: unknown
    device: str = "cpu"  # from `histoloom.devices.lease_device`

    @property
    def where(self) -> str:
        return f"labels of cohort '{self.cohort}', group '{self.group}' ({self.spec['method']})"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Identity of the labels; a checkpoint, or labels of an earlier try, are used only where it is the same."""
        inputs: dict[str, Any] = {"samples": list(self.samples), "tables": list(self.tables)}
        optional = {"reference": self.reference, "nuclei": list(self.nuclei), "genes": self.genes}
        inputs |= {role: files for role, files in optional.items() if files}
        params: dict[str, Any] = {"spec": science(self.spec), "cohort": self.cohort, "group": self.group}
        if kinds.LABELS[self.spec["method"]].threads_matter:
            params["threads"] = self.threads
        return make_identity("labels", params, identities_of(inputs), self.seed)


def science(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an entry decides the labels of one seed: one more seed leaves the others what they were."""
    return {key: value for key, value in spec.items() if key not in {"seeds", "fits_per_job", "path"}}


@dataclass(frozen=True)
class GroupLabels:
    """What a label method gives."""

    obs: pd.DataFrame  # sample, obs_id, patient, flag_low_umi; excess_residual where the method explains counts
    mean: np.ndarray  # (n, types)
    types: list[str]
    units: str  # "cells" (per spot) or "proportion"
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)  # further statistics (q05, std), (n, types)
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # unlabelled, by sample and reason
    qc: Mapping[str, Any] = field(default_factory=dict)  # facts about the fit, JSON


def write_labels(labels: GroupLabels, metadata: Mapping[str, Any], out: Path) -> None:
    """Write labels as h5ad: index ``cohort/sample/obs_id``, types in alphabetical order, X = mean, metadata in uns."""
    types, obs = labels.types, labels.obs
    order = np.argsort(np.array(types, dtype=object))
    columns = ["sample", "obs_id", "patient", "flag_low_umi", *obs.columns.intersection(["excess_residual"])]
    obs = obs[columns].astype({"sample": str, "obs_id": str, "patient": str, "flag_low_umi": bool})
    obs.insert(0, "cohort", str(metadata["cohort"]))
    table = Table(
        obs=obs.set_axis(observation_keys(obs), axis=0),
        var=pd.DataFrame(index=pd.Index([types[i] for i in order], dtype=object)),
        X=np.asarray(labels.mean, dtype=np.float64)[:, order],
        layers={name: np.asarray(value, dtype=np.float64)[:, order] for name, value in labels.layers.items()},
        metadata=metadata,
    )
    write_table(table, out)
