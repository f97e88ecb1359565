"""What a leak is worth: the same test sections under trainings that differ in one thing.

Rows lie in files of their own, next to the experiment's, so that no headline can average them. Two comparisons:

**Leakage effect** (``split: paired_leakage``), paired on the test section: ``cc_with`` and ``cc_without`` a sibling
section in training, and ``leakage_effect``, their difference, per section and type (the mean over draws; a type
undefined in either is undefined in all three), rolled up to patients and cohorts like any CC. ``cc`` is each fold's.

**Transfer in columns**: ``cc`` of every training (column ``fold``) rolled up over the test patients that ``variant``
names: all, shared with training, unshared.

``compared`` in the file's metadata says what each fold is, how much it trained on and how much of that leaked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histoloom.artefacts import identities_of, read_metadata
from histoloom.errors import InputError
from histoloom.folds import check_compared, read_folds
from histoloom.identity import canonical_json, make_identity
from histoloom.metrics.abundance import section_values
from histoloom.metrics.aggregate import over_types, roll_up
from histoloom.metrics.protocol import stamp
from histoloom.metrics.rows import assemble, write_metrics
from histoloom.metrics.score import read_predictions, train_means, with_positions

logger = logging.getLogger(__name__)

GROUPS = ("all_patients", "unshared_patients", "shared_patients")
_SECTION = ["cohort", "patient", "sample", "qc_flag", "target"]


def paired_rows(sections: pd.DataFrame, folds: Mapping[str, Mapping[str, Any]]) -> list[pd.DataFrame]:
    """Return the paired rows of the leakage effect.

    Parameters
    ----------
    sections
        ``cc`` per fold, section and type: fold, cohort, patient, sample, qc_flag, target, value, n.
    folds
        What each fold is: ``what`` (with or without) and ``draw``.

    Returns
    -------
    list of DataFrame
        Each fold's own section rows, and ``cc_with``, ``cc_without``, ``leakage_effect`` rolled up.
    """
    own = sections.assign(aggregation="section")
    what = sections["fold"].map({fold: about["what"] for fold, about in folds.items()})
    # A type that one draw cannot correlate is left out of the pair: means over other draws would not be of the same.
    sides = {
        side: part.groupby(_SECTION, sort=True)["value"].agg(lambda v: v.mean(skipna=False))
        for side, part in sections.groupby(what)
    }
    wide = pd.DataFrame({"cc_with": sides["with"], "cc_without": sides["without"]})
    wide["leakage_effect"] = wide["cc_with"] - wide["cc_without"]
    wide = wide.mask(wide["leakage_effect"].isna())
    count = sections.groupby(_SECTION, sort=True)["n"].first()
    paired = wide.reset_index().melt(id_vars=_SECTION, var_name="metric", value_name="value")
    n = count.reindex(pd.MultiIndex.from_frame(paired[_SECTION])).to_numpy()
    paired = paired.assign(n=n, n_nan=paired["value"].isna().astype(int), fold="")
    return [own, over_types(own), roll_up(paired, types=True)]


def transfer_rows(sections: pd.DataFrame, shared: list[str]) -> list[pd.DataFrame]:
    """Return every training's ``cc`` over all test patients, over the unshared and over the shared ones.

    Parameters
    ----------
    sections
        As for `paired_rows`.
    shared
        Patients on both sides of the transfer as published.
    """
    is_shared = sections["patient"].isin(shared)
    members = dict(zip(GROUPS, (is_shared | True, ~is_shared, is_shared), strict=True))
    return [
        roll_up(part, types=True).assign(fold=fold, variant=group)
        for group in GROUPS
        for fold, part in sections[members[group]].groupby("fold", sort=True)
    ]


def score_leaks(
    *,
    spec: Mapping[str, Any],
    experiment: str,
    model: str,
    predictions: Path,
    target: Path,
    folds: Path,
    out: Path,
) -> None:
    """Write ``metrics/leaks/{experiment}/{model}.parquet``.

    Parameters
    ----------
    spec
        The experiment's entry.
    experiment, model
        Names, for the rows.
    predictions
        The model's predictions of the comparison's folds.
    target, folds
        The experiment's target and folds.
    out
        File to write; columns as in `histoloom.metrics.rows`.

    Raises
    ------
    InputError
        If the folds compare nothing, if a fold that must be clean leaks, or if sizes of training differ.
    """
    table, facts = read_folds(folds)
    compared = facts.get("compared") or {}
    if not compared:
        raise InputError(folds, "holds no comparison.", "use split paired_leakage, or a transfer with shared patients.")
    _, target_obs = train_means(target, folds)
    keys = ["cohort", "sample", "patient", "obs_id"]
    check_compared(compared, table, target_obs[keys].astype(str).reset_index(drop=True))
    scored = read_predictions(predictions)
    absent = sorted(set(compared["folds"]) ^ set(scored.obs["fold"]))
    if absent:
        raise InputError(predictions, f"does not fit {folds}: folds {', '.join(absent)}.", "remove it and run again.")
    obs = with_positions(scored, target_obs)
    protocol = stamp(spec, scored.metadata, read_metadata(target), obs)
    parts: list[pd.DataFrame] = []
    for against, reference in scored.reference.items():
        sections = section_values(scored, scored.prediction, reference, None, errors=False)
        if compared["kind"] == "paired_leakage":
            found = paired_rows(sections, compared["folds"])
        else:
            found = transfer_rows(sections, compared["shared_patients"])
        parts += [part.assign(against=against) for part in found if len(part)]
    frame = assemble(parts, experiment=experiment, model=model, protocol=canonical_json(protocol))
    undefined = int(np.isnan(frame.loc[frame["aggregation"].eq("section"), "value"]).sum())
    logger.info("%s/%s: %d rows; %d undefined section values", experiment, model, len(frame), undefined)
    identity = make_identity(
        "metrics.leaks",
        {"spec": dict(spec), "model": model},
        identities_of({"predictions": predictions, "target": target, "folds": folds}),
    )
    about = {"experiment": experiment, "model": model, "compared": compared, "identity": identity}
    write_metrics(frame, out, about)
