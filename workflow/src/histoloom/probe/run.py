"""The probe of an experiment: one encoder, one way to choose alpha, all folds; predictions of the test observations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import KEY, identities_of, read_metadata
from histoloom.errors import InputError
from histoloom.folds import read_folds, roles_of
from histoloom.folds.splits import ALL
from histoloom.identity import canonical_json, make_identity
from histoloom.models.data import load_features
from histoloom.probe.ridge import Probe, check_patients, choose_alpha, fit_predict, width
from histoloom.targets import Expression, read_expression

logger = logging.getLogger(__name__)

_CARRIED = ["cohort", "sample", "patient", "obs_id", "qc_flag"]


def predict_folds(
    features: np.ndarray, target: Expression, folds: Mapping[str, np.ndarray], panel: pd.DataFrame, probe: Probe
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, list[str], dict[str, dict[str, float]]]:
    """Fit on each fold's training observations and predict its test observations.

    Parameters
    ----------
    features
        (n, dim) of the target's observations.
    target
        Expression of the same observations.
    folds
        Role of each observation by fold; ``all`` is passed over.
    panel
        Columns fold, gene.
    probe
        Settings.

    Returns
    -------
    obs
        Test observations, fold by fold, index ``fold/cohort/sample/obs_id``.
    predicted, truth
        (len(obs), genes); NaN in a gene that is not in the fold's panel.
    genes
        All genes of all panels.
    choices
        By fold: alpha, components, n_train, n_test.

    Raises
    ------
    InputError
        If a patient is on both sides of a fold.
    """
    genes = list(dict.fromkeys(panel["gene"]))
    column = {gene: i for i, gene in enumerate(genes)}
    position = {gene: i for i, gene in enumerate(target.genes)}
    patients = target.obs["patient"].to_numpy(dtype=object)
    x = np.asarray(features, np.float64)
    frames, predictions, truths = [], [], []
    choices: dict[str, dict[str, float]] = {}
    for fold, roles in folds.items():
        if fold == ALL:
            continue
        inside, outside = np.flatnonzero(roles == "train"), np.flatnonzero(roles == "test")
        check_patients(fold, patients[inside], patients[outside])
        own = list(panel.loc[panel["fold"] == fold, "gene"])
        values = target.values[:, [position[gene] for gene in own]]
        y, y_out = (np.asarray(values[rows].toarray(), np.float64) for rows in (inside, outside))
        alpha = choose_alpha(x[inside], y, patients[inside], probe)
        found = fit_predict(x[inside], y, x[outside], alpha, probe)
        block = np.full((2, len(outside), len(genes)), np.nan)
        block[:, :, [column[gene] for gene in own]] = found, y_out
        frame = target.obs.iloc[outside][_CARRIED].assign(fold=fold)
        frames.append(frame.set_axis(f"{fold}/" + frame.index))
        predictions.append(block[0])
        truths.append(block[1])
        components = width(x[inside], probe)
        choices[fold] = {
            "alpha": alpha, "components": components, "n_train": len(inside), "n_test": len(outside),
        }  # fmt: skip
        logger.info("%s: %s", fold, choices[fold])
    return pd.concat(frames), np.concatenate(predictions), np.concatenate(truths), genes, choices


def run_probe(
    *,
    spec: Mapping[str, Any],
    encoder: str,
    alpha: str,
    target: Path,
    folds: Path,
    panel: Path,
    embeddings: Mapping[str, Sequence[Path]],
    out: Path,
) -> None:
    """Write ``predictions/{experiment}/{encoder}/{alpha}.h5ad``.

    Parameters
    ----------
    spec
        The experiment's entry: ``components``, ``alphas``, ``seed``.
    encoder
        The encoder's name.
    alpha
        ``published`` or ``inner``.
    target, folds, panel
        The experiment's artefacts.
    embeddings
        Batches by encoder.
    out
        File to write: X prediction, layer labels; NaN in genes that are not in a fold's panel.

    Raises
    ------
    InputError
        If an observation has no embedding, or a patient is on both sides of a fold.
    """
    import anndata

    data, chosen = read_expression(target), pd.read_parquet(panel)
    table, facts = read_folds(folds)
    features, spaces = load_features(data.obs, embeddings, [encoder], data.metadata["tiles"])
    if alpha not in ("published", "inner"):
        raise InputError("alpha", f"'{alpha}' is no way to choose it.", "use published or inner.")
    probe = Probe(alpha, spec["components"], tuple(spec["alphas"]), spec["seed"])  # type: ignore[arg-type]
    roles = roles_of(table, data.obs)
    obs, predicted, truth, genes, choices = predict_folds(features, data, roles, chosen, probe)
    result = anndata.AnnData(X=predicted, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=str)))
    result.layers["labels"] = truth
    protocol = {
        "kind": "probe",
        "encoders": spaces,
        "alpha": alpha,
        "alphas_tried": list(spec["alphas"]) if alpha == "inner" else [],
        "components": spec["components"],
        "per_fold": choices,
        "sections": facts.get("published", ""),
        "panel": read_metadata(panel)["panel"],
        "expression": data.metadata["recipe"],
        "selection": "none" if alpha == "published" else "inner folds of training patients",
        "standardise": "train",
    }
    used = identities_of({"target": target, "folds": folds, "panel": panel, "embeddings": list(embeddings[encoder])})
    params = {key: spec[key] for key in ("components", "alphas", "seed")}
    metadata = {
        "experiment": spec["name"], "model": encoder, "variant": alpha, "protocol": protocol,
        "identity": make_identity("probe", {**params, "alpha": alpha}, used, spec["seed"]),
    }  # fmt: skip
    result.uns[KEY] = canonical_json(metadata)
    result.write_h5ad(out, compression="gzip")
