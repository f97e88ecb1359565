"""Judges of labels: planted truth, other labels, a pathologist's regions. Nobody trained on them.

A judge reads the gathered labels of its cohorts and writes rows like a model's: ``model`` is the name of the labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import identities_of, read_metadata
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.auroc import auroc_with_interval
from histoloom.metrics.correlation import Floats, column_correlation, cross_correlation
from histoloom.metrics.rows import assemble, write_metrics

logger = logging.getLogger(__name__)

STAGE_VERSION = 1


@dataclass(frozen=True)
class Labels:
    """Labels of one cohort: obs with sample, obs_id, patient and badge; index ``cohort/sample/obs_id``."""

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
    badge = data.obs["badge"].astype(str).to_numpy() if "badge" in data.obs else ""
    obs = obs.assign(cohort=cohort, badge=badge)
    obs.index = pd.Index(obs["cohort"] + "/" + obs["sample"] + "/" + obs["obs_id"])
    values = np.asarray(data.X.toarray() if hasattr(data.X, "toarray") else data.X, dtype=np.float64)
    return Labels(obs, [str(name) for name in data.var_names], values, metadata, Path(path))


def _place(obs: pd.DataFrame, patient: str) -> dict[str, str]:
    first = obs.iloc[0]
    return {
        "fold": "", "cohort": str(first["cohort"]), "sample": str(first["sample"]), "patient": patient,
        "badge": str(first["badge"]),
    }  # fmt: skip


def _sections(labels: Labels) -> list[tuple[dict[str, str], np.ndarray]]:
    """Return each section's place and the positions of its observations, in order of name."""
    found = []
    for _, index in sorted(labels.obs.groupby("sample", sort=True).indices.items()):
        part = labels.obs.iloc[index]
        found.append((_place(part, str(part["patient"].iloc[0])), np.asarray(index)))
    return found


def _members(types: Sequence[str], wanted: str | Sequence[str], where: str, path: Path) -> list[int]:
    """Return the columns of one or several types, whose abundances are summed."""
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    missing = [name for name in names if name not in types]
    if missing:
        raise InputError(where, f"'{missing[0]}' is no type of {path}.", f"use its types: {', '.join(types)}.")
    return [list(types).index(name) for name in names]


def _joined(wanted: str | Sequence[str]) -> str:
    return wanted if isinstance(wanted, str) else " + ".join(wanted)


def score_truth(spec: Mapping[str, Any], labels: Labels, truth: Labels) -> list[pd.DataFrame]:
    """Correlate every label type with every planted type, section by section.

    Returns
    -------
    list of DataFrame
        ``cc`` with target = label type, target2 = planted type; ``diagonal_is_max`` (1 or 0) for each label type whose
        namesake was planted: whether its largest cohort mean lies with its namesake.
    """
    common = labels.obs.index.intersection(truth.obs.index)
    if common.empty:
        raise InputError(labels.path, f"shares no observation with {truth.path}.", "label the same sections.")
    position = truth.obs.index.get_indexer(labels.obs.index)
    first = np.repeat(labels.types, len(truth.types))
    second = np.tile(truth.types, len(labels.types))
    parts = []
    for place, index in _sections(labels):
        index = index[position[index] >= 0]
        matrix = cross_correlation(labels.values[index], truth.values[position[index]]).ravel()
        parts.append(
            pd.DataFrame(
                {"metric": "cc", "target": first, "target2": second, "value": matrix, "n": len(index),
                 "n_nan": np.isnan(matrix).astype(int), **place}
            )
        )  # fmt: skip
    rows = roll_up(pd.concat(parts, ignore_index=True), types=False)
    cohort = rows[rows["aggregation"] == "cohort"].pivot(index="target", columns="target2", values="value")
    checks = []
    for name in cohort.index.intersection(cohort.columns):
        # Two readings must agree: no planted type fits the label better, no label fits the planted type better.
        row, column = cohort.loc[name].dropna(), cohort[name].dropna()
        own = cohort.loc[name, name]
        hit = float(own == row.max() and own == column.max()) if np.isfinite(own) else np.nan
        checks.append({"metric": "diagonal_is_max", "target": name, "target2": name, "value": hit, "n": len(row)})
    base = {"cohort": labels.obs["cohort"].iloc[0], "aggregation": "cohort"}
    check = pd.DataFrame(checks).assign(**base) if checks else pd.DataFrame()
    return [rows, check.assign(n_nan=check["value"].isna().astype(int)) if len(check) else check]


