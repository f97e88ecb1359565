"""Checks of labels and predictions: ground truth, other labels, regions, nuclei, chance. No model trained on them.

A check reads the gathered labels of its cohorts and writes rows like a model's: ``model`` is the name of the labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import identities_of
from histoloom.errors import InputError
from histoloom.identity import canonical_json, make_identity
from histoloom.metrics.aggregate import roll_up
from histoloom.metrics.auroc import auroc_with_interval
from histoloom.metrics.ceiling import score_ceiling
from histoloom.metrics.coloc_check import read_positions, score_significance
from histoloom.metrics.labelled import Labels, flagged, joined, members, read_labels, read_predicted, sections_of
from histoloom.metrics.rows import assemble, write_metrics
from histoloom.metrics.sensitivity import differences, score_sensitivity
from histoloom.metrics.tissue_checks import read_nuclei, score_kept, score_nuclei, score_residual
from histoloom.obs_keys import obs_keys
from histoloom.samples.section import open_section
from histoloom.stats import pearson_columns, pearson_cross

logger = logging.getLogger(__name__)


def score_truth(spec: Mapping[str, Any], labels: Labels, truth: Labels) -> list[pd.DataFrame]:
    """Correlate every label type with every type of the ground truth, section by section.

    Returns
    -------
    list of DataFrame
        ``cc`` with target = label type, target2 = ground truth type; ``diagonal_is_max`` (1 or 0) for each label type
        whose namesake is in the ground truth: whether its largest cohort mean lies with its namesake.
    """
    common = labels.obs.index.intersection(truth.obs.index)
    if common.empty:
        raise InputError(labels.path, f"shares no observation with {truth.path}.", "label the same sections.")
    position = truth.obs.index.get_indexer(labels.obs.index)
    first = np.repeat(labels.types, len(truth.types))
    second = np.tile(truth.types, len(labels.types))
    parts = []
    for place, index in sections_of(labels):
        index = index[position[index] >= 0]
        matrix = pearson_cross(labels.values[index], truth.values[position[index]]).ravel()
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
        # Two readings must agree: no true type fits the label better, no label fits the true type better.
        row, column = cohort.loc[name].dropna(), cohort[name].dropna()
        own = cohort.loc[name, name]
        hit = float(own == row.max() and own == column.max()) if np.isfinite(own) else np.nan
        checks.append({"metric": "diagonal_is_max", "target": name, "target2": name, "value": hit, "n": len(row)})
    base = {"cohort": labels.obs["cohort"].iloc[0], "aggregation": "cohort"}
    check = pd.DataFrame(checks).assign(**base) if checks else pd.DataFrame()
    return [rows, check.assign(n_nan=check["value"].isna().astype(int)) if len(check) else check]


def score_agreement(spec: Mapping[str, Any], labels: Labels, other: Labels) -> list[pd.DataFrame]:
    """Correlate labels with other labels, type by type through the check's map.

    Parameters
    ----------
    spec
        ``map``: {type of the labels: type or types of the others, whose abundances are summed}; empty: the types that
        both have.
    labels, other
        Of the same cohort.
    """
    pairs = dict(spec.get("map") or {}) or {name: name for name in labels.types if name in other.types}
    where = f"checks.{spec.get('name', '?')}.map"
    if not pairs:
        raise InputError(where, f"{labels.path} and {other.path} share no type.", "say which type is which.")
    position = other.obs.index.get_indexer(labels.obs.index)
    if not (position >= 0).any():
        raise InputError(labels.path, f"shares no observation with {other.path}.", "label the same sections.")
    mine = np.column_stack([labels.values[:, members(labels.types, a, where, labels.path)].sum(axis=1) for a in pairs])
    theirs = np.column_stack(
        [other.values[:, members(other.types, b, where, other.path)].sum(axis=1) for b in pairs.values()]
    )
    parts = []
    for place, index in sections_of(labels):
        index = index[position[index] >= 0]
        value, n = pearson_columns(mine[index], theirs[position[index]])
        parts.append(
            pd.DataFrame(
                {"metric": "cc", "target": list(pairs), "target2": [joined(b) for b in pairs.values()],
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
    where = f"checks.{spec.get('name', '?')}.pairs"
    # An observation without annotation says nothing about being outside.
    region = regions.reindex(labels.obs.index).fillna("").replace(dict.fromkeys(spec.get("ignore") or [], ""))
    known = sorted(set(region) - {""})
    parts, skipped = [], []
    for pair in spec["pairs"]:
        columns = members(labels.types, pair["type"], where, labels.path)
        names = [pair["region"]] if isinstance(pair["region"], str) else list(pair["region"])
        absent = [name for name in names if name not in known]
        if absent:
            raise InputError(
                where,
                f"region '{absent[0]}' is in no section of cohort '{labels.obs['cohort'].iloc[0]}'.",
                f"use: {', '.join(known) or 'no section is annotated; choose other sections'}.",
            )
        score = labels.values[:, columns].sum(axis=1)
        quantity = {"target": joined(pair["type"]), "target2": joined(pair["region"])}
        missing = 0
        for place, index in sections_of(labels):
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
    """Return regions by observation, and qc_flags by section, of a cohort's section artefacts."""
    found, qc_flags = [], {}
    for path in paths:
        section = open_section(path)
        if section.cohort != cohort:
            continue
        qc_flags[section.sample] = str(section.metadata.get("qc_flag") or "")
        if "region" in section.obs:
            keys = obs_keys(cohort, section.sample, section.obs.index)
            found.append(pd.Series(section.obs["region"].fillna("").to_numpy(), index=keys, dtype=object))
    if not found:
        raise InputError(
            f"cohort '{cohort}'", "no section has a pathologist's regions.", "name sections with a `regions` table."
        )
    return pd.concat(found), qc_flags


