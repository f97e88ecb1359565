"""Score a model's predictions on held-out observations: one table of metrics per model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from histoloom import kinds
from histoloom.artefacts import identities_of, write_parquet
from histoloom.errors import InputError
from histoloom.folds import check_compared, read_folds
from histoloom.identity import canonical_json, make_identity
from histoloom.metrics.continuous import SMALL_SPREAD
from histoloom.metrics.leakage import score_leakage
from histoloom.metrics.protocol import stamp
from histoloom.metrics.rows import assemble
from histoloom.metrics.scored import KEYS, Scored, read_scored

logger = logging.getLogger(__name__)


def score_predictions(
    *,
    spec: Mapping[str, Any],
    experiment: str,
    model: str,
    predictions: Path | Sequence[Path],
    target: Path,
    folds: Path,
    out: Path,
    leakage: bool = False,
) -> None:
    """Write ``metrics/{experiment}/{model}.parquet``, or the rows of a leakage test.

    `predictions` holds one artefact per variant; the training mean is formed from `target` and `folds`, fold by fold.
    With `leakage` the predictions are of folds that are compared with each other; refused are folds that compare
    nothing, a fold that must be clean and leaks, and trainings of different sizes.
    """
    paths = [Path(predictions)] if isinstance(predictions, (str, Path)) else [Path(path) for path in predictions]
    metadata: dict[str, Any] = {"experiment": experiment, "model": model}
    parts = []
    for path in paths:
        scored = read_scored(spec, path, target, folds)
        if leakage:
            metadata["compared"] = compared = _compared(scored, path, folds)
            rows = score_leakage(scored, compared)
        else:
            kind = str((spec.get("target") or {}).get("kind", "abundance"))
            rows = kinds.load_attribute(kinds.find("targets", kind).score)(scored)
            rows["variant"] = str(scored.metadata.get("variant", path.stem))
            _warn(rows, f"{experiment}/{model}/{rows['variant'].iloc[0]}")
        stamped = stamp(spec, scored.metadata, scored.target, scored.obs)
        bench = rows[(rows["metric"] == "pcc_bench") & (rows["aggregation"] == "fold") & (rows["target"] != "")]
        if len(bench):
            stamped["undefined_genes"] = int(bench["n_nan"].sum())
        parts.append(rows.assign(protocol=_protocols(rows, stamped)))
    frame = assemble(parts, experiment=experiment, model=model)
    inputs = identities_of({"predictions": paths, "target": target, "folds": folds})
    stage = "metrics.leakage" if leakage else "metrics"
    metadata["identity"] = make_identity(stage, {"spec": dict(spec), "model": model}, inputs)
    write_parquet(frame, out, metadata)


def _protocols(rows: pd.DataFrame, stamped: Mapping[str, Any]) -> pd.Series[str]:
    """Return the stamp of each row: a scorer that aggregates in another way has said so in ``protocol``."""
    texts = {way: canonical_json({**stamped, "aggregation": way} if way else stamped) for way in set(rows["protocol"])}
    return rows["protocol"].map(texts)


def _compared(scored: Scored, predictions: Path, folds: Path) -> dict[str, Any]:
    """Return what the folds of a leakage test are, after checking that they are what they say."""
    table, facts = read_folds(folds)
    compared: dict[str, Any] = facts.get("compared") or {}
    if not compared:
        remedy = "use split paired_leakage, or a transfer with shared patients."
        raise InputError(folds, "holds no comparison.", remedy, code="leakage-nothing-compared")
    absent = sorted(set(compared["folds"]) ^ set(scored.obs["fold"]))
    if absent:
        problem = f"does not fit {folds}: folds {', '.join(absent)}."
        raise InputError(predictions, problem, "remove it and run again.", code="leakage-other-folds")
    check_compared(compared, table, scored.target_obs[KEYS[1:]].astype(str).reset_index(drop=True))
    return compared


def _warn(rows: pd.DataFrame, name: str) -> None:
    """Log what a reader of the headline must know: undefined pairs, and predictions of hardly any spread."""
    section = rows[(rows["aggregation"] == "section") & (rows["target"] != "") & (rows["against"] == "labels")]
    cc = section[section["metric"] == "cc"]
    undefined = cc["value"].isna().sum()
    logger.info("%s: %d rows; %d of %d section correlations undefined", name, len(rows), undefined, len(cc))
    cohort = rows[(rows["aggregation"] == "cohort") & (rows["target"] == "") & (rows["train_seed"] == -1)]
    spread = cohort[(cohort["metric"] == "sd_ratio") & (cohort["against"] == "labels")]
    for row in spread[spread["value"] < SMALL_SPREAD].to_dict("records"):
        logger.warning(
            "%s, cohort %s: predictions spread %.3f of the labels' SD within sections; their CC says little of use",
            name, row["cohort"], row["value"],
        )  # fmt: skip