def score_agreement(spec: Mapping[str, Any], labels: Labels, other: Labels) -> list[pd.DataFrame]:
    """Correlate labels with other labels, type by type through the judge's map.

    Parameters
    ----------
    spec
        ``map``: {type of the labels: type or types of the others, whose abundances are summed}; empty: the types that
        both have.
    labels, other
        Of the same cohort.
    """
    pairs = dict(spec.get("map") or {}) or {name: name for name in labels.types if name in other.types}
    where = f"judges.{spec.get('name', '?')}.map"
    if not pairs:
        raise InputError(where, f"{labels.path} and {other.path} share no type.", "say which type is which.")
    position = other.obs.index.get_indexer(labels.obs.index)
    if not (position >= 0).any():
        raise InputError(labels.path, f"shares no observation with {other.path}.", "label the same sections.")
    mine = np.column_stack([labels.values[:, _members(labels.types, a, where, labels.path)].sum(axis=1) for a in pairs])
    theirs = np.column_stack(
        [other.values[:, _members(other.types, b, where, other.path)].sum(axis=1) for b in pairs.values()]
    )
    parts = []
    for place, index in _sections(labels):
        index = index[position[index] >= 0]
        value, n = column_correlation(mine[index], theirs[position[index]])
        parts.append(
            pd.DataFrame(
                {"metric": "cc", "target": list(pairs), "target2": [_joined(b) for b in pairs.values()],
                 "value": value, "n": n, "n_nan": np.isnan(value).astype(int), **place}
            )
        )  # fmt: skip
    return [roll_up(pd.concat(parts, ignore_index=True), types=True)]


def score_regions(spec: Mapping[str, Any], labels: Labels, regions: pd.Series) -> list[pd.DataFrame]:
    """Ask whether a type is more abundant inside a pathologist's region than in the section's other regions.

    Parameters
    ----------
    spec
        ``pairs``: list of {type, region}, either one name or a list; ``ignore``: regions that count as not annotated.
    labels
        Of one cohort.
    regions
        Region by ``cohort/sample/obs_id``; "" where there is none.

    Returns
    -------
    list of DataFrame
        ``auroc`` per section, patient and cohort; ``auroc_low``, ``auroc_high`` (95 %, DeLong) and ``n_inside`` per
        section; ``sections_skipped`` per cohort: sections without both sides.
    """
    where = f"judges.{spec.get('name', '?')}.pairs"
    # An observation that nobody annotated says nothing about being outside.
    region = regions.reindex(labels.obs.index).fillna("").replace(dict.fromkeys(spec.get("ignore") or [], ""))
    known = sorted(set(region) - {""})
    parts, skipped = [], []
    for pair in spec["pairs"]:
        columns = _members(labels.types, pair["type"], where, labels.path)
        names = [pair["region"]] if isinstance(pair["region"], str) else list(pair["region"])
        absent = [name for name in names if name not in known]
        if absent:
            raise InputError(
                where,
                f"region '{absent[0]}' is in no section of cohort '{labels.obs['cohort'].iloc[0]}'.",
                f"use: {', '.join(known) or 'no section is annotated; choose other sections'}.",
            )
        score = labels.values[:, columns].sum(axis=1)
        quantity = {"target": _joined(pair["type"]), "target2": _joined(pair["region"])}
        missing = 0
        for place, index in _sections(labels):
            index = index[region.to_numpy()[index] != ""]
            inside = region.iloc[index].isin(names).to_numpy()
            if inside.all() or not inside.any():
                missing += 1
                continue
            value, low, high = auroc_with_interval(inside, score[index])
            numbers = {"auroc": value, "auroc_low": low, "auroc_high": high, "n_inside": float(inside.sum())}
            parts += [
                {"metric": m, "value": v, "n": len(index), "n_nan": int(np.isnan(v)), **quantity, **place}
                for m, v in numbers.items()
            ]
        skipped.append({"metric": "sections_skipped", "value": float(missing), "n": missing, **quantity})
    cohort = {"cohort": labels.obs["cohort"].iloc[0], "aggregation": "cohort"}
    found = [pd.DataFrame(skipped).assign(**cohort)]
    if parts:
        rows = pd.DataFrame(parts)
        main = rows["metric"] == "auroc"
        found += [roll_up(rows[main], types=False), rows[~main].assign(aggregation="section")]
    return found


