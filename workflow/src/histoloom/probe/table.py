"""Scores of the probe beside published rows."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd


def probe_table(
    scores: Mapping[tuple[str, str, str], pd.DataFrame], published: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Lay out encoders by tasks: mean over genes in each fold, then over folds.

    Parameters
    ----------
    scores
        (encoder, alpha, task) -> what `probe_folds` returned.
    published
        Rows to show beneath: columns encoder, source and the tasks; never mixed with the own rows into a mean.

    Returns
    -------
    DataFrame
        encoder, source (``"this run, <alpha> alpha"`` or the publication), one column per task, mean (over the tasks
        that a row has), n_nan (genes x folds without a correlation, left out of the means).
    """
    rows: dict[tuple[str, str], dict[str, float]] = {}
    missing: dict[tuple[str, str], int] = {}
    for (encoder, alpha, task), frame in scores.items():
        key = (encoder, f"this run, {alpha} alpha")
        rows.setdefault(key, {})[task] = float(frame.groupby("fold", sort=True)["pcc"].mean().mean())
        missing[key] = missing.get(key, 0) + int(frame["pcc"].isna().sum())
    tasks = list(dict.fromkeys(task for row in rows.values() for task in row))
    own = pd.DataFrame(
        [{"encoder": k[0], "source": k[1], **row, "n_nan": missing[k]} for k, row in rows.items()],
        columns=["encoder", "source", *tasks, "n_nan"],
    )
    parts = [own]
    if published is not None:
        parts.append(published.reindex(columns=["encoder", "source", *tasks]))
    table = pd.concat(parts, ignore_index=True)
    table.insert(2 + len(tasks), "mean", table[tasks].mean(axis=1))
    return table
