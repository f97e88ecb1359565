"""The stamp: the choices a number was measured under, one mapping that a published row's stamp is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from histoloom.folds import DELIBERATE

UNSTATED = "unstated"
HEADLINE = "section>patient>cohort"
"""Per type over the observations of a section, mean over sections of a patient, mean over patients."""

_FROM_SPEC = ("task", "split", "selection", "standardise", "on_overlap", "content_guard", "shuffle_labels")
_GUARDS = {
    "off": "sections not compared by content",
    "report": "sections on both sides under two names are reported, not stopped",
}


def stamp(
    spec: Mapping[str, Any], predictions: Mapping[str, Any], target: Mapping[str, Any], obs: pd.DataFrame
) -> dict[str, Any]:
    """Return the protocol of an experiment's predictions: JSON values; a choice that was not stated is ``"unstated"``.

    `predictions` and `target` are metadata; ``protocol`` of the predictions says what the model was (kind, encoders,
    weights) and wins over what the entry says.
    """
    tiles = target.get("tiles") or {}
    plain, blocks = obs[obs["qc_flag"] == ""], spec.get("split") == "spatial_block"
    counted = plain.drop_duplicates(["cohort", "sample"]).groupby("cohort", sort=True)
    return {
        **{key: spec.get(key, UNSTATED) for key in _FROM_SPEC},
        **({key: spec[key] for key in ("block_um", "buffer_um") if key in spec} if blocks else {}),
        "cohorts": sorted(obs["cohort"].unique().tolist()),
        "train_cohorts": sorted(spec.get("train_cohorts") or spec.get("cohorts") or []),
        "labels": spec.get("labels", UNSTATED),
        "target": dict(spec.get("target") or {}),
        "demo_fit": bool(target.get("demo_fit")),
        "joint_fit": bool(target.get("joint_fit")),
        "genes_matched_by": target.get("genes_matched_by"),
        "units": target.get("units", UNSTATED),
        "tiles": spec.get("tiles", UNSTATED),
        "tiles_spec": tiles.get("spec", UNSTATED) if isinstance(tiles, Mapping) else UNSTATED,
        "train_seeds": list(spec.get("train_seeds") or []),
        "aggregation": HEADLINE,
        "moran": dict(spec.get("moran") or {}),
        "n_patients": {str(c): int(part["patient"].nunique()) for c, part in counted},
        "n_sections": {str(c): len(part) for c, part in counted},
        "n_observations": {str(c): len(part) for c, part in plain.groupby("cohort", sort=True)},
        **_spots(target),
        **(predictions.get("protocol") or {}),
    }


def _spots(target: Mapping[str, Any]) -> dict[str, Any]:
    """Say how many spots an expression target has, of those on the array and in tissue."""
    if target.get("kind") != "expression":
        return {}
    steps = target.get("steps") or []
    counts: dict[str, str] = {}
    for cohort in sorted({step["cohort"] for step in steps}):
        own = [step for step in steps if step["cohort"] == cohort]
        array, tissue, used = (sum(step[key] for step in own) for key in ("observations", "in_tissue", "joined"))
        counts[cohort] = f"{array} on the arrays, {tissue} in tissue, {used} used"
    return {"spots": counts}


def short(protocol: Mapping[str, Any]) -> str:
    """Return the stamp as a few words for a table's cell."""
    parts = [
        str(protocol.get("split", UNSTATED)).replace("_", " ") + _gap(protocol),
        *_predicted(protocol),
        f"tiles {protocol.get('tiles', UNSTATED)}",
        f"selection {protocol.get('selection', UNSTATED)}",
        f"standardise {protocol.get('standardise', UNSTATED)}",
    ]
    if digits := protocol.get("digits"):
        parts += [f"{key.replace('_', ' ')} {str(value).lower()}" for key, value in digits.items()]
    if protocol.get("standardise") in {"per_cohort", "per_section"} or protocol.get("transductive"):
        parts.append("transductive")
    if protocol.get("split") in DELIBERATE:
        parts.append("leaks on purpose, to measure the leakage effect")
    if "name" in str(protocol.get("genes_matched_by")).split("+"):
        parts.append("genes matched by name")
    if protocol.get("on_overlap") == "allow":
        parts.append("patients may be on both sides")
    if protocol.get("content_guard") in _GUARDS:
        parts.append(_GUARDS[str(protocol["content_guard"])])
    if protocol.get("shuffle_labels") not in {None, "none", UNSTATED}:
        parts.append("LABELS SHUFFLED")
    return "; ".join(parts)


def _gap(protocol: Mapping[str, Any]) -> str:
    """Say how wide spatial blocks and the gap around them are, and where windows of neighbours overlap across it."""
    if protocol.get("split") != "spatial_block" or "buffer_um" not in protocol:
        return ""
    tile, gap = protocol.get("tiles_spec"), float(protocol["buffer_um"])
    text = f" of {protocol['block_um']:g} um, gap {gap:g} um"
    if isinstance(tile, Mapping) and isinstance(tile.get("um_per_px"), int | float):
        side = float(tile["um_per_px"]) * float(tile["size_px"])
        text += f": tiles of {side:g} um overlap across it" if gap < side else ""
    return text


def _predicted(protocol: Mapping[str, Any]) -> list[str]:
    """Say what is predicted: abundance by its labels and transform, expression by its recipe and panel."""
    target = protocol.get("target") or {}
    if target.get("kind") == "expression":
        return [_expression(target)]
    if target.get("kind") == "cell_class":
        return [_classes(target, protocol.get("reads") or [])]
    marks = {"demo_fit": "demo fit", "joint_fit": "fitted on all patients together, test ones included"}
    said = ", ".join(words for key, words in marks.items() if protocol.get(key))
    labels = f"labels {protocol.get('labels', UNSTATED)}" + (f" ({said})" if said else "")
    return [labels, f"target {target.get('statistic', UNSTATED)}/{target.get('transform', UNSTATED)}"]


def _classes(target: Mapping[str, Any], reads: Sequence[str]) -> str:
    """Say what the labels are a function of, and whether the model reads it too and so knows part of the answer."""
    source = target.get("labels_from", UNSTATED)
    if source == UNSTATED:
        return "cell classes, labels of unstated origin"
    return f"cell classes, labels from {source}" + (", which the model reads too" if source in reads else "")


def _expression(target: Mapping[str, Any]) -> str:
    panel, scaled = target.get("panel") or {}, target.get("size_factor", "none")
    kinds = {"hvg": "variable genes", "heg": "highly expressed genes", "hvg_union": "variable genes of each section"}
    ranked = panel.get("genes") in kinds
    genes = f"{panel.get('k' if ranked else 'genes', UNSTATED)} {kinds.get(panel.get('genes', ''), 'genes')}"
    chosen = f" chosen on {panel.get('selected_on', UNSTATED)}" if ranked else ""
    log = target.get("log", UNSTATED)
    to = {"median": "the section's median"}.get(scaled, f"{target.get('target_sum', 0):g}")
    over = " over the target's genes" if scaled == "target_genes" else ""
    recipe = ("counts" if log == "none" else f"{log} of counts") + (
        f" scaled to {to}{over}" if scaled != "none" else ""
    )
    marks = {
        "observations": {"array": "all spots of the array"},
        "smoothing": {"neighbours": "truth smoothed over neighbours"},
        "batch_correction": {"harmony": "Harmony over all sections, test ones included"},
    }
    said = [words[target[key]] for key, words in marks.items() if target.get(key) in words]
    return "; ".join([f"{genes}{chosen}, {recipe}", *said])
