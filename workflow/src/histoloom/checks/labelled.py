"""Labels, and predictions read as labels, as checks read them: one cohort, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import dense, read_table
from histoloom.errors import InputError
from histoloom.metrics.scored import read_predictions
from histoloom.obs_keys import obs_keys, observation_keys
from histoloom.samples.section import open_section
from histoloom.stats import Floats


@dataclass(frozen=True)
class Labels:
    """Labels of one cohort.

    Attributes
    ----------
    obs
        cohort, sample, obs_id, patient, qc_flag and, where the method has it, excess_residual; index
        ``cohort/sample/obs_id``.
    types
        Cell types, the columns of `values`.
    values
        (n, types).
    metadata, path
        Of the file.
    """

    obs: pd.DataFrame
    types: list[str]
    values: Floats
    metadata: Mapping[str, Any]
    path: Path

    @property
    def cohort(self) -> str:
        """The cohort's name."""
        return str(self.obs["cohort"].iloc[0])

    def sections(self) -> list[tuple[dict[str, str], np.ndarray]]:
        """Return each section's place, as columns of a metrics table, and the positions of its observations."""
        places = []
        for sample, index in sorted(self.obs.groupby("sample", sort=True).indices.items()):
            first = self.obs.iloc[index[0]]
            place = {"fold": "", "cohort": self.cohort, "sample": str(sample), "patient": str(first["patient"]),
                     "qc_flag": str(first["qc_flag"])}  # fmt: skip
            places.append((place, np.asarray(index)))
        return places

    def shared_sections(self, other: Labels) -> list[tuple[dict[str, str], np.ndarray, np.ndarray]]:
        """Return each section's place with the positions of observations in both, here and in the other labels."""
        position = other.obs.index.get_indexer(self.obs.index)
        if not (position >= 0).any():
            raise InputError(
                self.path, f"shares no observation with {other.path}.", "label the same sections.",
                code="check-no-shared-observation",
            )  # fmt: skip
        known = [(place, index[position[index] >= 0]) for place, index in self.sections()]
        return [(place, index, position[index]) for place, index in known]

    def sum_of(self, wanted: str | Sequence[str], where: str) -> Floats:
        """Return (n,) abundance of one type, or of several together."""
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        missing = [name for name in names if name not in self.types]
        if missing:
            raise InputError(
                where, f"'{missing[0]}' is no type of {self.path}.", f"use its types: {', '.join(self.types)}.",
                code="check-unknown-type",
            )  # fmt: skip
        total: Floats = self.values[:, [self.types.index(name) for name in names]].sum(axis=1)
        return total

    def flagged(self, qc_flags: Mapping[str, str]) -> Labels:
        """Return the labels with the QC flags of their sections."""
        flags = self.obs["sample"].map(qc_flags).fillna(self.obs["qc_flag"])
        return replace(self, obs=self.obs.assign(qc_flag=flags))


def read_labels(path: str | Path) -> Labels:
    """Read the gathered labels of a cohort."""
    table = read_table(path, layers=[])
    obs = table.obs[["sample", "obs_id", "patient"]].astype(str)
    obs = obs.assign(cohort=str(table.metadata.get("cohort") or Path(path).stem))
    obs["qc_flag"] = table.obs["qc_flag"].astype(str).to_numpy() if "qc_flag" in table.obs else ""
    if "excess_residual" in table.obs:
        obs["excess_residual"] = table.obs["excess_residual"].to_numpy(dtype=float)
    return Labels(
        obs.set_axis(observation_keys(obs)), table.var_names, dense(table.X), dict(table.metadata), Path(path)
    )


def read_predicted(path: str | Path) -> list[Labels]:
    """Read held-out predictions as labels, one item per cohort.

    An observation that several folds test gets the mean over them. ``metadata["method"]`` is ``prediction``.
    """
    scored = read_predictions(path)
    metadata = {"method": "prediction", **scored.metadata}
    keys = observation_keys(scored.obs)
    first = ~keys.duplicated()
    mean = pd.DataFrame(scored.prediction).groupby(keys.to_numpy(), sort=False).mean().loc[keys[first]].to_numpy()
    obs = scored.obs[first].set_axis(keys[first])
    return [
        Labels(obs.iloc[index], scored.types, mean[index], metadata, Path(path))
        for _, index in sorted(obs.groupby("cohort", sort=True).indices.items())
    ]


def read_regions(paths: Sequence[Path], cohort: str) -> tuple[pd.Series, dict[str, str]]:
    """Return regions by observation ("" where not annotated), and QC flags by section, of a cohort's sections."""
    parts, qc_flags = [], {}
    for section in map(open_section, paths):
        if section.cohort != cohort:
            continue
        qc_flags[section.sample] = str(section.metadata.get("qc_flag") or "")
        if "region" in section.obs:
            keys = obs_keys(cohort, section.sample, section.obs.index)
            parts.append(pd.Series(section.obs["region"].astype(object).fillna("").to_numpy(), index=keys))
    if not parts:
        raise InputError(
            f"cohort '{cohort}'", "no section has a pathologist's regions.", "name sections with a `regions` table.",
            code="check-no-regions",
        )  # fmt: skip
    return pd.concat(parts), qc_flags


def joined(wanted: str | Sequence[str]) -> str:
    """Return one or several names as one."""
    return wanted if isinstance(wanted, str) else " + ".join(wanted)
