"""Score a model's predictions on held-out observations: one table of metrics per model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import identities_of, read_metadata
from histoloom.errors import InputError
from histoloom.folds import read_folds, roles_of
from histoloom.identity import canonical_json, make_identity
from histoloom.metrics.abundance import score_abundance
from histoloom.metrics.colocalization import score_colocalization
from histoloom.metrics.protocol import stamp
from histoloom.metrics.rows import assemble, write_metrics
from histoloom.metrics.scored import Scored, merge_types
from histoloom.obs_keys import observation_keys
from histoloom.stats import Floats

logger = logging.getLogger(__name__)

_OBS = ["fold", "cohort", "sample", "patient", "obs_id", "qc_flag"]


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)


def read_predictions(path: str | Path) -> Scored:
    """Read a prediction artefact.

    Parameters
    ----------
    path
        h5ad with X = prediction and layer ``labels`` = the target; optional layers ``seed_<s>`` and ``ground_truth``.

    Raises
    ------
    InputError
        If the file lacks a column or layer, or holds no observation.
    """
    import anndata

    data = anndata.read_h5ad(path)
    missing = [column for column in _OBS[:-1] if column not in data.obs] + (
        ["layer labels"] if "labels" not in data.layers else []
    )
    if missing or not data.n_obs:
        problem = f"lacks {', '.join(missing)}." if missing else "holds no held-out observation."
        raise InputError(path, problem, "remove it, so that it is made anew; a fold must have a test patient.")
    obs = data.obs.copy().reset_index(drop=True)
    for column in obs.select_dtypes(["category", "string"]).columns:
        obs[column] = obs[column].astype(object)
    if "qc_flag" not in obs:
        obs["qc_flag"] = ""
    obs["qc_flag"] = obs["qc_flag"].fillna("").astype(str)
    layers = {name: _dense(data.layers[name]) for name in data.layers}
    seeds = {int(name[5:]): value for name, value in layers.items() if name.startswith("seed_")}
    reference = {"labels": layers["labels"]}
    if "ground_truth" in layers and np.isfinite(layers["ground_truth"]).any():
        reference["truth"] = layers["ground_truth"]
    return Scored(
        obs=obs,
        types=[str(name) for name in data.var_names],
        prediction=_dense(data.X),
        seeds=seeds if len(seeds) > 1 else {},
        reference=reference,
        metadata=read_metadata(path),
    )


def train_means(target: Path, folds: Path) -> tuple[pd.DataFrame, Any]:
    """Return each fold's mean target over its training observations.

    Parameters
    ----------
    target, folds
        The experiment's artefacts.

    Returns
    -------
    means
        (folds, types), index = fold.
    obs
        The target's observations, index ``cohort/sample/obs_id``.
    """
    import anndata

    data = anndata.read_h5ad(target)
    values, obs = _dense(data.X), data.obs
    table, _ = read_folds(folds)
    key = observation_keys(obs)
    chosen = {fold: roles == "train" for fold, roles in roles_of(table, obs).items()}
    means = {fold: np.nanmean(values[rows], axis=0) for fold, rows in sorted(chosen.items()) if rows.any()}
    frame = pd.DataFrame.from_dict(means, orient="index", columns=[str(name) for name in data.var_names])
    return frame, obs.set_axis(key.to_numpy(), axis=0)


def with_positions(scored: Scored, target_obs: pd.DataFrame) -> pd.DataFrame:
    """Add array coordinates, pitch and qc_flag from the target where the predictions do not carry them."""
    obs = scored.obs
    key = observation_keys(obs).to_numpy()
    unknown = ~pd.Index(key).isin(target_obs.index)
    if unknown.any():
        raise InputError(
            "predictions",
            f"{int(unknown.sum())} predicted observations are not in the target, e.g. '{key[unknown][0]}'.",
            "remove the experiment's models and predictions, so that they are made anew.",
        )
    found = target_obs.reindex(key)
    for column in ("array_row", "array_col", "pitch_um", "x", "y", "qc_flag"):
        if column in found:
            values = found[column]
            obs[column] = values.fillna("").astype(str).to_numpy() if column == "qc_flag" else values.to_numpy()
    return obs


def score_predictions(
    *,
    spec: Mapping[str, Any],
    experiment: str,
    model: str,
    predictions: Path | Sequence[Path],
    target: Path,
    folds: Path,
    out: Path,
) -> None:
    """Write ``metrics/{experiment}/{model}.parquet``.

    Parameters
    ----------
    spec
        The experiment's entry.
    experiment, model
        Names, for the rows.
    predictions
        The model's prediction artefact; a sequence has one per variant.
    target, folds
        The experiment's target and folds; the train-mean predictor is formed from them, fold by fold.
    out
        File to write; columns as in `histoloom.metrics.rows`.

    Raises
    ------
    InputError
        If the predictions do not fit the target or the folds.
    """
    paths = [Path(predictions)] if isinstance(predictions, (str, Path)) else [Path(p) for p in predictions]
    means, target_obs = train_means(target, folds)
    target_metadata = read_metadata(target)
    parts = []
    for path in paths:
        scored = read_predictions(path)
        obs = with_positions(scored, target_obs)
        absent = sorted(set(obs["fold"]) - set(means.index))
        if absent or list(means.columns) != scored.types:
            what = f"folds without training observations: {', '.join(absent)}." if absent else "other cell types."
            raise InputError(path, f"does not fit {folds} and {target}: {what}", "remove it and run again.")
        protocol = stamp(spec, scored.metadata, target_metadata, obs)
        variant = str(scored.metadata.get("variant", path.stem))
        scale_known = target_metadata.get("truth_units") in {None, target_metadata.get("units")}
        found = [
            *score_abundance(scored, means, truth_has_units=scale_known),
            *score_colocalization(scored, spec.get("moran") or {}),
        ]
        if spec.get("merge"):
            coarse = merge_types(scored, means, spec["merge"], (spec.get("target") or {}).get("transform", "none"))
            found += score_abundance(*coarse, truth_has_units=scale_known)
        rows = assemble(found)
        parts.append(rows.assign(variant=variant, protocol=canonical_json(protocol)))
    frame = assemble(parts, experiment=experiment, model=model)
    undefined = int(frame.loc[frame["metric"].eq("cc") & frame["aggregation"].eq("section"), "value"].isna().sum())
    logger.info("%s/%s: %d rows; %d undefined section correlations", experiment, model, len(frame), undefined)
    identity = make_identity(
        "metrics",
        {"spec": spec, "model": model},
        identities_of({"predictions": paths, "target": target, "folds": folds}),
    )
    write_metrics(frame, out, {"experiment": experiment, "model": model, "identity": identity})
