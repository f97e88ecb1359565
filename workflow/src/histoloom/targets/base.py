"""What a kind of target offers, and the target artefact as the stages to its right read it.

To add a kind: a module with a class that follows `TargetKind`, an entry in `histoloom.kinds.TARGETS`, a schema
``target.<kind>.schema.yaml`` and tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array, issparse

from histoloom.artefacts import Table, read_elements, read_table, write_table
from histoloom.kinds import load
from histoloom.stats import mean_defined, score_columns

Labels = Any
"""Float32 (n, T), CSR (n, T) or integer codes (n,), by the kind of target."""
Files = Mapping[str, Sequence[Path]]


class TargetKind(Protocol):
    """A kind of target. Nothing is fitted in it: it works on each observation alone."""

    def build(self, *, spec: Mapping[str, Any], files: Files, out: Path) -> None:
        """Write the target of an experiment, from its entry and files by role, as far as the config names them.

        Roles: samples and tiles in the same order, labels and truth by cohort, genes (a published list), table (labels
        of observations), ``embeddings_<encoder>`` of encoders that may lack kept tiles.
        """
        ...

    def selection_score(self, prediction: npt.NDArray[Any], y: Labels, section: npt.NDArray[np.intp]) -> float:
        """Return how good validation predictions (n, T) are: higher is better, -inf where nothing can be said."""
        ...

    def reference_prediction(self, y: Labels, n_outputs: int) -> npt.NDArray[np.float64]:
        """Return the (T,) prediction that needs no input, from training labels."""
        ...


class Values:
    """What targets of numbers share: CC as the score of a selection, the training mean as reference."""

    def selection_score(self, prediction: npt.NDArray[Any], y: Labels, section: npt.NDArray[np.intp]) -> float:
        """Return the mean CC over outputs, then sections."""
        return section_score(prediction, y, section)

    def reference_prediction(self, y: Labels, n_outputs: int) -> npt.NDArray[np.float64]:
        """Return the training mean."""
        del n_outputs
        return np.asarray(y.mean(axis=0, dtype=np.float64)).reshape(-1)


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Attributes
    ----------
    obs
        One row per observation: cohort, sample, patient, obs_id, array_row, array_col, x, y (level-0 px), pitch_um,
        um_per_px, qc_flag, low_umi, where annotated region, and for classes label; index ``cohort/sample/obs_id``.
    values
        (n, T) float32, CSR of it, or (n,) class codes.
    outputs
        Names of the T types, genes or classes.
    ground_truth
        Simulated truth aligned with ``values`` (NaN where it lacks a type or an observation), or None.
    """

    obs: pd.DataFrame
    values: Labels
    outputs: list[str]
    ground_truth: npt.NDArray[np.float32] | None
    metadata: Mapping[str, Any]

    @property
    def spatial(self) -> npt.NDArray[np.float64]:
        """Return (n, 2) centres (x, y), level-0 px."""
        return self.obs[["x", "y"]].to_numpy(np.float64)

    @property
    def is_class(self) -> bool:
        """Whether the values are class codes."""
        return bool(np.ndim(self.values) == 1)

    @cached_property
    def position(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.outputs)}

    def labels(self, rows: npt.NDArray[np.intp], outputs: Sequence[str] | None = None) -> Labels:
        """Return the values of rows, of all outputs or of some."""
        values = self.values[rows]
        return values if outputs is None or self.is_class else values[:, [self.position[name] for name in outputs]]


def dense(values: Labels) -> npt.NDArray[Any]:
    """Return (n, T) values as an array."""
    return np.asarray(values.toarray() if issparse(values) else values)


def one_hot(codes: npt.NDArray[np.integer], n_classes: int) -> npt.NDArray[np.float32]:
    """Return (n, C) float32 indicators."""
    return np.eye(n_classes, dtype=np.float32)[codes]


def kind_of(name: str) -> TargetKind:
    return load("targets", name)()


def make_target(*, spec: Mapping[str, Any], files: Files, out: Path) -> None:
    """Write ``targets/{experiment}/target.h5ad``; see `TargetKind.build`."""
    kind_of(spec["target"]["kind"]).build(spec=spec, files=files, out=out)


def write_target(
    obs: pd.DataFrame,
    values: Any,
    outputs: Sequence[str],
    metadata: Mapping[str, Any],
    out: Path,
    layers: Mapping[str, Any] | None = None,
) -> None:
    """Write a target h5ad: X (n, T) float32 or CSR; every kind goes through here."""
    if "region" in obs:
        obs["region"] = obs["region"].fillna("").astype(str)
    var = pd.DataFrame(index=pd.Index(list(outputs), dtype=object))
    spatial = {"spatial": obs[["x", "y"]].to_numpy(np.float64)}
    write_table(Table(obs, var, values, layers or {}, spatial, metadata), out)


def read_target(path: str | Path) -> Target:
    """Read a target artefact without its counts."""
    table = read_table(path, layers=["ground_truth"])
    values = table.X
    if "label" in table.obs:
        values = pd.Index(table.var_names).get_indexer(pd.Index(table.obs["label"]))
    return Target(table.obs, values, table.var_names, table.layers.get("ground_truth"), table.metadata)


def read_counts(path: str | Path) -> csr_array:
    """Return the (n, T) raw counts of an expression target."""
    return csr_array(read_elements(path, ["layers/counts"])["layers/counts"])


def section_score(prediction: npt.NDArray[Any], y: Labels, section: npt.NDArray[np.intp]) -> float:
    """Return the headline CC of validation rows: mean over types within a section, then over sections.

    As in `histoloom.stats.score_columns`, a constant prediction scores 0 and only constant labels are left out.
    """
    labels = dense(y)
    parts = [section == code for code in np.unique(section)]
    score = float(mean_defined([float(mean_defined(score_columns(prediction[p], labels[p])[0])) for p in parts]))
    return score if np.isfinite(score) else -np.inf
