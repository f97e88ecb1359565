"""Join the groups and seeds of a cohort's labels, and say how far the seeds agree."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import Table, identities_of, read_table
from histoloom.errors import InputError
from histoloom.identity import make_identity
from histoloom.labels.artefact import GroupLabels, science, write_labels
from histoloom.obs_keys import obs_keys

logger = logging.getLogger(__name__)


def gather_labels(*, spec: Mapping[str, Any], cohort: str, groups: list[Path], out: Path) -> None:
    """Concatenate groups and average seeds.

    X and the layers q05 and std are means over seeds (std is the mean posterior sd, not the spread between seeds). With
    several seeds each is kept as layer ``seed_<s>``, and agreement is the Pearson correlation between seeds per section
    and type, averaged over pairs of seeds: it says how far the optimiser repeats itself, not how right the labels are.
    `groups` are files of `label_group`, every group with every seed, in the order of the sections.
    """
    where = f"labels of cohort '{cohort}'"
    if not groups:
        raise InputError(where, "there are no groups.", "name at least one section.", code="labels-no-groups")
    tables: dict[int, dict[str, tuple[Path, Table]]] = {}
    facts: list[Mapping[str, Any]] = []
    for path in groups:
        table = read_table(path)
        if "group" not in table.metadata or "seed" not in table.metadata:
            raise InputError(path, "is no label artefact.", "remove it and run again.", code="labels-no-artefact")
        tables.setdefault(int(table.metadata["seed"]), {})[str(table.metadata["group"])] = path, table
        facts.append(table.metadata)
    _check_complete(tables, spec, where)
    units = sorted({m["units"] for m in facts})
    if len(units) > 1:
        problem = f"groups differ in units: {', '.join(units)}."
        raise InputError(where, problem, "label them alike.", code="labels-units")
    seeds = sorted(tables)
    joined = {seed: _concatenate(list(tables[seed].values())) for seed in seeds}
    first = joined[seeds[0]]
    for seed in seeds[1:]:
        if not joined[seed].obs.index.equals(first.obs.index):
            problem = f"seeds {seeds[0]} and {seed} hold different observations."
            raise InputError(where, problem, "remove the label files and run again.", code="labels-seeds-differ")
    values = {seed: joined[seed].X for seed in seeds}
    mean = np.mean([values[s] for s in seeds], axis=0)
    layers = {name: np.mean([joined[s].layers[name] for s in seeds], axis=0) for name in first.layers}
    if len(seeds) > 1:
        layers.update({f"seed_{s}": values[s] for s in seeds})
    types, sample = first.var_names, first.obs["sample"].to_numpy()
    constant = {str(s): _constant(mean[sample == s], types) for s in dict.fromkeys(sample)}
    entry = {**science(spec), "seeds": list(spec["seeds"])}
    identity = make_identity("labels.gather", {"spec": entry, "cohort": cohort}, identities_of({"groups": groups}))
    metadata = {
        "method": spec["method"],
        "spec": entry,
        "cohort": cohort,
        "types": types,
        "units": units[0],
        "seeds": seeds,
        "agreement": seed_agreement(values, sample, types),
        "constant_types": _constant(mean, types),
        "constant_by_sample": {s: names for s, names in constant.items() if names},
        "demo_fit": any(m["qc"].get("demo_fit", False) for m in facts),
        "genes_matched_by": sorted({m["qc"]["genes"]["matched_by"] for m in facts if "genes" in m["qc"]}),
        "qc_failed": [f"{m['group']}.{m['seed']}" for m in facts if m["qc"].get("passed") is False],
        "qc": [{"group": m["group"], "seed": m["seed"], "dropped": m["dropped"], **m["qc"]} for m in facts],
        "identity": identity,
    }
    obs = first.obs
    if "excess_residual" in obs:
        obs = obs.assign(excess_residual=np.mean([joined[s].obs["excess_residual"] for s in seeds], axis=0))
    if metadata["constant_types"]:
        logger.warning("cohort %s: constant label columns: %s", cohort, ", ".join(metadata["constant_types"]))
    write_labels(GroupLabels(obs, mean, types, units[0], layers), metadata, out)


def _check_complete(tables: Mapping[int, Mapping[str, Any]], spec: Mapping[str, Any], where: str) -> None:
    wanted = sorted(spec["seeds"])
    if sorted(tables) != wanted:
        problem = f"seeds {sorted(tables)} were given, the config has {wanted}."
        raise InputError(where, problem, "label every seed.", code="labels-seeds-missing")
    names = {name for groups in tables.values() for name in groups}
    for seed, groups in sorted(tables.items()):
        missing = sorted(names - set(groups))
        if missing:
            problem = f"seed {seed} lacks group {', '.join(missing)}."
            raise InputError(where, problem, "label every group with every seed.", code="labels-groups-missing")


def _concatenate(parts: list[tuple[Path, Table]]) -> Table:
    first_path, first = parts[0]
    for path, part in parts:
        if part.var_names != first.var_names:
            difference = sorted(set(part.var_names) ^ set(first.var_names))
            problem = f"its types differ from those of {first_path}: {', '.join(difference)}."
            raise InputError(path, problem, "label all groups with one reference.", code="labels-types-differ")
        if set(part.layers) != set(first.layers):
            problem = f"its layers differ from those of {first_path}."
            raise InputError(path, problem, "label all groups with one method.", code="labels-layers-differ")
    obs = pd.concat([part.obs for _, part in parts])
    obs = obs.set_axis(obs_keys(obs["sample"], obs["obs_id"]))
    if obs.index.has_duplicates:
        problem = f"observation '{obs.index[obs.index.duplicated()][0]}' is in two groups."
        raise InputError(first_path, problem, "put each section in one group.", code="labels-observation-twice")
    layers = {name: np.concatenate([part.layers[name] for _, part in parts]) for name in first.layers}
    return Table(obs, first.var, np.concatenate([part.X for _, part in parts]), layers)


def _constant(values: np.ndarray, types: list[str]) -> list[str]:
    return [name for name, spread in zip(types, np.ptp(values, axis=0), strict=True) if spread == 0]


def seed_agreement(values: Mapping[int, np.ndarray], sample: np.ndarray, types: list[str]) -> list[dict[str, Any]]:
    """Return the mean Pearson correlation between seeds, by section and type; empty with one seed.

    `values` holds labels (n, T) by seed. Rows: sample, type, r (None where a column is constant), pairs.
    """
    agreement = []
    for name in dict.fromkeys(sample):
        rows = sample == name
        for column, kind in enumerate(types):
            pairs = []
            for a, b in combinations(sorted(values), 2):
                x, y = values[a][rows, column], values[b][rows, column]
                if len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0:
                    pairs.append(float(np.corrcoef(x, y)[0, 1]))
            if len(values) > 1:
                r = round(float(np.mean(pairs)), 6) if pairs else None
                agreement.append({"sample": str(name), "type": kind, "r": r, "pairs": len(pairs)})
    return agreement
