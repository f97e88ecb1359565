"""From a fold table, whose rows are sections or observations, to the role of every observation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histoloom.errors import InputError
from histoloom.obs_keys import observation_keys, section_keys


def roles_of(table: pd.DataFrame, obs: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return by fold, in order, the role of each observation; "" where the fold does not use it.

    A row with an observation goes before the row of its whole section: "this section trains, but for these".
    """
    sample_key, key = section_keys(obs), observation_keys(obs)
    by_fold: dict[str, np.ndarray] = {}
    for fold, rows in table.groupby("fold", sort=False):
        roles = np.full(len(obs), "", dtype=object)
        whole = rows["obs_id"].isna().to_numpy(bool)
        label = pd.Index(np.where(whole, section_keys(rows), observation_keys(rows)), dtype=object)
        for part, against in ((whole, sample_key), (~whole, key)):
            role = pd.Series(rows["role"].to_numpy(object)[part], index=label[part])
            if role.index.duplicated().any() or not role.index.isin(against).all():
                problem, remedy = "does not fit the target's observations.", "remove the folds and run again."
                raise InputError(f"fold '{fold}'", problem, remedy, code="folds-other-target")
            mapped = role.reindex(against).to_numpy(object)
            hit = ~pd.isna(mapped)
            roles[hit] = mapped[hit]
        by_fold[str(fold)] = roles
    return by_fold
