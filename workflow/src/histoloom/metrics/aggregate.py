"""From types to sections to patients to the cohort: the patient is the unit, undefined values are counted.

There is one order of means, each with equal weights: over the types that are defined in a section, over the folds that
test the section (only observation-level splits have several), over a patient's sections, over patients. A patient
whose sections are all flagged keeps its own rows, with the QC flag, and enters no cohort mean; a patient with other
sections is described by those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from histoloom.metrics.rows import COLUMNS

KEYS = ["against", "metric", "gene_set", "k", "train_seed", "target", "target2"]
"""What tells one quantity from another; the rest of a row says where it was measured."""


def _complete(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(**{key: COLUMNS[key] for key in KEYS if key not in rows})


def mean_by(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Average `value` by group; `n` counts what was averaged, `n_nan` what was undefined."""
    grouped = rows.groupby(list(by), sort=True, observed=True)["value"]
    # min_count: the mean of nothing is undefined, not zero.
    table = pd.DataFrame({"value": grouped.mean(), "n": grouped.count(), "size": grouped.size()})
    table["n_nan"] = table["size"] - table["n"]
    return table.drop(columns="size").reset_index()


def over_types(rows: pd.DataFrame) -> pd.DataFrame:
    """Average over types within the same place; the result has target ""."""
    rows = _complete(rows)
    place = [c for c in ("fold", "cohort", "patient", "sample", "qc_flag", "aggregation") if c in rows]
    quantity = [key for key in KEYS if key not in {"target", "target2"}]
    return mean_by(rows, [*quantity, *place]).assign(target="", target2="")


def to_patients(sections: pd.DataFrame) -> pd.DataFrame:
    """Average a patient's sections; `fold` is kept where a patient is tested in a single one."""
    sections = _complete(sections)
    plain = sections["qc_flag"] == ""
    has_plain = plain.groupby([sections["cohort"], sections["patient"]]).transform("any")
    used = sections[plain | ~has_plain]
    folds = used.groupby(["cohort", "patient"])["fold"].agg(lambda f: f.iloc[0] if f.nunique() == 1 else "")
    qc_flags = used.groupby(["cohort", "patient"])["qc_flag"].agg(lambda b: "; ".join(sorted(set(b) - {""})))
    by_section = mean_by(used, [*KEYS, "cohort", "patient", "sample"])
    patients = mean_by(by_section, [*KEYS, "cohort", "patient"])
    index = pd.MultiIndex.from_frame(patients[["cohort", "patient"]])
    return patients.assign(
        fold=folds.reindex(index).to_numpy(), qc_flag=qc_flags.reindex(index).to_numpy(), aggregation="patient"
    )


def to_cohort(patients: pd.DataFrame) -> pd.DataFrame:
    """Average the patients without a QC flag, each cohort by itself."""
    return mean_by(_complete(patients[patients["qc_flag"] == ""]), [*KEYS, "cohort"]).assign(aggregation="cohort")


def roll_up(sections: pd.DataFrame, *, types: bool) -> pd.DataFrame:
    """Return section, patient and cohort rows of per-section values (one row per fold, section and quantity).

    `types` adds rows with target "": the mean over types, in each section first, then over sections and patients.
    """
    sections = _complete(sections).assign(aggregation="section")
    if types:
        sections = pd.concat([sections, over_types(sections)], ignore_index=True)
    patients = to_patients(sections)
    return pd.concat([sections, patients, to_cohort(patients)], ignore_index=True)


def add_ratio(rows: pd.DataFrame, top: str, bottom: str, name: str) -> pd.DataFrame:
    """Return rows of ``1 - top / bottom``, formed from the aggregated values of the same place and type.

    A ratio of means is used, not a mean of ratios: a rare type's mean error can be next to nothing in one section.
    """
    place = [c for c in rows.columns if c not in {"metric", "value", "n", "n_nan"}]
    upper = rows[rows["metric"] == top]
    lower = rows[rows["metric"] == bottom][[*place, "value"]].rename(columns={"value": "_bottom"})
    joined = upper.merge(lower, on=place, how="left", validate="one_to_one")
    defined = joined["_bottom"].to_numpy() > 0
    ratio = np.full(len(joined), np.nan)
    np.divide(joined["value"].to_numpy(), joined["_bottom"].to_numpy(), out=ratio, where=defined)
    joined = joined.assign(metric=name, value=1.0 - ratio, n_nan=joined["n_nan"].where(defined, 1))
    return joined.drop(columns="_bottom")
