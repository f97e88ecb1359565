"""Cell-type abundance: labels of a method, joined with sections and kept tiles, after the experiment's recipe."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from histoloom.artefacts import dense, read_elements, read_metadata
from histoloom.errors import InputError
from histoloom.obs_keys import obs_keys
from histoloom.targets.base import Files, Values, write_target
from histoloom.targets.sections import Observed, common_facts, join_sections

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CohortLabels:
    """Labels of one cohort: (n, T) ``values`` by ``sample/obs_id`` index and ``types``."""

    path: Path
    keys: pd.Index
    values: Floats
    types: list[str]
    metadata: Mapping[str, Any]


class Abundance(Values):
    """Abundance of cell types: X float32 (n, types), layer ``ground_truth`` for simulated cohorts."""

    def build(self, *, spec: Mapping[str, Any], files: Files, out: Path) -> None:
        recipe = spec["target"]
        labels = _by_cohort(files["labels"], recipe["statistic"])
        truth = _by_cohort(files.get("truth", []), "mean")
        types, types_dropped = _common_types(labels)
        if types_dropped:
            logger.warning("types that not all cohorts have are left out: %s", types_dropped)
        values, truths = [], []

        def join(section: Observed) -> npt.NDArray[np.bool_]:
            cohort, keys = section.cohort, obs_keys(section.sample, section.obs.index)
            if cohort not in labels:
                known = f"no labels for cohort '{cohort}'; there are: {', '.join(labels)}."
                raise InputError(section.path, known, "label this cohort too.", code="labels-cohort")
            own = _aligned(labels[cohort], keys, types, recipe["transform"])
            present, known_value = np.isin(keys, labels[cohort].keys), np.isfinite(own).all(axis=1)
            section.step["labelled"] = int((section.kept & present).sum())
            section.step["label_nan"] = int((section.kept & present & ~known_value).sum())
            values.append(own)
            simulated = cohort in truth
            truths.append(_aligned(truth[cohort], keys, types, recipe["transform"]) if simulated else own * np.nan)
            return present & known_value

        sections = join_sections(files, join, "labelled")
        joined = [section.joined for section in sections]
        x = np.concatenate([v[rows] for v, rows in zip(values, joined, strict=True)]).astype(np.float32)
        constant = [name for name, column in zip(types, x.T, strict=True) if column.min() == column.max()]
        if len(constant) == len(types):
            problem, remedy = "every label column is constant.", "look at the label method's QC."
            raise InputError(f"labels '{spec['labels']}'", problem, remedy, code="labels-constant")
        metadata = {
            **common_facts(sections, spec, files),
            "demo_fit": any(item.metadata.get("demo_fit") for item in labels.values()),
            "joint_fit": any(m.metadata.get("spec", {}).get("group_by") == "cohort" for m in labels.values()),
            "genes_matched_by": _matched_by(labels),
            "units": _units(labels, recipe["transform"]),
            "truth_units": _units(truth, recipe["transform"]) if truth else None,
            "constant_types": constant,
            "types_dropped": types_dropped,
        }
        layers = {}
        if truth:
            layers["ground_truth"] = np.concatenate([v[rows] for v, rows in zip(truths, joined, strict=True)])
        obs = pd.concat([section.table() for section in sections])
        write_target(obs, x, types, metadata, out, {name: v.astype(np.float32) for name, v in layers.items()})


def read_labels(path: Path, statistic: str = "mean") -> CohortLabels:
    """Read one cohort's labels: ``mean`` is X, another statistic a layer such as ``q05``."""
    name = "X" if statistic == "mean" else f"layers/{statistic}"
    parts = read_elements(path, ["obs", "var", name])
    if name not in parts:
        remedy = "set `target.statistic: mean` or use cell2location labels."
        raise InputError(path, f"these labels have no statistic '{statistic}'.", remedy, code="labels-statistic")
    values, keys = dense(parts[name]), obs_keys(parts["obs"]["sample"], parts["obs"]["obs_id"])
    types = [str(item) for item in parts["var"].index]
    for what, index in (("observation", keys), ("cell type", pd.Index(types))):
        twice = index[index.duplicated()]
        if len(twice):
            remedy = "remove the labels and run again."
            raise InputError(path, f"{what} '{twice[0]}' occurs twice.", remedy, code="labels-twice")
    if np.isinf(values).any():
        remedy = "look at the label method's QC; remove the labels and run again."
        raise InputError(path, "holds infinite abundances.", remedy, code="labels-infinite")
    return CohortLabels(path, keys, values, types, read_metadata(path))


def apply_recipe(values: Floats, transform: str, where: str | Path) -> Floats:
    """Transform (n, T) abundances, NaN where unknown, observation by observation.

    A ``proportion`` is of the row's known total; a row without any becomes NaN.
    """
    if transform == "none":
        return values
    if (values < 0).any():
        problem = f"negative abundances cannot be made {transform}."
        raise InputError(where, problem, "set `target.transform: none`.", code="labels-negative")
    if transform == "log1p":
        return np.log1p(values)
    total = np.nansum(values, axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, values / total, np.nan)


def _by_cohort(paths: Sequence[Path], statistic: str) -> dict[str, CohortLabels]:
    """Read label files by cohort (its metadata, else the file's name)."""
    tables = [read_labels(Path(path), statistic) for path in paths]
    return {str(table.metadata.get("cohort", table.path.stem)): table for table in tables}


def _common_types(labels: Mapping[str, CohortLabels]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the types all cohorts have, in the first cohort's order, and each cohort's further ones."""
    shared = set.intersection(*(set(item.types) for item in labels.values()))
    types = [name for name in next(iter(labels.values())).types if name in shared]
    if not types:
        where, remedy = " + ".join(str(item.path) for item in labels.values()), "label all with the same reference."
        raise InputError(where, "the cohorts' labels share no cell type.", remedy, code="labels-types")
    extra = {cohort: [t for t in item.types if t not in shared] for cohort, item in labels.items()}
    return types, {cohort: names for cohort, names in extra.items() if names}


def _aligned(labels: CohortLabels, keys: pd.Index, types: Sequence[str], transform: str) -> Floats:
    """Return (len(keys), len(types)) after the recipe; NaN where the labels lack an observation or a type."""
    # The recipe comes before types are chosen: a proportion is of all types the labels know.
    table = pd.DataFrame(apply_recipe(labels.values, transform, labels.path), labels.keys, labels.types)
    return table.reindex(index=keys, columns=list(types)).to_numpy(np.float64)


def _units(labels: Mapping[str, CohortLabels], transform: str) -> str:
    """Return the units of the target: those of the labels, after the transform."""
    units = "+".join(sorted({str(item.metadata.get("units", "unstated")) for item in labels.values()}))
    return {"none": units, "log1p": f"log1p({units})", "proportion": "proportion"}[transform]


def _matched_by(labels: Mapping[str, CohortLabels]) -> str | None:
    """Return how genes of sections and reference were matched for the labels; None for labels that read no genes."""
    ways = sorted({way for item in labels.values() for way in item.metadata.get("genes_matched_by") or []})
    return "+".join(ways) or None
