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
from histoloom.samples.section import Section, open_section
from histoloom.stats import Floats


@dataclass(frozen=True)
class Labels:
    """Labels of one cohort; the index of obs is ``cohort/sample/obs_id``."""

    obs: pd.DataFrame  # cohort, sample, obs_id, patient, qc_flag and, where the method has it, excess_residual
    types: list[str]
    values: Floats  # (n, types)
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
            patient, qc_flag = self.obs.iloc[index[0]][["patient", "qc_flag"]].astype(str)
            places.append((place_of(self.cohort, str(sample), patient, qc_flag), np.asarray(index)))
        return places

    def shared_sections(self, other: Labels) -> list[tuple[dict[str, str], np.ndarray, np.ndarray]]:
        """Return each section's place with the positions of observations in both, here and in the other labels."""
        position = other.obs.index.get_indexer(self.obs.index)
        if not (position >= 0).any():
            problem = f"shares no observation with {other.path}."
            raise InputError(self.path, problem, "label the same sections.", code="check-no-shared-observation")
        known = [(place, index[position[index] >= 0]) for place, index in self.sections()]
        return [(place, index, position[index]) for place, index in known]

    def sum_of(self, wanted: str | Sequence[str], where: str) -> Floats:
        """Return (n,) abundance of one type, or of several together."""
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        for name in names:
            if name not in self.types:
                problem, remedy = f"'{name}' is no type of {self.path}.", f"use its types: {', '.join(self.types)}."
                raise InputError(where, problem, remedy, code="check-unknown-type")
        total: Floats = self.values[:, [self.types.index(name) for name in names]].sum(axis=1)
        return total

    def flagged(self, qc_flags: Mapping[str, str]) -> Labels:
        """Return the labels with the QC flags of their sections."""
        flags = self.obs["sample"].map(qc_flags).fillna(self.obs["qc_flag"])
        return replace(self, obs=self.obs.assign(qc_flag=flags))


def place_of(cohort: str, sample: str, patient: str, qc_flag: str) -> dict[str, str]:
    """Return a section's place, as columns of a metrics table."""
    return {"fold": "", "cohort": cohort, "sample": sample, "patient": patient, "qc_flag": qc_flag}


def read_labels(path: str | Path) -> Labels:
    """Read the gathered labels of a cohort."""
    table = read_table(path, layers=[])
    obs = table.obs[["sample", "obs_id", "patient"]].astype(str)
    obs = obs.assign(cohort=str(table.metadata.get("cohort") or Path(path).stem))
    obs["qc_flag"] = table.obs["qc_flag"].astype(str).to_numpy() if "qc_flag" in table.obs else ""
    if "excess_residual" in table.obs:
        obs["excess_residual"] = table.obs["excess_residual"].to_numpy(dtype=float)
    obs = obs.set_axis(observation_keys(obs))
    return Labels(obs, table.var_names, dense(table.X), dict(table.metadata), Path(path))


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


def sections_of(paths: Sequence[Path], cohort: str) -> tuple[list[Section], dict[str, str]]:
    """Return a cohort's sections, and their QC flags."""
    sections = [section for section in map(open_section, paths) if section.cohort == cohort]
    return sections, {section.sample: str(section.metadata.get("qc_flag") or "") for section in sections}


def read_regions(paths: Sequence[Path], cohort: str) -> tuple[pd.Series, dict[str, str]]:
    """Return regions by observation ("" where not annotated), and QC flags by section, of a cohort's sections."""
    sections, qc_flags = sections_of(paths, cohort)
    regions = [
        section.obs["region"].astype(object).fillna("").set_axis(obs_keys(cohort, section.sample, section.obs.index))
        for section in sections
        if "region" in section.obs
    ]
    if not regions:
        problem = "no section has a pathologist's regions."
        raise InputError(f"cohort '{cohort}'", problem, "name sections with `regions`.", code="check-no-regions")
    return pd.concat(regions), qc_flags


def joined(wanted: str | Sequence[str]) -> str:
    """Return one or several names as one."""
    return wanted if isinstance(wanted, str) else " + ".join(wanted)