def _read_regions(paths: Sequence[Path], cohort: str) -> tuple[pd.Series, dict[str, str]]:
    """Return regions by observation, and badges by section, of a cohort's section artefacts."""
    import h5py
    from anndata.io import read_elem

    found, badges = [], {}
    for path in paths:
        metadata = read_metadata(path)
        if metadata.get("cohort") != cohort:
            continue
        sample = str(metadata["sample"])
        badges[sample] = str(metadata.get("badge") or "")
        with h5py.File(path, "r") as handle:
            obs = read_elem(handle["obs"])
        if "region" in obs:
            keys = cohort + "/" + sample + "/" + obs.index.astype(str)
            found.append(pd.Series(obs["region"].astype(object).fillna("").to_numpy(), index=keys, dtype=object))
    if not found:
        raise InputError(
            f"cohort '{cohort}'", "no section has a pathologist's regions.", "name sections with a `regions` table."
        )
    return pd.concat(found), badges


def _badged(labels: Labels, badges: Mapping[str, str]) -> Labels:
    badge = labels.obs["sample"].map(badges).fillna(labels.obs["badge"])
    return Labels(labels.obs.assign(badge=badge), labels.types, labels.values, labels.metadata, labels.path)


def score_labels(*, spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path], out: Path) -> None:
    """Write ``metrics/judges/{judge}.parquet``.

    Parameters
    ----------
    spec
        The judge's entry and its ``name``: kind ``truth``, ``labels`` or ``regions``.
    labels
        Gathered labels, one file per cohort.
    against
        Gathered labels per cohort (truth, labels), or section artefacts of all cohorts (regions).
    out
        File to write; rows have ``model`` = name of the labels, ``against`` = truth, labels or regions.

    Raises
    ------
    InputError
        If a cohort is missing on one side, or a name in ``map`` or ``pairs`` does not exist.
    """
    judges = {"truth": score_truth, "labels": score_agreement}
    others = (
        {} if spec["kind"] == "regions" else {item.obs["cohort"].iloc[0]: item for item in map(read_labels, against)}
    )
    parts: list[pd.DataFrame] = []
    for path in labels:
        mine = read_labels(path)
        cohort = str(mine.obs["cohort"].iloc[0])
        if spec["kind"] == "regions":
            regions, badges = _read_regions(against, cohort)
            found = score_regions(spec, _badged(mine, badges), regions)
        elif cohort in others:
            found = judges[spec["kind"]](spec, mine, others[cohort])
        else:
            raise InputError(
                f"judges.{spec.get('name', '?')}",
                f"cohort '{cohort}' has nothing to compare with.",
                "label it both ways.",
            )
        stamp = {"judge": dict(spec), "labels": {k: mine.metadata.get(k) for k in ("method", "units", "seeds", "seed")}}
        parts += [part.assign(protocol=canonical_json(stamp)) for part in found if len(part)]
    against_name = {"truth": "truth", "labels": "labels", "regions": "regions"}[spec["kind"]]
    frame = assemble(parts, model=str(spec["labels"]), against=against_name)
    logger.info("judge %s: %d rows", spec.get("name", ""), len(frame))
    identity = make_identity(
        "judges", STAGE_VERSION, {"spec": spec}, identities_of({"labels": labels, "against": against})
    )
    write_metrics(frame, out, {"judge": spec.get("name", ""), "kind": spec["kind"], "identity": identity})
