"""Scores of gene expression, put together in our way, in HEST-bench's and in the way of a paper.

==================  ==============================================================================================
metric              aggregation
==================  ==============================================================================================
``cc`` and others   as for any numbers per observation (`histoloom.metrics.continuous`), per gene
``pcc_bench``       HEST-bench's: per gene over all observations of a test fold together -> genes -> folds
``pcc_published``   CMRCNet's: per gene of a section -> the 50 genes that have the largest sum (``gene_set`` heg) or
                    variance (hvg) in the *test section's truth*, an undefined gene as 0 -> sections of a fold -> folds
``mean_profile_cc``, ``variance_profile_cc``  across genes: their means, and variances, in a section
``gene_gene_cc``    across pairs of genes: is who goes with whom kept?
==================  ==============================================================================================

The second puts spots of several sections together and so rewards knowing a section's level; the third chooses genes by
the answer. They are never mixed with the first. HEST-bench averages an undefined gene into NaN; here it is counted and
left out, and a row with any is not the same.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from histoloom.metrics.aggregate import mean_by, over_types, roll_up
from histoloom.metrics.continuous import score_continuous
from histoloom.metrics.rows import assemble, value_row, value_rows
from histoloom.metrics.scored import Scored
from histoloom.stats import Floats, is_constant, pearson_cross, score_columns

BENCH = "gene over the fold>genes>folds"  # HEST-bench's aggregation, as its stamp says
PUBLISHED = "gene of a section>genes chosen on its truth>sections>folds"
TOP_GENES = 50
_MOST_GENES = 2000


def _folds(rows: pd.DataFrame) -> pd.DataFrame:
    """Average folds with equal weights; `n` counts folds, `n_nan` those without a value."""
    keys = [key for key in ("metric", "target", "gene_set", "k", "cohort") if key in rows]
    return mean_by(rows, keys).assign(aggregation="cohort")


def bench_rows(scored: Scored) -> pd.DataFrame:
    """Return ``pcc_bench`` by fold and over folds, per gene and over genes; flagged sections stay outside."""
    labels, plain = scored.reference["labels"], (scored.obs["qc_flag"] == "").to_numpy()
    cohort = "+".join(sorted(scored.obs["cohort"].unique()))
    parts = []
    for fold, index in sorted(scored.obs[plain].groupby("fold", sort=True).groups.items()):
        rows = index.to_numpy()
        place = {"fold": str(fold), "cohort": cohort, "patient": "", "sample": "", "qc_flag": "", "aggregation": "fold"}
        asked = np.flatnonzero(np.isfinite(labels[rows]).any(axis=0))
        value, n = score_columns(scored.prediction[np.ix_(rows, asked)], labels[np.ix_(rows, asked)])
        parts.append(value_rows(place, [scored.types[i] for i in asked], "pcc_bench", value, n))
    if not parts:
        return pd.DataFrame()
    genes = pd.concat(parts, ignore_index=True)
    folds = over_types(genes)
    return pd.concat([genes, folds, _folds(genes), _folds(folds)], ignore_index=True)


def published_rows(scored: Scored) -> pd.DataFrame:
    """Return ``pcc_published`` by section, fold and over folds; flagged sections stay outside."""
    rows = []
    labels = scored.reference["labels"]
    for place, index in scored.sections():
        if place["qc_flag"]:
            continue
        asked = np.flatnonzero(np.isfinite(labels[index]).all(axis=0))
        y = labels[np.ix_(index, asked)]
        value = np.nan_to_num(score_columns(scored.prediction[np.ix_(index, asked)], y)[0], nan=0.0)
        for gene_set, size in (("heg", y.sum(axis=0)), ("hvg", y.var(axis=0))):
            best = np.argsort(-size, kind="stable")[:TOP_GENES]
            chosen = {"gene_set": gene_set, "k": str(TOP_GENES), "target": ""}
            rows.append(value_row(place, "pcc_published", float(value[best].mean()), len(best), **chosen))
    if not rows:
        return pd.DataFrame()
    sections = pd.DataFrame(rows).assign(aggregation="section")
    folds = mean_by(sections, ["metric", "target", "gene_set", "k", "cohort", "fold"]).assign(aggregation="fold")
    return pd.concat([sections, folds, _folds(folds)], ignore_index=True)


def _across(prediction: Floats, labels: Floats) -> float:
    return float(score_columns(prediction[:, None], labels[:, None])[0][0])


def profile_rows(scored: Scored) -> pd.DataFrame:
    """Return whether means, variances and co-expression of the genes are kept, per section, patient and cohort."""
    rows = []
    for place, index in scored.sections():
        y = scored.reference["labels"][index]
        keep = np.isfinite(y).all(axis=0) & ~is_constant(y)
        if keep.sum() < 3:
            continue
        x, y = scored.prediction[index][:, keep], y[:, keep]
        numbers = {
            "mean_profile_cc": _across(x.mean(axis=0), y.mean(axis=0)),
            "variance_profile_cc": _across(x.var(axis=0), y.var(axis=0)),
        }
        top = np.argsort(-y.var(axis=0), kind="stable")[:_MOST_GENES]
        pairs = np.triu_indices(len(top), 1)
        # A gene that is predicted as a constant goes with no other.
        own, measured = (np.nan_to_num(pearson_cross(m[:, top], m[:, top])[pairs]) for m in (x, y))
        numbers["gene_gene_cc"] = _across(own, measured)
        rows += [value_row(place, metric, value, int(keep.sum())) for metric, value in numbers.items()]
    return roll_up(pd.DataFrame(rows), types=False) if rows else pd.DataFrame()


def score(scored: Scored) -> pd.DataFrame:
    """Return all rows of one model's predictions of expression."""
    ways = ((bench_rows(scored), BENCH), (published_rows(scored), PUBLISHED), (profile_rows(scored), ""))
    own = [rows.assign(against="labels", protocol=way) for rows, way in ways if len(rows)]
    return assemble([*score_continuous(scored), *own])