_AGAINST = {
    "truth": "truth", "labels": "labels", "regions": "regions", "predicted_regions": "regions", "ceiling": "halves",
    "sensitivity": "labels", "colocalization": "permutations", "nuclei": "nuclei", "predicted_nuclei": "nuclei",
    "kept": "regions", "residual": "regions",
}  # fmt: skip
_STAMPED = ("method", "units", "seeds", "seed", "demo_fit", "variants")
_PAIRED = {"truth": score_truth, "labels": score_agreement, "ceiling": score_ceiling}
Found = tuple[str, list[pd.DataFrame], Mapping[str, Any]]


def run_check(*, spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path], out: Path) -> None:
    """Write ``metrics/checks/{check}.parquet``.

    Parameters
    ----------
    spec
        The check's entry and its ``name``; see ``workflow/schemas/check.<kind>.schema.yaml``.
    labels
        What is checked: gathered labels, one file per cohort; predictions, one per model (``predicted_...``); gathered
        labels of several entries, in folders of their names (``sensitivity``); of the first halves (``ceiling``); tile
        tables (``kept``).
    against
        Gathered labels per cohort (``truth``, ``labels``, ``ceiling``: the second halves), section artefacts
        (``regions``, ``residual``, ``kept``, ``colocalization``) or counted nuclei (``nuclei``) of all cohorts; nothing
        (``sensitivity``).
    out
        File to write; rows have ``model`` = name of the labels or of the model, ``against`` = what they were held to.

    Raises
    ------
    InputError
        If a cohort is missing on one side, or a name in ``map`` or ``pairs`` does not exist.
    """
    kind = str(spec["kind"])
    if kind in _PAIRED:
        found = _check_pairs(spec, labels, against)
    elif kind == "sensitivity":
        found = _check_variants(spec, labels)
    elif kind == "kept":
        found = [("tiles " + str(spec["tiles"]), _kept(labels, against, cohort), {}) for cohort in spec["cohorts"]]
    else:
        found = _check_tissue(spec, labels, against)
    parts: list[pd.DataFrame] = []
    for model, frames, facts in found:
        stamp = {"check": dict(spec), "labels": {k: facts.get(k) for k in _STAMPED}}
        text = canonical_json(stamp)
        parts += [part.assign(model=model, protocol=text) for part in frames if len(part)]
    frame = assemble(parts, against=_AGAINST[kind])
    logger.info("check %s: %d rows", spec.get("name", ""), len(frame))
    identity = make_identity("checks", {"spec": spec}, identities_of({"labels": labels, "against": against}))
    write_metrics(frame, out, {"check": spec.get("name", ""), "kind": kind, "identity": identity})


def _check_pairs(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> list[Found]:
    """Check labels by other labels of the same cohort."""
    others = {str(item.obs["cohort"].iloc[0]): item for item in map(read_labels, against)}
    found = []
    for mine in map(read_labels, labels):
        cohort = str(mine.obs["cohort"].iloc[0])
        if cohort not in others:
            raise InputError(
                f"checks.{spec.get('name', '?')}",
                f"cohort '{cohort}' has nothing to compare with.",
                "label it both ways.",
            )
        found.append((str(spec["labels"]), _PAIRED[spec["kind"]](spec, mine, others[cohort]), mine.metadata))
    return found


def _check_variants(spec: Mapping[str, Any], labels: Sequence[Path]) -> list[Found]:
    """Compare several labels entries, cohort by cohort; an entry's name is the folder of its files."""
    by_cohort: dict[str, list[tuple[str, Labels]]] = {}
    for path in labels:
        item = read_labels(path)
        by_cohort.setdefault(str(item.obs["cohort"].iloc[0]), []).append((Path(path).parent.name, item))
    found: list[Found] = []
    for _, items in sorted(by_cohort.items()):
        names, variants = [name for name, _ in items], [item for _, item in items]
        facts = {
            **variants[0].metadata,
            "demo_fit": any(item.metadata.get("demo_fit") for item in variants),
            "variants": differences(names, variants),
        }
        found.append(("+".join(names), score_sensitivity(spec, names, variants), facts))
    return found


def _check_tissue(spec: Mapping[str, Any], labels: Sequence[Path], against: Sequence[Path]) -> list[Found]:
    """Check labels or predictions by what is known of the tissue."""
    kind = str(spec["kind"])
    found = []
    for path in labels:
        predicted = kind.startswith("predicted_")
        for mine in read_predicted(path) if predicted else [read_labels(path)]:
            cohort = str(mine.obs["cohort"].iloc[0])
            if predicted and spec.get("cohorts") and cohort not in spec["cohorts"]:
                continue
            model = str(mine.metadata.get("model", path.stem)) if predicted else str(spec["labels"])
            if kind.endswith("regions"):
                regions, qc_flags = _read_regions(against, cohort)
                frames = score_regions(spec, flagged(mine, qc_flags), regions)
            elif kind == "residual":
                regions, qc_flags = _read_regions(against, cohort)
                frames = score_residual(spec, flagged(mine, qc_flags), regions)
            elif kind == "colocalization":
                frames = score_significance(spec, mine, read_positions(against, cohort))
            else:
                nuclei, qc_flags = read_nuclei(against, cohort)
                frames = score_nuclei(spec, flagged(mine, qc_flags), nuclei)
            found.append((model, frames, mine.metadata))
    return found


def _kept(tiles: Sequence[Path], samples: Sequence[Path], cohort: str) -> list[pd.DataFrame]:
    regions, qc_flags = _read_regions(samples, cohort)
    return score_kept(tiles, regions, cohort, qc_flags)
