"""Scores of gene expression, put together in our way, in HEST-bench's and in the way of a paper.

==================  ==============================================================================================
metric              aggregation
==================  ==============================================================================================
``cc`` and others   as for any numbers per observation (`histoloom.metrics.continuous`), per gene
``pcc_bench``       HEST-bench's: per gene over all observations of a test fold together -> genes -> folds
``pcc_panel``       ours: per gene of a section -> a gene set chosen on the fold's *training* sections -> sections of
                    a patient -> patients; undefined genes are left out and counted
``pcc_published``   CMRCNet's: per gene of a section -> the set that has the largest sum (heg) or variance (hvg) in the
                    *test section's truth*, an undefined gene as 0 -> sections of a fold -> folds
``pcc_bench_panel`` HEST-bench's aggregation over a set chosen on raw counts of all sections, as its lists were made
``mean_profile_cc``, ``variance_profile_cc``  across genes: their means, and variances, in a section
``gene_gene_cc``    across pairs of genes: is who goes with whom kept?
==================  ==============================================================================================

``gene_set`` (heg, hvg, marker) and ``k`` say which genes; `n` counts those averaged, `n_nan` those undefined or, of
markers, not predicted at all. A gene that does not vary over a fold's training observations was learnt by no model: it
is undefined for all of them, and never the 0 of a constant prediction. HEST-bench puts spots of several sections
together and so rewards knowing a section's level; CMRCNet's way chooses genes by the answer. They are never mixed with
the first. HEST-bench averages an undefined gene into NaN; here it is counted and left out, and a row with any is not
the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from histoloom.metrics.aggregate import mean_by, over_types, roll_up
from histoloom.metrics.continuous import score_continuous
from histoloom.metrics.gene_sets import GeneSets
from histoloom.metrics.rows import assemble, value_row, value_rows
from histoloom.metrics.scored import Scored
from histoloom.stats import Floats, is_constant, mean_defined, pearson_cross, score_columns

BENCH = "gene over the fold>genes>folds"  # HEST-bench's aggregation, as its stamp says
PUBLISHED = "gene of a section>genes chosen on its truth>sections>folds"
PANEL = "gene of a section>genes chosen on training>sections>patients"
_MOST_GENES = 2000


def _folds(rows: pd.DataFrame) -> pd.DataFrame:
    """Average folds with equal weights; `n` counts folds, `n_nan` those without a value."""
    keys = [key for key in ("metric", "target", "gene_set", "k", "cohort") if key in rows]
    return mean_by(rows, keys).assign(aggregation="cohort")


def bench_rows(scored: Scored) -> pd.DataFrame:
    """Return ``pcc_bench`` per gene and over genes, ``pcc_bench_panel`` by gene set, by fold and over folds.

    Flagged sections stay outside.
    """
    labels, plain = scored.reference["labels"], (scored.obs["qc_flag"] == "").to_numpy()
    cohort = "+".join(sorted(scored.obs["cohort"].unique()))
    parts, panels = [], []
    for fold, index in sorted(scored.obs[plain].groupby("fold", sort=True).groups.items()):
        rows = index.to_numpy()
        place = {"fold": str(fold), "cohort": cohort, "patient": "", "sample": "", "qc_flag": "", "aggregation": "fold"}
        asked = np.flatnonzero(np.isfinite(labels[rows]).any(axis=0))
        names = [scored.types[i] for i in asked]
        value, n = score_columns(scored.prediction[np.ix_(rows, asked)], labels[np.ix_(rows, asked)])
        value = np.where(scored.untrained(rows)[asked], np.nan, value)
        parts.append(value_rows(place, names, "pcc_bench", value, n))
        if scored.gene_sets is not None:
            known = dict(zip(names, value, strict=True))
            sets = scored.gene_sets.on_dataset(names)
            panels += [_set_row(place, "pcc_bench_panel", name, k, genes, known) for name, k, genes in sets]
    if not parts:
        return pd.DataFrame()
    genes = pd.concat(parts, ignore_index=True)
    tables = [genes, over_types(genes)]
    if panels:
        tables.append(pd.DataFrame(panels))
    return pd.concat([*tables, *map(_folds, tables)], ignore_index=True)


def _set_row(
    place: Mapping[str, Any], metric: str, name: str, k: int, genes: Sequence[str], known: Mapping[str, float]
) -> dict[str, Any]:
    """Return the mean over a set's defined genes; a marker that is not predicted counts as undefined."""
    values = np.array([known[gene] for gene in genes], np.float64)
    defined = int(np.isfinite(values).sum())
    asked = k if name == "marker" else len(genes)
    row = value_row(place, metric, float(mean_defined(values)), defined, gene_set=name, k=str(k), target="")
    return {**row, "n_nan": asked - defined}


def set_rows(scored: Scored) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return ``pcc_panel`` by section, patient and cohort, and ``pcc_published`` by section, fold and over folds.

    Flagged sections stay outside the second.
    """
    own, published = [], []
    labels, sets = scored.reference["labels"], scored.gene_sets or GeneSets()
    for place, index in scored.sections():
        asked = np.flatnonzero(np.isfinite(labels[index]).all(axis=0))
        names, y = [scored.types[i] for i in asked], labels[np.ix_(index, asked)]
        r = np.where(
            scored.untrained(index)[asked], np.nan, score_columns(scored.prediction[np.ix_(index, asked)], y)[0]
        )
        known = dict(zip(names, r, strict=True))
        if place["fold"] in sets.train:
            chosen = sets.on_train(names, place["fold"])
            own += [_set_row(place, "pcc_panel", name, k, genes, known) for name, k, genes in chosen]
        if not place["qc_flag"]:
            zero = {gene: float(np.nan_to_num(value, nan=0.0)) for gene, value in known.items()}
            chosen = sets.on_truth(names, y)
            published += [_set_row(place, "pcc_published", name, k, genes, zero) for name, k, genes in chosen]
    panel = roll_up(pd.DataFrame(own), types=False) if own else pd.DataFrame()
    if not published:
        return panel, pd.DataFrame()
    sections = pd.DataFrame(published).assign(aggregation="section")
    folds = mean_by(sections, ["metric", "target", "gene_set", "k", "cohort", "fold"]).assign(aggregation="fold")
    return panel, pd.concat([sections, folds, _folds(folds)], ignore_index=True)


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
    panel, published = set_rows(scored)
    ways = ((bench_rows(scored), BENCH), (panel, PANEL), (published, PUBLISHED), (profile_rows(scored), ""))
    own = [rows.assign(against="labels", protocol=way) for rows, way in ways if len(rows)]
    return assemble([*score_continuous(scored), *own])
