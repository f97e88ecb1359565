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

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from histoloom.metrics.aggregate import over_types, roll_up
from histoloom.metrics.continuous import section_rows
from histoloom.metrics.rows import assemble

if TYPE_CHECKING:
    from histoloom.metrics.scored import Scored

GROUPS = ("all_patients", "unshared_patients", "shared_patients")
_SECTION = ["cohort", "patient", "sample", "qc_flag", "target"]


def paired_rows(sections: pd.DataFrame, folds: Mapping[str, Mapping[str, Any]]) -> list[pd.DataFrame]:
    """Return each fold's own section rows, and ``cc_with``, ``cc_without`` and ``leakage_effect`` rolled up.

    `sections` holds ``cc`` per fold, section and type; `folds` says of each fold ``what`` (with or without) and
    ``draw``.
    """
    own = sections.assign(aggregation="section")
    what = sections["fold"].map({fold: facts["what"] for fold, facts in folds.items()})
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

    `shared` are the patients on both sides of the transfer as published; `sections` as for `paired_rows`.
    """
    is_shared = sections["patient"].isin(shared)
    members = dict(zip(GROUPS, (is_shared | True, ~is_shared, is_shared), strict=True))
    return [
        roll_up(part, types=True).assign(fold=fold, variant=group)
        for group in GROUPS
        for fold, part in sections[members[group]].groupby("fold", sort=True)
    ]


def score_leakage(scored: Scored, compared: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of a leakage test; `compared` is what the folds' metadata says of them."""
    parts: list[pd.DataFrame] = []
    for against, reference in scored.reference.items():
        sections = section_rows(scored, scored.prediction, reference, errors=False)
        sections = sections[sections["metric"] == "cc"].reset_index(drop=True)
        if compared["kind"] == "paired_leakage":
            tables = paired_rows(sections, compared["folds"])
        else:
            tables = transfer_rows(sections, compared["shared_patients"])
        parts += [table.assign(against=against) for table in tables if len(table)]
    return assemble(parts)
